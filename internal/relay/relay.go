// Package relay is a TCP relay that breaks connections on purpose. Tests and the demo put it between two ends of a connection
// and cut, stall or refuse there, as a bad network, a firewall or a restarting load balancer would.
//
// It is a tool for tests: it listens on the loopback interface, it bounds the number of connections, and Close leaves
// neither connection nor goroutine behind. It knows nothing of what it carries.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxConns bounds the connections carried at once; one more is refused.
	maxConns = 4096
	// bufSize is the memory of one direction of one connection: what the relay may hold when it cuts.
	bufSize = 32 << 10
	// dialTimeout bounds the connection to the target.
	dialTimeout = 10 * time.Second
)

// Stats counts what a Relay has done since it was started.
type Stats struct {
	Accepted uint64 // connections taken from clients, including those refused
	Refused  uint64 // connections reset on arrival: during Refuse, above the bound, or because the target refused
	Cuts     uint64 // established connections cut by CutAll or Outage
	Up       uint64 // bytes carried from clients to the target
	Down     uint64 // bytes carried from the target to clients
	Open     int    // connections carried now
}

// A Relay forwards TCP connections to a target and breaks them when told to. Its methods are safe for concurrent use.
type Relay struct {
	ln     *net.TCPListener
	pick   func(n uint64) string
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	accepted, refused, cuts, up, down atomic.Uint64

	mu          sync.Mutex
	pairs       map[*pair]struct{}
	closed      bool
	refuseUntil time.Time
	gate        chan struct{} // closed while bytes may move
	stalled     bool          // gate is open (not closed)
	unstall     *time.Timer   // ends the stall of an Outage; nil if none is planned
}

// Start listens on a free port of 127.0.0.1 and forwards every connection to target.
func Start(target string) (*Relay, error) {
	return StartFunc(func(uint64) string { return target })
}

// StartFunc is Start with a target chosen for each connection, as a load balancer does: pick gets the number of the
// connection, from 0 on. It may be called from several goroutines at once.
func StartFunc(pick func(n uint64) string) (*Relay, error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	r := &Relay{ln: ln, pick: pick, pairs: make(map[*pair]struct{}), gate: make(chan struct{})}
	close(r.gate)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.wg.Go(r.accept)
	return r, nil
}

// Addr is where clients connect to, as host:port.
func (r *Relay) Addr() string { return r.ln.Addr().String() }

// Stats returns the counters of this moment.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	open := len(r.pairs)
	r.mu.Unlock()
	return Stats{
		Accepted: r.accepted.Load(), Refused: r.refused.Load(), Cuts: r.cuts.Load(),
		Up: r.up.Load(), Down: r.down.Load(), Open: open,
	}
}

// CutAll resets every connection at once, both sides, and drops what the relay and the kernel still held of them. It
// returns how many were established.
func (r *Relay) CutAll() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cutLocked()
}

func (r *Relay) cutLocked() int {
	n := 0
	for p := range r.pairs {
		if p.cut() {
			n++
		}
	}
	r.cuts.Add(uint64(n))
	return n
}

// Refuse resets every connection that arrives during the next d. Those established live on. d = 0 ends an earlier Refuse.
func (r *Relay) Refuse(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuseUntil = time.Now().Add(d)
}

// Stall stops moving bytes in both directions, without closing anything, until Resume. Connections that arrive are
// accepted and stalled too.
func (r *Relay) Stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stallLocked()
}

func (r *Relay) stallLocked() {
	if !r.stalled && !r.closed {
		r.stalled, r.gate = true, make(chan struct{})
	}
}

// Resume ends a stall.
func (r *Relay) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resumeLocked()
}

func (r *Relay) resumeLocked() {
	if r.unstall != nil {
		r.unstall.Stop()
		r.unstall = nil
	}
	if r.stalled {
		r.stalled = false
		close(r.gate)
	}
}

// Outage cuts everything and resets whatever arrives during the next d: a host that is down. It returns what CutAll would.
func (r *Relay) Outage(d time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuseUntil = time.Now().Add(d)
	return r.cutLocked()
}

