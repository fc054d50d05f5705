package netem

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// A Link is what joins an endpoint to the rest of the world.
type Link struct {
	Up   Impairment // from the endpoint
	Down Impairment // to it
}

// A Network carries datagrams between endpoints in memory. A datagram goes up the sender's link, then down the receiver's; where
// no endpoint has its address it vanishes.
//
// All waits are for channels and timers, so a Network that is made in a bubble of testing/synctest lives in virtual time. Close it,
// or its endpoints' goroutines stay. Its methods and those of its endpoints are safe for concurrent use.
type Network struct {
	mu     sync.Mutex
	seed   uint64
	conns  map[netip.AddrPort]*Conn
	open   map[*Conn]struct{}
	nobody uint64
	closed bool
}

// NewNetwork returns an empty network. Endpoints that are made in the same order with the same seed have the same mishaps.
func NewNetwork(seed uint64) *Network {
	return &Network{seed: seed, conns: make(map[netip.AddrPort]*Conn), open: make(map[*Conn]struct{})}
}

// Pair returns a network of two endpoints: what a sends to b suffers up, what b sends to a suffers down. Close the network when
// done; it closes them. Pair panics if an impairment isn't valid.
func Pair(seed uint64, up, down Impairment) (n *Network, a, b *Conn) {
	n = NewNetwork(seed)
	a, err := n.Listen("10.0.0.1:1000", Link{Up: up, Down: down})
	if err == nil {
		b, err = n.Listen("10.0.0.2:2000", Link{})
	}
	if err != nil {
		panic("netem.Pair: " + err.Error())
	}
	return n, a, b
}

// Listen makes an endpoint with an address of the form "10.0.0.1:4000".
func (n *Network) Listen(address string, link Link) (*Conn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := link.validate(); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, net.ErrClosed
	}
	if n.conns[addr] != nil {
		return nil, fmt.Errorf("listen: %s is taken", addr)
	}
	c := newConn(n, addr, link, n.seed)
	n.seed += 2
	n.conns[addr], n.open[c] = c, struct{}{}
	return c, nil
}

// Nobody is the number of datagrams that vanished since no endpoint had their address.
func (n *Network) Nobody() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nobody
}

// Close closes all endpoints and waits for their goroutines.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	var all []*Conn
	for c := range n.open {
		all = append(all, c)
	}
	n.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
	return nil
}

// route takes a datagram that has come up from's link.
func (n *Network) route(b []byte, ecn ECN, from *Conn, to netip.AddrPort) {
	n.mu.Lock()
	source, target := from.addr, n.conns[to]
	if target == nil {
		n.nobody++
	}
	n.mu.Unlock()
	if target != nil {
		target.down.send(b, ecn, source)
	}
}

// rebind gives c another address.
func (n *Network) rebind(c *Conn, addr netip.AddrPort) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, open := n.open[c]; !open {
		return net.ErrClosed
	}
	if other := n.conns[addr]; other != nil && other != c {
		return fmt.Errorf("rebind: %s is taken", addr)
	}
	delete(n.conns, c.addr)
	c.addr = addr
	n.conns[addr] = c
	return nil
}

// remove takes c out and reports whether it was in.
func (n *Network) remove(c *Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, open := n.open[c]; !open {
		return false
	}
	delete(n.open, c)
	delete(n.conns, c.addr)
	return true
}

func (n *Network) addrOf(c *Conn) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return c.addr
}

func (l *Link) validate() error {
	if err := l.Up.Validate(); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	if err := l.Down.Validate(); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	return nil
}
