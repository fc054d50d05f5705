package udp

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/internal/sys"
)

// trouble is what a network does to datagrams. Its probabilities are from 0 to 1.
type trouble struct {
	loss, double, corrupt, swap float64
	delay, jitter               time.Duration
	mtu                         int  // longer datagrams vanish; 0: none do
	splits                      bool // rows of datagrams (outPacket.segment) are taken apart

	codepoint func(netem.ECN) netem.ECN // what becomes of one on the way, or vanishes; nil: nothing
}

// vanishes is what trouble.codepoint says of a packet that doesn't arrive.
const vanishes = netem.ECN(0xff)

// A memory is a network of transports in memory, for bubbles of testing/synctest and without.
type memory struct {
	mu      sync.Mutex
	rng     *rand.Rand
	trouble trouble
	ports   map[netip.AddrPort]*port
	next    uint16
	flying  sync.WaitGroup
	watch   func(b []byte)                 // sees every datagram
	pipes   map[netip.AddrPort]*netem.Pipe // bottlenecks in front of ports: what is sent there meets no trouble but theirs
	host    uint64                         // 0: each port is on a host of its own; else rows of datagrams may be joined
	dark    bool                           // nothing arrives any more
	// translate gives the source that the receiver sees; nil: the true one.
	translate map[netip.AddrPort]netip.AddrPort
}

// translated is the first port that translation gives; what is sent to one of them that leads nowhere vanishes.
const translated = 20000

func newMemory(t testing.TB, seed uint64, tr trouble) *memory {
	m := &memory{
		rng: rand.New(rand.NewPCG(seed, 1)), trouble: tr, ports: make(map[netip.AddrPort]*port), next: 1000,
		translate: make(map[netip.AddrPort]netip.AddrPort),
	}
	t.Cleanup(m.flying.Wait)
	return m
}

// A port is one end of a memory.
type port struct {
	net    *memory
	addr   netip.AddrPort
	in     chan memDatagram
	done   chan struct{}
	kicked chan struct{}
	once   sync.Once
	errors []memError   // guarded by net.mu
	held   *memDatagram // of who reads: it came, but could not be joined to others
}

type memDatagram struct {
	b       []byte
	from    netip.AddrPort
	ecn     netem.ECN
	segment int // of a row that is whole
}

type memError struct {
	about []byte
	err   error
}

var memHost = netip.AddrFrom4([4]byte{10, 0, 0, 1})

func (m *memory) open(_ context.Context, _, address string) (transport, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var n uint16
	fmt.Sscan(service, &n)
	if n == 0 {
		m.next++
		n = m.next
	}
	p := &port{net: m, addr: netip.AddrPortFrom(memHost, n), in: make(chan memDatagram, 4096), done: make(chan struct{}), kicked: make(chan struct{}, 1)}
	if m.ports[p.addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	m.ports[p.addr] = p
	return p, nil
}

func (p *port) read(msgs []sys.UDPMessage, _ func()) (int, error) {
	next := p.in
	if p.held != nil {
		next = make(chan memDatagram, 1)
		next <- *p.held
		p.held = nil
	}
	select {
	case d := <-next:
		if d.b == nil {
			return 0, syscall.ECONNREFUSED
		}
		m := &msgs[0]
		m.N = copy(m.Head, d.b)
		m.N += copy(m.Body, d.b[m.N:])
		m.N += copy(m.Buf, d.b[m.N:])
		m.Segment, m.From, m.Truncated, m.ECN = m.N, d.from, m.N < len(d.b), byte(d.ecn)
		switch {
		case d.segment > 0:
			m.Segment = d.segment
		case p.net.host != 0:
			p.join(m, d)
		}
		return 1, nil
	case <-p.kicked:
		return 0, os.ErrDeadlineExceeded
	case <-p.done:
		return 0, net.ErrClosed
	}
}

// join adds what else has come to the datagram first in m, as the kernel does.
func (p *port) join(m *sys.UDPMessage, first memDatagram) {
	for joined := 1; joined < mostJoined && m.N%len(first.b) == 0 && m.N+len(first.b) <= len(m.Buf) && len(m.Body) == 0; {
		select {
		case d := <-p.in:
			if d.b == nil || d.from != first.from || d.ecn != first.ecn || len(d.b) > len(first.b) || d.segment > 0 {
				p.held = &d
				return
			}
			m.N += copy(m.Buf[m.N:], d.b)
			joined++
		default:
			return
		}
	}
}

func (p *port) poll([]sys.UDPMessage) (int, error) { return 0, errNothing }

func (p *port) kick() { p.kicked <- struct{}{} }

func (p *port) unkick() {
	select {
	case <-p.kicked:
	default:
	}
}

func (p *port) write(to netip.AddrPort, b *batch) (int, error) {
	for i, o := range b.packets {
		p.sendRow(to, slices.Concat(b.vec[b.start(i):o.end]...), o.segment, netem.ECN(b.ecn))
	}
	return len(b.packets), nil
}

func (p *port) send(to netip.AddrPort, b []byte) { p.sendRow(to, b, 0, netem.NotECT) }

// sendRow sends a datagram, or a row of them if segment isn't 0.
func (p *port) sendRow(to netip.AddrPort, b []byte, segment int, ecn netem.ECN) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if segment == 0 || !p.net.trouble.splits {
		p.sendOne(to, b, segment, ecn)
		return
	}
	for part := range slices.Chunk(b, segment) {
		p.sendOne(to, part, 0, ecn)
	}
}

