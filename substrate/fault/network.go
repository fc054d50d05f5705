package fault

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

const name = "fault"

// The causes that errors of this package wrap, beside net.ErrClosed and those of contexts.
var (
	ErrReset   = errors.New("connection reset")                    // cut, by a fault or by the peer
	ErrEnded   = errors.New("the peer has closed the connection")  // Send to a peer that has closed
	ErrRefused = errors.New("connection refused")                  // nobody listens there, or Refuse
	ErrNoHost  = errors.New("no such host")                        // Network.Host was never called for it
	ErrInUse   = errors.New("address already in use")              // Listen twice
	ErrNotHere = errors.New("the address belongs to another host") // Listen
)

// Config is what a Network is made from. The zero value is good.
type Config struct {
	// Name is what its substrate is called; default "fault".
	Name string
	// Seed decides everything that happens by chance.
	Seed uint64
	// Buffer is how many bytes one direction of a link holds between Send and Recv, like a socket buffer; default 64 KiB.
	Buffer int
	// Backlog is how many links wait for Accept; a dial beyond it hangs. Default 128.
	Backlog int
	// Retains makes links that keep the slices given to Send until Release, as UDP and verbs do (substrate.Caps). They read from
	// them when the peer receives: whoever changes one too early corrupts the stream.
	Retains bool
	// Keeps makes links that keep what their peer has not received, as shared memory does (substrate.Keeper).
	Keeps bool
	// Gather makes them gatherers of writes up to so many bytes (substrate.Gatherer).
	Gather int
	// Borrow makes those that retain borrowers of writes from so many bytes on (substrate.Borrower).
	Borrow int
	// HardClose makes Close reset the link if bytes have arrived that were never received, as kernel TCP does. Else Close is
	// always orderly.
	HardClose bool
	// ReplayBytes is how many bytes of the dialer's stream a duplicate carries at most (see DuplicateDials); default 4 KiB.
	ReplayBytes int
	// ReplayDelay bounds how much later duplicates and late dials arrive, and again how long after that they end; default 200 ms.
	ReplayDelay time.Duration
}

// A Network joins hosts by links that break on demand. Its methods are safe for concurrent use.
type Network struct {
	cfg   Config
	done  chan struct{} // closed by Close
	stats counters

	// mu is the innermost lock: a conn's may be held when it is taken, never the other way round.
	mu        sync.Mutex
	closed    bool
	changed   chan struct{} // closed and replaced when a rule changes: dials that hang look again
	hosts     map[string]*Host
	listeners map[Addr]*listener
	conns     map[*conn]struct{} // those that aren't reset and not closed at both ends
	dials     map[hosts]uint64   // how often each pair was dialled, to seed the links
	all       [2]rule            // by direction
	pairs     map[hosts]rule     // an empty name stands for any host
	refused   map[string]bool
	duplicate float64
	late      float64
	route     func(from, to string) string
	onLink    func(s Scope, from, to string)
}

// hosts is a direction between two hosts.
type hosts struct{ from, to string }

// New returns a Network without hosts. Close frees what it holds.
func New(cfg Config) *Network {
	setDefault(&cfg.Buffer, 64<<10)
	setDefault(&cfg.Backlog, 128)
	setDefault(&cfg.ReplayBytes, 4<<10)
	setDefault(&cfg.ReplayDelay, 200*time.Millisecond)
	return &Network{
		cfg:       cfg,
		done:      make(chan struct{}),
		changed:   make(chan struct{}),
		hosts:     map[string]*Host{},
		listeners: map[Addr]*listener{},
		conns:     map[*conn]struct{}{},
		dials:     map[hosts]uint64{},
		pairs:     map[hosts]rule{},
		refused:   map[string]bool{},
	}
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Host returns the host called name, and makes it if it is new. What it returns is the substrate as that host sees it.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &Host{net: n, name: name, nextPort: firstEphemeral}
		n.hosts[name] = h
	}
	return h
}

// CutAll resets every link now: both ends see it. See Scope.Cut.
func (n *Network) CutAll() { n.All().Cut() }

