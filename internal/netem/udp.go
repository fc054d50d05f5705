package netem

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// UDPConfig says what a Forwarder does.
type UDPConfig struct {
	Listen string     // "HOST:PORT" where clients send to; port 0: a free one
	To     string     // "HOST:PORT" where their datagrams go
	Up     Impairment // from the clients
	Down   Impairment // to them
	Seed   uint64

	Idle    time.Duration // a client that neither sends nor gets anything for so long is forgotten; 0: a minute
	Clients int           // how many there may be at once; others are ignored; 0: 1024
	Rebind  time.Duration // all clients' source ports towards To change so often; 0: never
}

// The defaults of UDPConfig.
const (
	defaultIdle    = time.Minute
	defaultClients = 1024
)

// socketBuffer is asked of the kernel in bytes for each socket; it may give less.
const socketBuffer = 4 << 20

// A Forwarder carries datagrams between clients and one target over an emulated path, as a NAT does: each client has a source port of its
// own towards the target, and what comes back to that goes to the client. All clients share the path's rate and its dice. Its methods
// are safe for concurrent use.
type Forwarder struct {
	cfg      UDPConfig
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	listener *net.UDPConn
	to       *net.UDPAddr
	target   netip.Addr // of it
	up       *line[*client]
	down     *line[netip.AddrPort]
	wg       sync.WaitGroup
	refused  atomic.Uint64

	mu      sync.Mutex
	clients map[netip.AddrPort]*client
	closed  bool
}

// A client is who sends to the forwarder from one address.
type client struct {
	addr netip.AddrPort
	used atomic.Int64 // when it last sent or got something, in nanoseconds since start
	conn atomic.Pointer[net.UDPConn]
}

// ForwardUDP starts a forwarder; Close it when done. ctx bounds the look-up of names, not the forwarder's life.
func ForwardUDP(ctx context.Context, cfg UDPConfig) (*Forwarder, error) {
	if cfg.Idle == 0 {
		cfg.Idle = defaultIdle
	}
	if cfg.Clients == 0 {
		cfg.Clients = defaultClients
	}
	if cfg.Idle < 0 || cfg.Clients < 0 || cfg.Rebind < 0 {
		return nil, errors.New("udp forwarder: idle time, clients and rebind must not be negative")
	}
	if err := (&Link{cfg.Up, cfg.Down}).validate(); err != nil {
		return nil, fmt.Errorf("udp forwarder: %w", err)
	}
	to, err := resolve(ctx, cfg.To)
	if err != nil {
		return nil, fmt.Errorf("udp forwarder: target: %w", err)
	}
	pc, err := new(net.ListenConfig).ListenPacket(ctx, "udp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("udp forwarder: %w", err)
	}
	f := &Forwarder{cfg: cfg, listener: pc.(*net.UDPConn), to: to, target: to.AddrPort().Addr(), clients: make(map[netip.AddrPort]*client)}
	prepare(f.listener)
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	f.up = newLine(cfg.Up, cfg.Seed, bestAlarm(), f.sendUp)
	f.down = newLine(cfg.Down, cfg.Seed+1, bestAlarm(), f.sendDown)
	f.wg.Go(f.readClients)
	f.wg.Go(f.keepHouse)
	return f, nil
}

func resolve(ctx context.Context, address string) (*net.UDPAddr, error) {
	c, err := new(net.Dialer).DialContext(ctx, "udp", address) // sends nothing
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.RemoteAddr().(*net.UDPAddr), nil
}

// prepare lets a burst wait in the kernel while this process is busy, and makes the socket tell codepoints of ECN. Systems that refuse
// keep what they have.
func prepare(c *net.UDPConn) {
	_ = c.SetReadBuffer(socketBuffer)
	_ = c.SetWriteBuffer(socketBuffer)
	raw, err := c.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = sys.ReceiveUDPECN(fd, c.LocalAddr().(*net.UDPAddr).IP.To4() == nil)
		})
	}
}

// controlSize is room for the control messages of one datagram.
const controlSize = 128

// marks are control messages for each codepoint, of IPv4 and of IPv6.
var marks = [2][4][]byte{
	{NotECT: nil, ECT1: mark("0.0.0.0", ECT1), ECT0: mark("0.0.0.0", ECT0), CE: mark("0.0.0.0", CE)},
	{NotECT: nil, ECT1: mark("::", ECT1), ECT0: mark("::", ECT0), CE: mark("::", CE)},
}

func mark(to string, ecn ECN) []byte {
	return sys.AppendUDPECN(nil, netip.MustParseAddr(to), byte(ecn))
}

// markFor is the control message for a datagram to an address.
func markFor(to netip.Addr, ecn ECN) []byte {
	if to.Is6() && !to.Is4In6() {
		return marks[1][ecn&3]
	}
	return marks[0][ecn&3]
}

