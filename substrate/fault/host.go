package fault

import (
	"cmp"
	"context"
	"net"
	"sync"

	"github.com/sockemu/sockemu/substrate"
)

// Ports that the network picks, for dialers and for Listen with port 0, start here and wrap around.
const (
	firstEphemeral = 32768
	lastPort       = 65535
)

// A Host is one machine on a Network, and the substrate as seen from there. It is safe for concurrent use.
type Host struct {
	net      *Network
	name     string
	nextPort int // guarded by net.mu
}

var _ substrate.Substrate = (*Host)(nil)

// Name returns "fault".
func (h *Host) Name() string { return cmp.Or(h.net.cfg.Name, name) }

// Caps says what the Config of the network says.
func (h *Host) Caps() substrate.Caps { return substrate.Caps{Retains: h.net.cfg.Retains} }

// Listen accepts links at address: "host:port" with the name of this host or none; port 0 picks one.
func (h *Host) Listen(ctx context.Context, address string) (substrate.Listener, error) {
	l, err := h.listen(address)
	if err == nil {
		return l, nil
	}
	class := substrate.Config
	if err == net.ErrClosed {
		class = substrate.PathDown
	}
	return nil, &substrate.Error{Op: "listen", Substrate: name, Peer: address, Class: class, Err: err}
}

func (h *Host) listen(address string) (*listener, error) {
	a, err := parseAddr(address)
	if err != nil {
		return nil, err
	}
	if a.Host != "" && a.Host != h.name {
		return nil, ErrNotHere
	}
	a.Host = h.name
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, net.ErrClosed
	}
	if a.Port == 0 {
		a = h.pickPort()
	}
	if n.listeners[a] != nil {
		return nil, ErrInUse
	}
	l := &listener{net: n, addr: a, queue: make(chan *Link, n.cfg.Backlog), done: make(chan struct{})}
	n.listeners[a] = l
	return l, nil
}

// pickPort returns the next address of the host that nobody listens at. Callers hold net.mu.
func (h *Host) pickPort() Addr {
	for range lastPort - firstEphemeral {
		a := Addr{Host: h.name, Port: h.nextPort}
		if h.nextPort++; h.nextPort > lastPort {
			h.nextPort = firstEphemeral
		}
		if h.net.listeners[a] == nil {
			return a
		}
	}
	return Addr{Host: h.name} // tens of thousands of listeners: Listen will say that it is in use
}

// A listener queues links until they are accepted.
type listener struct {
	net   *Network
	addr  Addr
	queue chan *Link
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (substrate.Link, error) {
	if !l.closed() {
		select {
		case link := <-l.queue:
			return link.wrap(), nil
		case <-l.done:
		}
	}
	return nil, &substrate.Error{Op: "accept", Substrate: name, Peer: l.addr.String(), Class: substrate.Config, Err: net.ErrClosed}
}

func (l *listener) Addr() net.Addr { return l.addr }

// Close resets the links that nobody has accepted, as a kernel does.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		if l.net.listeners[l.addr] == l {
			delete(l.net.listeners, l.addr)
		}
		l.net.mu.Unlock()
		close(l.done)
		l.flush()
	})
	return nil
}

func (l *listener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// flush resets the links in the queue of a closed listener.
func (l *listener) flush() {
	for {
		select {
		case link := <-l.queue:
			l.net.Cut(link)
		default:
			return
		}
	}
}

// offer queues link if there is room, and reports whether it did.
func (l *listener) offer(link *Link) bool {
	select {
	case l.queue <- link:
		return true
	default:
		return false
	}
}