// Cut resets the link that l is an end of. See Scope.Cut.
func (n *Network) Cut(l substrate.Link) { n.On(l).Cut() }

// Partition separates the hosts a and b until Heal: dials between them hang, links stall. It is the same as
// Between(a, b).Stall(Both, true); an empty name stands for any host.
func (n *Network) Partition(a, b string) { n.Between(a, b).Stall(Both, true) }

// Heal ends a Partition: what was stalled goes on.
func (n *Network) Heal(a, b string) { n.Between(a, b).Stall(Both, false) }

// Refuse makes host answer every dial with Refused although somebody may listen there, until it is called with false.
func (n *Network) Refuse(host string, on bool) {
	n.change(func() { n.refused[host] = on })
}

// DuplicateDials makes each dial, with probability p, produce a second link at the listener some time later. It carries a
// replay of the first bytes that the dialer sent (as many as chance says, or as there are by then) and then ends: an
// attempt that somebody recorded, or that the network doubled.
func (n *Network) DuplicateDials(p float64) {
	n.change(func() { n.duplicate = p })
}

// LateDials makes each dial, with probability p, hang until its context ends; its link arrives at the listener some
// time after that, and then ends.
func (n *Network) LateDials(p float64) {
	n.change(func() { n.late = p })
}

// Route sets a load balancer: f is asked, for each dial, which address the host from gets to when it dials to, both
// as "host:port"; it returns to itself for a dial it leaves alone. The dialer's RemoteAddr stays the address it dialled. f is called
// without locks held, by the goroutine that dials. A nil f ends the routing.
func (n *Network) Route(f func(from, to string) string) {
	n.change(func() { n.route = f })
}

// OnLink sets a function that is called for each new link that a dial makes, before a byte moves on it: to plan its
// faults (Forward is from the dialer to the listener). from and to are the names of the two hosts. It is called without locks
// held, by the goroutine that dials; not for duplicates and late dials.
func (n *Network) OnLink(f func(s Scope, from, to string)) {
	n.change(func() { n.onLink = f })
}

// Close resets all links, closes all listeners and lets all dials fail. The Network can't be used any more.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	close(n.done)
	var ls []*listener
	for _, l := range n.listeners {
		ls = append(ls, l)
	}
	n.mu.Unlock()
	for _, l := range ls {
		l.Close()
	}
	n.All().Cut()
	return nil
}

// change runs f under the lock and wakes the dials that wait for a change.
func (n *Network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// after runs f later, unless the Network is closed by then.
func (n *Network) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		select {
		case <-n.done:
		default:
			f()
		}
	})
}

func (n *Network) add(c *conn) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return net.ErrClosed
	}
	n.conns[c] = struct{}{}
	return nil
}

func (n *Network) remove(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

func (n *Network) snapshot() []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	cs := make([]*conn, 0, len(n.conns))
	for c := range n.conns {
		cs = append(cs, c)
	}
	return cs
}

// Stats counts what has happened on a Network since it was made.
type Stats struct {
	Links      uint64 // links made, duplicates and late ones included
	Duplicates uint64 // links made by DuplicateDials
	Late       uint64 // links made by LateDials
	Cuts       uint64 // links reset, for whatever reason
	Open       int    // links now: not reset and not closed at both ends
	BytesSent  uint64 // taken by Send
	BytesRead  uint64 // given out by Recv and Drain
}

type counters struct{ links, duplicates, late, cuts, sent, read atomic.Uint64 }

// Stats returns the counters.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	open := len(n.conns)
	n.mu.Unlock()
	return Stats{
		Links:      n.stats.links.Load(),
		Duplicates: n.stats.duplicates.Load(),
		Late:       n.stats.late.Load(),
		Cuts:       n.stats.cuts.Load(),
		Open:       open,
		BytesSent:  n.stats.sent.Load(),
		BytesRead:  n.stats.read.Load(),
	}
}

// rng returns a source of chance for one purpose: the stream is a function of the network's seed and the two numbers.
func (n *Network) rng(link, purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(n.cfg.Seed^purpose*0x9E3779B97F4A7C15, link))
}
