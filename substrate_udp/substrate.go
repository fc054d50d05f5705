package udp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

const name = "udp"

// Options tune the links of a Substrate. The zero value is good.
type Options struct {
	// PathDown is how long nothing may get through, while something is to be sent, until a link breaks; 8 round-trip times at least. 0
	// means 3 s.
	PathDown time.Duration
	// Window is the largest number of bytes that a link receives ahead of its user; it grows up to it from 1 MiB as the user
	// keeps up, and is never more than half of the socket's buffer. 0 means 8 MiB.
	Window int
	// MTU is the largest payload of a datagram, in bytes; 0 means what the path takes.
	MTU int
	// Backlog is the number of links that wait for Accept. 0 means 1024.
	Backlog int
	// Controller makes the congestion control of a link whose full packets have segment bytes. nil means NewCubic.
	Controller func(segment int) Controller
	// NoECN leaves explicit congestion notification (RFC 3168) unused. Without it links use it where the system, the peer and the path
	// let them.
	NoECN bool

	// open takes the place of the kernel's sockets, in tests.
	open func(ctx context.Context, network, address string) (transport, error)
}

// Substrate makes links over UDP. It is safe for concurrent use.
type Substrate struct {
	opts  Options
	epoch time.Time
	count counters

	mu      sync.Mutex
	sockets map[*socket]struct{}
	readers sync.WaitGroup
}

var _ substrate.Substrate = (*Substrate)(nil)

// New returns a Substrate that makes links as opts say.
func New(opts Options) *Substrate {
	if opts.PathDown <= 0 {
		opts.PathDown = defaultDown
	}
	if opts.Window <= 0 {
		opts.Window = defaultWindow
	}
	opts.Window = min(max(opts.Window, minWindow), maxWindow)
	if opts.MTU <= 0 {
		opts.MTU = maxDatagram
	}
	opts.MTU = min(max(opts.MTU, minDatagram), maxDatagram)
	if opts.Backlog <= 0 {
		opts.Backlog = defaultBacklog
	}
	if opts.Controller == nil {
		opts.Controller = NewCubic
	}
	if opts.open == nil {
		opts.open = listenKernel
	}
	return &Substrate{opts: opts, epoch: time.Now(), sockets: make(map[*socket]struct{})}
}

const (
	minWindow      = 64 << 10
	maxWindow      = 1 << 30
	defaultBacklog = 1024
)

// Name returns "udp".
func (s *Substrate) Name() string { return name }

// Caps: links retransmit from the session's own slices.
func (s *Substrate) Caps() substrate.Caps { return substrate.Caps{Retains: true} }

// now is the time since the Substrate was made, in nanoseconds; never 0.
func (s *Substrate) now() int64 { return int64(time.Since(s.epoch)) + 1 }

// Dial opens a link to address, a "host:port". If the host has several addresses they are tried in turn.
func (s *Substrate) Dial(ctx context.Context, address string) (substrate.Link, error) {
	addrs, err := resolve(ctx, address)
	var l *link
	for _, a := range addrs {
		if l, err = s.dialAddr(ctx, a); err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, dialError(ctx, address, err)
}

// Listen opens a socket at address, a "host:port", and accepts links on it; without a host it listens on all addresses, with port 0 the
// system picks one. If a socket of this Substrate is there already, because links of an earlier listener live, it is shared.
func (s *Substrate) Listen(ctx context.Context, address string) (substrate.Listener, error) {
	sock, err := s.listenAt(ctx, address)
	if err != nil {
		return nil, &substrate.Error{Op: "listen", Substrate: name, Peer: address, Class: substrate.Config, Err: substrate.Cause(err)}
	}
	return sock, nil
}

func (s *Substrate) listenAt(ctx context.Context, address string) (*listener, error) {
	addrs, err := resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	for sock := range s.sockets {
		if a := sock.tr.local(); a.Port() == addrs[0].Port() && (a.Addr() == addrs[0].Addr() || addrs[0].Addr() == netip.Addr{}) {
			if ln, ok := sock.listen(); ok {
				s.mu.Unlock()
				return ln, nil
			}
		}
	}
	s.mu.Unlock()
	host := ""
	if addrs[0].Addr().IsValid() {
		host = addrs[0].Addr().String()
	}
	tr, err := s.opts.open(ctx, "udp", net.JoinHostPort(host, fmt.Sprint(addrs[0].Port())))
	if err != nil {
		return nil, err
	}
	sock := s.start(tr)
	ln, _ := sock.listen()
	sock.unhold()
	return ln, nil
}

// start begins to read from tr. The caller holds the socket until it calls unhold.
func (s *Substrate) start(tr transport) *socket {
	sock := newSocket(s, tr)
	sock.holds = 1
	s.mu.Lock()
	s.sockets[sock] = struct{}{}
	s.mu.Unlock()
	s.readers.Go(sock.run)
	return sock
}

// socketFor returns a socket from which to can be dialled: one that isn't bound to an address. The caller must unhold it.
func (s *Substrate) socketFor(ctx context.Context, to netip.AddrPort) (*socket, error) {
	s.mu.Lock()
	for sock := range s.sockets {
		if sock.reaches(to.Addr()) && sock.hold() {
			s.mu.Unlock()
			return sock, nil
		}
	}
	s.mu.Unlock()
	network := "udp6"
	if to.Addr().Is4() {
		network = "udp4"
	}
	tr, err := s.opts.open(ctx, network, ":0")
	if err != nil {
		return nil, err
	}
	return s.start(tr), nil
}

// Close breaks all links, closes all listeners, and waits until nothing of the Substrate runs any more.
func (s *Substrate) Close() error {
	s.mu.Lock()
	var all []*socket
	for sock := range s.sockets {
		all = append(all, sock)
	}
	s.mu.Unlock()
	for _, sock := range all {
		sock.shutdown()
	}
	s.readers.Wait()
	return nil
}

// resolve finds the addresses of a "host:port". A missing host is the zero address.
func resolve(ctx context.Context, address string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, uint16(port))}, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(port))}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return addrs, nil
}

// dialError classifies why a dial failed.
func dialError(ctx context.Context, address string, err error) error {
	e := &substrate.Error{Op: "dial", Substrate: name, Peer: address, Class: substrate.PathDown, Err: substrate.Cause(err)}
	var se *substrate.Error
	switch {
	case errors.As(err, &se):
		e.Class, e.Err = se.Class, se.Err
	case substrate.IsBadAddress(err):
		e.Class = substrate.Config
	}
	if ended := ctx.Err(); ended != nil {
		e.Class = substrate.PathDown
		if !errors.Is(e.Err, ended) {
			e.Err = fmt.Errorf("%w (%w)", ended, e.Err)
		}
	}
	return e
}

// randomID returns 64 random bits, not 0.
func randomID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:])
		if id := binary.LittleEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}