func (p *port) sendOne(to netip.AddrPort, b []byte, segment int, ecn netem.ECN) {
	m := p.net
	if m.watch != nil {
		m.watch(b)
	}
	tr := m.trouble
	from := p.addr
	if a, ok := m.translate[from]; ok {
		from = a
	}
	for real, seen := range m.translate {
		if seen == to {
			to = real
			break
		} else if real == to {
			return // the old address leads nowhere
		}
	}
	if bottleneck := m.pipes[to]; bottleneck != nil {
		for _, d := range bottleneck.AdmitECN(time.Now(), len(b), ecn) {
			m.later(time.Until(d.At), memParcel{p, from, to, slices.Clone(b), d.ECN, segment})
		}
		return
	}
	if m.dark || m.rng.Float64() < tr.loss || tr.mtu > 0 && cmp.Or(segment, len(b)) > tr.mtu {
		return
	}
	copies := 1
	if m.rng.Float64() < tr.double {
		copies = 2
	}
	for range copies {
		c := slices.Clone(b)
		if m.rng.Float64() < tr.corrupt {
			c[m.rng.IntN(len(c))] ^= byte(1 << m.rng.IntN(8))
		}
		after := tr.delay
		if tr.jitter > 0 {
			after += time.Duration(m.rng.Int64N(int64(tr.jitter)))
		}
		if m.rng.Float64() < tr.swap {
			after += time.Millisecond
		}
		arrives := ecn
		if tr.codepoint != nil {
			if arrives = tr.codepoint(ecn); arrives == vanishes {
				continue
			}
		}
		m.later(after, memParcel{p, from, to, c, arrives, segment})
	}
}

// A memParcel is a datagram on its way.
type memParcel struct {
	by       *port
	from, to netip.AddrPort
	b        []byte
	ecn      netem.ECN
	segment  int
}

// later lets it arrive after some time. Under mu.
func (m *memory) later(after time.Duration, p memParcel) {
	if after <= 0 {
		m.arrive(p)
		return
	}
	m.flying.Add(1)
	time.AfterFunc(after, func() {
		defer m.flying.Done()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.arrive(p)
	})
}

func (m *memory) arrive(p memParcel) {
	d := m.ports[p.to]
	if d == nil {
		if p.to.Addr() == memHost && p.to.Port() < translated {
			p.by.errors = append(p.by.errors, memError{p.b, syscall.ECONNREFUSED})
			d, p.b = p.by, nil // wake the sender's reader
		} else {
			return
		}
	}
	select {
	case d.in <- memDatagram{p.b, p.from, p.ecn, p.segment}:
	default: // the buffer is full
	}
}

func (p *port) size(netip.AddrPort) (int, int) { return 1200, 1472 }

func (p *port) buffer() int { return 2 << 20 }

func (p *port) ecn() bool { return true }

func (p *port) rows() bool { return p.net.host != 0 }

func (p *port) host() uint64 { return p.net.host }

func (p *port) local() netip.AddrPort { return p.addr }

func (p *port) source(netip.AddrPort) netip.AddrPort { return p.addr }

func (p *port) reported(buf []byte) ([]byte, error, bool) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if len(p.errors) == 0 {
		return nil, nil, false
	}
	e := p.errors[0]
	p.errors = p.errors[1:]
	return buf[:copy(buf, e.about)], e.err, true
}

func (p *port) close() error {
	p.once.Do(func() {
		p.net.mu.Lock()
		delete(p.net.ports, p.addr)
		p.net.mu.Unlock()
		close(p.done)
	})
	return nil
}