// Addr is where clients send to.
func (f *Forwarder) Addr() net.Addr { return f.listener.LocalAddr() }

// Stats counts what happened to datagrams from the clients and to them.
func (f *Forwarder) Stats() (up, down Stats) { return f.up.stats(), f.down.stats() }

// Clients is the number of clients now, and that of datagrams ignored since there were too many of them.
func (f *Forwarder) Clients() (now int, refused uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.clients), f.refused.Load()
}

// Set changes what the path does to datagrams that come to it from now on.
func (f *Forwarder) Set(up, down Impairment) error {
	if err := (&Link{up, down}).validate(); err != nil {
		return err
	}
	f.up.set(up)
	f.down.set(down)
	return nil
}

// Rebind gives each client another source port towards the target, as a NAT that was restarted does. What the target sends to the old
// ones vanishes.
func (f *Forwarder) Rebind() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var failed error
	for _, c := range f.clients {
		if err := f.bind(c); err != nil {
			failed = err
		}
	}
	return failed
}

// Close ends the forwarder and waits for its goroutines. What is on the way is dropped. Further calls do nothing.
func (f *Forwarder) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	for _, c := range f.clients {
		c.conn.Load().Close()
	}
	f.mu.Unlock()
	f.cancel()
	err := f.listener.Close()
	f.wg.Wait()
	f.up.close()
	f.down.close()
	return err
}

// readClients puts on the way what clients send.
func (f *Forwarder) readClients() {
	b, ctl := make([]byte, maxDatagram+1), make([]byte, controlSize)
	for {
		n, k, _, from, err := f.listener.ReadMsgUDPAddrPort(b, ctl)
		if f.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for a client that is gone, on systems that tell: one for a datagram sent
		}
		if c := f.clientOf(from); c != nil {
			f.up.send(b[:n], ECN(sys.UDPECN(ctl[:k])), c)
		}
	}
}

// clientOf returns the client with that address, a new one if need be, or nil if there are too many.
func (f *Forwarder) clientOf(addr netip.AddrPort) *client {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.clients[addr]
	if c == nil {
		if f.closed || len(f.clients) >= f.cfg.Clients {
			f.refused.Add(1)
			return nil
		}
		c = &client{addr: addr}
		if err := f.bind(c); err != nil { // out of descriptors or ports
			f.refused.Add(1)
			return nil
		}
		f.clients[addr] = c
	}
	c.touch()
	return c
}

// bind gives c a new port towards the target, and lets go of the old one. f.mu is held.
func (f *Forwarder) bind(c *client) error {
	if f.closed {
		return net.ErrClosed
	}
	conn, err := net.DialUDP("udp", nil, f.to)
	if err != nil {
		return err
	}
	prepare(conn)
	if old := c.conn.Swap(conn); old != nil {
		old.Close()
	}
	f.wg.Go(func() { f.readTarget(c, conn) })
	return nil
}

// readTarget puts on the way back what the target sends to one port.
func (f *Forwarder) readTarget(c *client, conn *net.UDPConn) {
	b, ctl := make([]byte, maxDatagram+1), make([]byte, controlSize)
	for {
		n, k, _, _, err := conn.ReadMsgUDPAddrPort(b, ctl)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // else an ICMP error: one for a datagram sent; the client learns nothing, as behind a bad firewall
			c.touch()
			f.down.send(b[:n], ECN(sys.UDPECN(ctl[:k])), c.addr)
		}
	}
}

// What can't be sent is lost, as datagrams may be.

func (f *Forwarder) sendUp(b []byte, ecn ECN, c *client) {
	_, _, _ = c.conn.Load().WriteMsgUDPAddrPort(b, markFor(f.target, ecn), netip.AddrPort{})
}

func (f *Forwarder) sendDown(b []byte, ecn ECN, to netip.AddrPort) {
	_, _, _ = f.listener.WriteMsgUDPAddrPort(b, markFor(to.Addr(), ecn), to)
}

// keepHouse forgets idle clients and rebinds the others.
func (f *Forwarder) keepHouse() {
	sweep := time.NewTicker(max(f.cfg.Idle/4, time.Millisecond))
	defer sweep.Stop()
	var rebind <-chan time.Time
	if f.cfg.Rebind > 0 {
		t := time.NewTicker(f.cfg.Rebind)
		defer t.Stop()
		rebind = t.C
	}
	for {
		select {
		case <-sweep.C:
			f.forget()
		case <-rebind:
			_ = f.Rebind() // who gets no new port keeps the old one
		case <-f.ctx.Done():
			return
		}
	}
}

func (f *Forwarder) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for addr, c := range f.clients {
		if time.Since(start)-time.Duration(c.used.Load()) > f.cfg.Idle {
			delete(f.clients, addr)
			c.conn.Load().Close()
		}
	}
}

// start is what clients' times count from.
var start = time.Now()

func (c *client) touch() { c.used.Store(int64(time.Since(start))) }