// Blackhole cuts everything and lets new connections hang during the next d: a network that swallows packets. Those that still
// wait when it ends are carried from then on. It returns what CutAll would.
func (r *Relay) Blackhole(d time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0
	}
	r.resumeLocked() // an earlier black hole's end is not this one's
	r.stallLocked()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.unstall == t {
			r.resumeLocked()
		}
	})
	r.unstall = t
	return r.cutLocked()
}

// Close stops listening, resets every connection and waits for everything to end.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	r.cancel()
	err := r.ln.Close()
	for p := range r.pairs {
		p.cut()
	}
	r.resumeLocked()
	r.mu.Unlock()
	r.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept takes connections until Close.
func (r *Relay) accept() {
	for {
		c, err := r.ln.AcceptTCP()
		if r.ctx.Err() != nil {
			if err == nil {
				reset(c)
			}
			return
		}
		if err != nil {
			// Out of file descriptors, or a client that left early: the next one may do better.
			select {
			case <-time.After(5 * time.Millisecond):
				continue
			case <-r.ctx.Done():
				return
			}
		}
		n := r.accepted.Add(1) - 1
		p := r.admit(c)
		if p == nil {
			r.refused.Add(1)
			reset(c)
			continue
		}
		r.wg.Go(func() {
			defer r.drop(p)
			r.carry(p, n)
		})
	}
}

// admit registers c, or returns nil if it is to be refused.
func (r *Relay) admit(c *net.TCPConn) *pair {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.pairs) >= maxConns || time.Now().Before(r.refuseUntil) {
		return nil
	}
	p := &pair{client: c}
	p.ctx, p.cancel = context.WithCancel(r.ctx)
	r.pairs[p] = struct{}{}
	return p
}

// drop forgets p when it has ended by itself or was cut.
func (r *Relay) drop(p *pair) {
	p.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pairs, p)
}

// carry connects p to its target and moves bytes until both directions have ended.
func (r *Relay) carry(p *pair, n uint64) {
	if !r.pass(p) {
		return
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(p.ctx, "tcp", r.pick(n))
	if err != nil {
		r.refused.Add(1)
		p.cut()
		return
	}
	target := c.(*net.TCPConn)
	if !p.join(target) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.pump(p, target, p.client, &r.up) })
	both.Go(func() { r.pump(p, p.client, target, &r.down) })
	both.Wait()
	p.end()
}

// pump moves bytes from src to dst. The end of src is passed on as a half-close; an error on either side resets both, as a relay that
// can't go on has to.
func (r *Relay) pump(p *pair, dst, src *net.TCPConn, count *atomic.Uint64) {
	buf := make([]byte, bufSize)
	for {
		n, err := src.Read(buf)
		if !r.pass(p) {
			return
		}
		if n > 0 {
			w, werr := dst.Write(buf[:n])
			count.Add(uint64(w))
			if werr != nil {
				p.cut()
				return
			}
		}
		if errors.Is(err, io.EOF) {
			dst.CloseWrite()
			return
		}
		if err != nil {
			p.cut()
			return
		}
	}
}

// pass waits while the relay is stalled. It reports whether p may go on.
func (r *Relay) pass(p *pair) bool {
	for {
		r.mu.Lock()
		gate := r.gate
		r.mu.Unlock()
		select {
		case <-p.ctx.Done():
			return false
		case <-gate:
		}
		r.mu.Lock()
		open := !r.stalled
		r.mu.Unlock()
		if open {
			return p.ctx.Err() == nil
		}
	}
}

// A pair is one client connection and, once it is there, the connection to its target.
type pair struct {
	client *net.TCPConn
	ctx    context.Context // ends when the pair is cut
	cancel context.CancelFunc

	mu     sync.Mutex
	target *net.TCPConn // nil until connected
	over   bool         // cut, or closed in good order
}

// join gives p its target, unless p was cut in the meantime.
func (p *pair) join(target *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		reset(target)
		return false
	}
	p.target = target
	return true
}

// cut resets both sides. It reports whether p was established until now.
func (p *pair) cut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return false
	}
	p.over = true
	p.cancel()
	reset(p.client)
	if p.target == nil {
		return false
	}
	reset(p.target)
	return true
}

// end closes both sides in good order.
func (p *pair) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over = true
		p.client.Close()
		p.target.Close()
	}
}

// reset closes c so that the peer sees a reset, and what was still unsent is lost.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
