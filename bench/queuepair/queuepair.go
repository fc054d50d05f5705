// Package queuepair is what a pair of RDMA queue pairs can do by itself, for `sockemu bench`: a connection has one of its own, segments of 16
// KiB, and credits for half of the receiver's slots at a time; no sessions, no endpoints, no sharing. What sessions over substrate_verbs deliver of it is
// their fraction.
//
// A connection is used by one goroutine at a time, as the workloads of package bench do.
package queuepair

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/rdma"
	"github.com/sockemu/sockemu/activemsg/verbs/libibverbs"
	"github.com/sockemu/sockemu/internal/inventory"
)

// window is how many segments may be under way; half of them are acknowledged at a time.
const window = 128

// localLen is the length of what two ends tell each other over TCP.
const localLen = 40

// adapters are open as long as the process runs.
var adapters = struct {
	sync.Mutex
	open map[netip.Addr]*rdma.Adapter
}{open: map[netip.Addr]*rdma.Adapter{}}

func adapter(ip netip.Addr) (*rdma.Adapter, error) {
	adapters.Lock()
	defer adapters.Unlock()
	if a := adapters.open[ip]; a != nil {
		return a, nil
	}
	m, err := inventory.MapLocal(ip)
	if err != nil {
		return nil, err
	}
	d, err := libibverbs.New().Open(m.Device)
	if err != nil {
		return nil, err
	}
	a, err := rdma.Open(d, rdma.Config{Port: m.Port, GIDIndex: &m.GIDIndex})
	if err == nil {
		adapters.open[ip] = a
	}
	return a, err
}

// Dial connects to the address of a Listener.
func Dial(ctx context.Context, network, address string) (*Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return join(ctx, c)
}

// A Listener accepts connections.
type Listener struct{ net.Listener }

// Listen listens at address, where queue pairs are agreed on.
func Listen(ctx context.Context, network, address string) (*Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// joinTime bounds the set-up of a connection.
const joinTime = 20 * time.Second

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), joinTime)
	defer cancel()
	conn, err := join(ctx, c)
	if err != nil {
		return nil, err // not conn: a nil *Conn in a net.Conn isn't nil
	}
	return conn, nil
}

// join makes a queue pair between the two ends of a TCP connection, which is closed then.
func join(ctx context.Context, tcp net.Conn) (*Conn, error) {
	defer tcp.Close()
	defer context.AfterFunc(ctx, func() { tcp.Close() })()
	at, err := netip.ParseAddrPort(tcp.LocalAddr().String())
	if err != nil {
		return nil, err
	}
	a, err := adapter(at.Addr().Unmap())
	if err != nil {
		return nil, err
	}
	mine, err := a.Prepare(rdma.ConnConfig{
		Payload: 16 << 10,
		Timeout: 18, // rxe repeats messages wrongly: substrate_verbs
		Local:   at.Addr().Unmap(), Await: tcp.LocalAddr().String() > tcp.RemoteAddr().String(),
	})
	if err != nil {
		return nil, err
	}
	theirs, err := swap(tcp, mine.Local())
	if err != nil {
		mine.Close()
		return nil, err
	}
	carrier, err := mine.Connect(theirs)
	if err != nil {
		return nil, err
	}
	if _, err := swap(tcp, make([]byte, localLen)); err != nil { // both have connected
		carrier.Close()
		return nil, err
	}
	return &Conn{carrier: carrier, local: tcp.LocalAddr(), remote: tcp.RemoteAddr()}, nil
}

func swap(c net.Conn, b []byte) ([]byte, error) {
	if len(b) != localLen {
		return nil, fmt.Errorf("%d bytes to tell, not %d", len(b), localLen)
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	got := make([]byte, localLen)
	_, err := io.ReadFull(c, got)
	return got, err
}

// Conn is a connection over a queue pair of its own.
type Conn struct {
	carrier       *rdma.Carrier
	local, remote net.Addr

	head        [activemsg.HeaderLen]byte // the first byte: 1 for a credit
	vec         [1][]byte
	sent, acked int
	batch       [16]activemsg.Segment
	queue       []activemsg.Segment // received and not read
	skip        int                 // of the first
	untold      int                 // segments read that the peer doesn't know of
}

func (c *Conn) receive() error {
	n, err := c.carrier.Recv(c.batch[:])
	for _, s := range c.batch[:n] {
		if s.Head[0] == 1 {
			c.acked += window / 2
			c.carrier.Done(&s)
			continue
		}
		c.queue = append(c.queue, s)
	}
	return err
}

func (c *Conn) Read(p []byte) (n int, err error) {
	for len(c.queue) == 0 {
		if err := c.receive(); err != nil {
			return 0, io.EOF
		}
	}
	for n < len(p) && len(c.queue) > 0 {
		s := &c.queue[0]
		k := copy(p[n:], s.Payload[c.skip:])
		n += k
		if c.skip += k; c.skip < len(s.Payload) {
			break
		}
		c.carrier.Done(s)
		c.skip = 0
		c.queue = c.queue[:copy(c.queue, c.queue[1:])]
		if c.untold++; c.untold == window/2 {
			c.untold = 0
			c.head[0] = 1
			if err := c.carrier.Send(&c.head, nil); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (c *Conn) Write(p []byte) (n int, err error) {
	for n < len(p) {
		for c.sent-c.acked >= window {
			if err := c.receive(); err != nil {
				return n, err
			}
		}
		k := min(len(p)-n, c.carrier.Limits().Payload)
		c.head[0] = 0
		c.vec[0] = p[n : n+k]
		if err := c.carrier.Send(&c.head, c.vec[:]); err != nil {
			return n, err
		}
		c.sent++
		n += k
	}
	return n, nil
}

// Close ends the connection, also calls that wait.
func (c *Conn) Close() error { return c.carrier.Close() }

// LocalAddr and RemoteAddr are those of the TCP connection on which the queue pair was agreed on.
func (c *Conn) LocalAddr() net.Addr  { return c.local }
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline does nothing: a benchmark ends calls that hang by Close.
func (c *Conn) SetDeadline(time.Time) error      { return nil }
func (c *Conn) SetReadDeadline(time.Time) error  { return nil }
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }
