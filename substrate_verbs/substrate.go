package verbs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

const name = "verbs"

// Options tune the links of a Substrate. The zero value is good.
type Options struct {
	// Fabric makes the queue pairs. nil is that of the machine.
	Fabric Fabric
	// Death is how long nothing may be heard from another process until its links break. 0 is 700 ms.
	Death time.Duration
	// Idle is how long a queue pair without links stays. 0 is 10 s.
	Idle time.Duration
	// Memory bounds what links receive ahead of their users beyond their first window, all together. 0 is 256 MiB.
	Memory int64

	firstWindow, lastWindow uint64
	closeWait               time.Duration
}

// Windows of links grow from the first to the last as their users keep up.
const (
	defaultDeath  = 700 * time.Millisecond
	defaultIdle   = 10 * time.Second
	defaultMemory = 256 << 20
	closeWait     = 2 * time.Second // for devices that don't let go of queue pairs
	firstWindow   = 128 << 10
	lastWindow    = 1 << 20
)

// Substrate makes links over RDMA. It is safe for concurrent use.
type Substrate struct {
	opts     Options
	fabric   Fabric
	instance instance
	store    store
	ahead    atomic.Int64 // bytes of windows beyond the first

	mu        sync.Mutex
	closed    bool
	listeners map[uint64]*listener // by token
	routes    map[string]*route    // by address
	peers     map[*peer]struct{}
	pairs     map[pair]*peer
	accepted  int // peers that were not dialled, and those that may become it
	work      sync.WaitGroup
}

// A pair names a queue pair by where it leads. Two processes that have several devices may have several.
type pair struct {
	there         instance
	local, remote netip.Addr
}

var _ substrate.Substrate = (*Substrate)(nil)

// New returns a Substrate that makes links as opts say.
func New(opts Options) *Substrate {
	if opts.Fabric == nil {
		opts.Fabric = Devices()
	}
	if opts.Death <= 0 {
		opts.Death = defaultDeath
	}
	if opts.Idle <= 0 {
		opts.Idle = defaultIdle
	}
	if opts.Memory <= 0 {
		opts.Memory = defaultMemory
	}
	if opts.firstWindow == 0 {
		opts.firstWindow, opts.lastWindow = firstWindow, lastWindow
	}
	if opts.closeWait == 0 {
		opts.closeWait = closeWait
	}
	if j, ok := opts.Fabric.(joiner); ok {
		j.Join()
	}
	return &Substrate{
		opts: opts, fabric: opts.Fabric, instance: newInstance(),
		listeners: make(map[uint64]*listener), routes: make(map[string]*route), peers: make(map[*peer]struct{}), pairs: make(map[pair]*peer),
	}
}

// Name returns "verbs".
func (s *Substrate) Name() string { return name }

// Caps says nothing special: links keep what they took by themselves.
func (s *Substrate) Caps() substrate.Caps { return substrate.Caps{} }

// Check returns nil if there is an RDMA device here, else why there is none, in words.
func (s *Substrate) Check() error { return s.fabric.Check() }

// Listen opens the rendezvous at address, a "host:port". Where there is no RDMA device it fails, with a reason that wraps
// errors.ErrUnsupported.
func (s *Substrate) Listen(ctx context.Context, address string) (substrate.Listener, error) {
	fail := func(err error) (substrate.Listener, error) {
		return nil, newError("listen", address, substrate.Config, err)
	}
	if err := checkAddress(address); err != nil {
		return fail(err)
	}
	if err := s.fabric.Check(); err != nil {
		return fail(err)
	}
	var lc net.ListenConfig
	sock, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fail(substrate.Cause(err))
	}
	l, ok := s.newListener(sock)
	if !ok {
		sock.Close()
		return fail(net.ErrClosed)
	}
	return l, nil
}

// Close breaks all links, closes all listeners, and waits until nothing of the Substrate runs any more. But it doesn't wait long for a device that keeps
// queue pairs.
func (s *Substrate) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	var listeners []*listener
	for _, l := range s.listeners {
		listeners = append(listeners, l)
	}
	var peers []*peer
	for p := range s.peers {
		peers = append(peers, p)
	}
	for _, r := range s.routes {
		r.cancel()
	}
	s.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	for _, p := range peers {
		p.fail(nil)
	}
	over := make(chan struct{})
	go func() { s.work.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(s.opts.closeWait):
	}
	if j, ok := s.fabric.(joiner); ok && !was {
		j.Leave()
	}
	return nil
}

// A joiner is a Fabric that wants to know how many use it.
type joiner interface {
	Join()
	Leave()
}

// enlist runs a peer. It reports false if the Substrate is closed.
func (s *Substrate) enlist(p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.peers[p] = struct{}{}
	s.work.Go(p.run)
	return true
}

// register makes a peer that was verified known to those who look for a way to its process.
func (s *Substrate) register(p *peer) {
	p.mu.Lock()
	p.rest()
	p.mu.Unlock()
	if p.there == s.instance && !p.dialer {
		return // the other end of a pair of our own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.peers[p]; !ok {
		return // it has ended meanwhile
	}
	p.key = pair{p.there, addr(p.local.String()).ip(), addr(p.remote.String()).ip()}
	if old := s.pairs[p.key]; old == nil || old.ended() {
		s.pairs[p.key] = p
	}
}

// known returns the peer that a rendezvous would lead to, if there is a queue pair already.
func (s *Substrate) known(there instance, conn net.Conn) *peer {
	local, remote := addrPair(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pairs[pair{there, local.ip(), remote.ip()}]
	if p == nil || p.ended() {
		return nil
	}
	return p
}

// delist forgets a peer.
func (s *Substrate) delist(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
	if s.pairs[p.key] == p {
		delete(s.pairs, p.key)
	}
	if !p.dialer {
		s.accepted--
	}
	for a, r := range s.routes {
		if r.p == p {
			delete(s.routes, a)
		}
	}
}

func (s *Substrate) listener(token uint64) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listeners[token]
}

// more asks for n bytes of windows beyond the first, for one that has n.
func (s *Substrate) more(n uint64) bool {
	if 2*n > s.opts.lastWindow {
		return false
	}
	if s.ahead.Add(int64(n)) > s.opts.Memory {
		s.ahead.Add(-int64(n))
		return false
	}
	return true
}

func (s *Substrate) less(n uint64) { s.ahead.Add(-int64(n)) }

func newError(op, peer string, class substrate.Class, err error) *substrate.Error {
	return &substrate.Error{Op: op, Substrate: name, Peer: peer, Class: class, Err: err}
}

// newToken returns 64 random bits.
func newToken() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}
