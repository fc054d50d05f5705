package netem

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxDatagram is the largest payload that UDP over IPv4 carries.
const maxDatagram = 65507

// receiveBuffer is the number of datagrams that wait for ReadFrom; what comes beyond is dropped, as a socket does.
const receiveBuffer = 4096

// A Conn is an endpoint of a Network. It is a net.PacketConn, and has the two methods of *net.UDPConn that don't allocate for
// addresses. Its net.Addrs are *net.UDPAddr.
type Conn struct {
	network  *Network
	addr     netip.AddrPort // guarded by network.mu
	up       *line[netip.AddrPort]
	down     *line[netip.AddrPort]
	in       chan datagram
	unread   atomic.Uint64
	closed   chan struct{}
	deadline deadline
}

var _ net.PacketConn = (*Conn)(nil)

type datagram struct {
	b    []byte
	from netip.AddrPort
}

func newConn(n *Network, addr netip.AddrPort, link Link, seed uint64) *Conn {
	c := &Conn{network: n, addr: addr, in: make(chan datagram, receiveBuffer), closed: make(chan struct{})}
	c.deadline.init()
	c.up = newLine(link.Up, seed, newGoAlarm(), func(b []byte, ecn ECN, to netip.AddrPort) { n.route(b, ecn, c, to) })
	c.down = newLine(link.Down, seed+1, newGoAlarm(), c.receive)
	return c
}

// receive is given what has come down the link.
func (c *Conn) receive(b []byte, _ ECN, from netip.AddrPort) {
	select {
	case c.in <- datagram{slices.Clone(b), from}:
	default:
		c.unread.Add(1)
	}
}

// ReadFromUDPAddrPort waits for a datagram and copies it into p, as much as fits; the rest of it is lost. Its errors are
// *net.OpError that wrap net.ErrClosed or os.ErrDeadlineExceeded.
func (c *Conn) ReadFromUDPAddrPort(p []byte) (int, netip.AddrPort, error) {
	expired := c.deadline.wait()
	select { // what has arrived doesn't win over the end, nor over a deadline that has passed
	case <-c.closed:
		return 0, netip.AddrPort{}, c.opError("read", nil, net.ErrClosed)
	case <-expired:
		return 0, netip.AddrPort{}, c.opError("read", nil, os.ErrDeadlineExceeded)
	default:
	}
	select {
	case d := <-c.in:
		return copy(p, d.b), d.from, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, c.opError("read", nil, net.ErrClosed)
	case <-expired:
		return 0, netip.AddrPort{}, c.opError("read", nil, os.ErrDeadlineExceeded)
	}
}

// WriteToUDPAddrPort sends a datagram. It never blocks, and errors only if c is closed or the datagram is larger than UDP carries.
func (c *Conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.closed:
		return 0, c.opError("write", net.UDPAddrFromAddrPort(to), net.ErrClosed)
	default:
	}
	if len(b) > maxDatagram {
		return 0, c.opError("write", net.UDPAddrFromAddrPort(to), fmt.Errorf("%d bytes: message too long", len(b)))
	}
	c.up.send(b, NotECT, to) // a net.PacketConn has no codepoints
	return len(b), nil
}

// ReadFrom is ReadFromUDPAddrPort for net.PacketConn.
func (c *Conn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(p)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo is WriteToUDPAddrPort for net.PacketConn. It takes any address whose String is IP:PORT.
func (c *Conn) WriteTo(b []byte, to net.Addr) (int, error) {
	if u, ok := to.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return c.WriteToUDPAddrPort(b, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
	}
	ap, err := netip.ParseAddrPort(to.String())
	if err != nil {
		return 0, c.opError("write", to, err)
	}
	return c.WriteToUDPAddrPort(b, ap)
}

// AddrPort is the address under which others see and reach the endpoint.
func (c *Conn) AddrPort() netip.AddrPort { return c.network.addrOf(c) }

// LocalAddr is AddrPort as a *net.UDPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.AddrPort()) }

// Rebind gives the endpoint another address, as a NAT does that forgot it, or a host that moved to another network: what is still on
// its way up comes from the new one, what is sent to the old one vanishes.
func (c *Conn) Rebind(address string) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("rebind: %w", err)
	}
	return c.network.rebind(c, addr)
}

// SetLink changes what the link does to datagrams that come to it from now on.
func (c *Conn) SetLink(link Link) error {
	if err := link.validate(); err != nil {
		return err
	}
	c.up.set(link.Up)
	c.down.set(link.Down)
	return nil
}

// Stats counts what happened on both directions of the link.
func (c *Conn) Stats() (up, down Stats) { return c.up.stats(), c.down.stats() }

// Unread is the number of datagrams that were dropped since too many waited for ReadFrom.
func (c *Conn) Unread() uint64 { return c.unread.Load() }

// SetDeadline is SetReadDeadline: writes don't wait.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline bounds present and future reads; the zero time means none.
func (c *Conn) SetReadDeadline(t time.Time) error {
	select {
	case <-c.closed:
		return c.opError("set", nil, net.ErrClosed)
	default:
		c.deadline.set(t)
		return nil
	}
}

// SetWriteDeadline does nothing: writes don't wait.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// Close ends the endpoint: its address is free, what is on its link is dropped, reads return. Its goroutines have ended when it
// returns. Further calls do nothing.
func (c *Conn) Close() error {
	if !c.network.remove(c) {
		return nil
	}
	close(c.closed)
	c.deadline.set(time.Time{})
	c.up.close()
	c.down.close()
	return nil
}

func (c *Conn) opError(op string, to net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "netem", Source: c.LocalAddr(), Addr: to, Err: err}
}

// A deadline closes a channel when its time comes.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{}
}

func (d *deadline) init() { d.expired = make(chan struct{}) }

// wait returns the channel that the present deadline, or one set while somebody waits, closes.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // the timer has fired: its close is done, or about to be
	}
	d.timer = nil
	select {
	case <-d.expired:
		d.expired = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	expired := d.expired
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(expired) })
		return
	}
	close(expired)
}
