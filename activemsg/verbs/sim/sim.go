// Package sim is a verbs provider in memory: a network of hosts with one device each, whose queue pairs keep the rules of the real ones and
// break on demand. It is for tests, and works in a testing/synctest bubble: it has no goroutine and does no I/O, and time passes by timers alone.
//
// What goes wrong at random depends on the seed and on how many requests the queue pair has had, on nothing else. It is stricter than
// hardware where hardware may be: the memory of a request is read as late as is allowed, and with LateWrites what an RDMA write
// brought stays invisible until a receive completes.
package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// Config says how the network behaves. In the zero value everything happens at once, inside Post, and nothing goes wrong.
type Config struct {
	Seed   uint64
	Delay  time.Duration // one way
	Jitter time.Duration // at most so much more, at random

	// LateWrites hides what an RDMA write brought as long as hardware might, now and then.
	LateWrites bool
	// Lose is the probability that a request must be repeated, after the connection's timeout.
	Lose float64
	// Fail is the probability that a request fails with StatusRetryExceeded; whether the peer has got it is open.
	Fail float64

	// IWARP makes the devices such as want their queue pairs joined, see verbs.Joiner. Requests that the peer refuses fail as elsewhere.
	IWARP bool

	Inline int // most bytes inline; 0 is 256
	Depth  int // most requests in a queue; 0 is 4096
}

// Stats count what happened in a network.
type Stats struct {
	Sends, Writes uint64 // requests that reached the peer
	Bytes         uint64
	Posts         uint64 // calls of Post
	RNR           uint64 // messages that found no receive posted
	Overruns      uint64 // completions that found no room
	Repeats       uint64 // requests repeated for other reasons than RNR
	Denied        uint64 // writes with a wrong key, address or length
}

// A Network joins hosts.
type Network struct {
	cfg Config

	mu      sync.Mutex
	hosts   map[string]*Host
	byGID   map[verbs.GID]*Host
	cut     map[[2]*Host]bool
	regions map[uint32]*region // by both keys
	qps     map[uint32]*qp
	awaited map[netip.AddrPort]*joiner
	lastKey uint32
	lastQP  uint32
	// Ports are given out once.
	lastPort uint16
	stats    Stats

	started time.Time
	waiting []*qp // those that have something to do later
	timer   *time.Timer
	timerAt int64 // when it fires, never for none
}

const never = int64(1<<63 - 1)

// New makes a network.
func New(cfg Config) *Network {
	if cfg.Inline == 0 {
		cfg.Inline = 256
	}
	if cfg.Depth == 0 {
		cfg.Depth = 4096
	}
	return &Network{
		cfg: cfg, hosts: map[string]*Host{}, byGID: map[verbs.GID]*Host{}, cut: map[[2]*Host]bool{},
		regions: map[uint32]*region{}, qps: map[uint32]*qp{}, awaited: map[netip.AddrPort]*joiner{}, lastQP: 16, lastPort: 20000, timerAt: never, started: time.Now(),
	}
}

// Stats returns what has happened so far.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Host returns the host of that name, a new one the first time. It is a verbs.Provider with one device.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		number := len(n.hosts) + 1
		h = &Host{net: n, name: name, up: true, devices: map[*device]bool{}}
		v4 := netip.AddrFrom4([4]byte{10, 0, byte(number >> 8), byte(number)})
		h.gids = []verbs.GIDEntry{
			{Index: 0, GID: verbs.GID{0: 0xfe, 1: 0x80, 14: byte(number >> 8), 15: byte(number)}, Type: verbs.GIDRoCEv1, Netdev: "sim"},
			{Index: 1, GID: v4.As16(), Type: verbs.GIDRoCEv2, Netdev: "sim"},
		}
		if n.cfg.IWARP {
			h.gids = h.gids[:1]
			h.gids[0].Type = verbs.GIDIWARP
		}
		n.hosts[name] = h
		for _, e := range h.gids {
			n.byGID[e.GID] = h
		}
	}
	return h
}

// Cut parts two hosts, or joins them again. Nobody is told: requests just get no answer.
func (n *Network) Cut(a, b *Host, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]*Host{a, b}], n.cut[[2]*Host{b, a}] = cut, cut
}

// DeviceName is the name of each host's device.
const DeviceName = "sim0"

// A Host is a machine with one device of one port.
type Host struct {
	net     *Network
	name    string
	gids    []verbs.GIDEntry
	up      bool
	gone    bool
	devices map[*device]bool
	held    chan struct{} // not nil: Close of a queue pair waits for its end
}

var _ verbs.Provider = (*Host)(nil)

// Name is "sim".
func (h *Host) Name() string { return "sim" }

// Devices lists the device, if it was not removed.
func (h *Host) Devices() ([]verbs.DeviceInfo, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.gone {
		return nil, nil
	}
	transport := verbs.TransportIB
	if h.net.cfg.IWARP {
		transport = verbs.TransportIWARP
	}
	return []verbs.DeviceInfo{{Name: DeviceName, Transport: transport}}, nil
}

// Open opens the device.
func (h *Host) Open(name string) (verbs.Device, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if name != DeviceName || h.gone {
		return nil, &verbs.Error{Op: "open", Device: name, Err: verbs.ErrNoDevice}
	}
	d := &device{host: h, net: h.net, events: make(chan verbs.Event, 64), closed: make(chan struct{})}
	h.devices[d] = true
	return d, nil
}

// SetLink brings the port down or up, and tells who waits for events. Requests under way are repeated until they time out.
func (h *Host) SetLink(up bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.up == up {
		return
	}
	h.up = up
	kind := verbs.EventPortDown
	if up {
		kind = verbs.EventPortUp
	}
	h.tell(verbs.Event{Kind: kind, Port: 1})
}

// Remove takes the device out: its queue pairs fail, and so does every later call.
func (h *Host) Remove() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.gone = true
	h.each(func(q *qp) { q.fail() })
	h.tell(verbs.Event{Kind: verbs.EventFatal})
}

// Break makes all queue pairs of the host fail, as after an error of the device.
func (h *Host) Break() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.each(func(q *qp) { q.fail() })
}

// Kill ends the host's queue pairs without a word, as when the process dies.
func (h *Host) Kill() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.each(func(q *qp) { q.destroy() })
}

// Hold makes Close of the host's queue pairs wait until the returned function is called: drivers do that as long as a packet of theirs lies in the
// ring of an interface that is down, or a command to the device isn't answered.
func (h *Host) Hold() (letGo func()) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	held := make(chan struct{})
	h.held = held
	return sync.OnceFunc(func() {
		h.net.mu.Lock()
		defer h.net.mu.Unlock()
		if h.held == held {
			h.held = nil
		}
		close(held)
	})
}

func (h *Host) each(f func(q *qp)) {
	for n := uint32(0); n <= h.net.lastQP; n++ { // in order, so that runs repeat
		if q := h.net.qps[n]; q != nil && q.device.host == h {
			f(q)
		}
	}
}

func (h *Host) tell(e verbs.Event) {
	for d := range h.devices {
		select {
		case d.events <- e:
		default: // nobody listens
		}
	}
}

func (n *Network) rand(qp uint32) *rand.Rand { return rand.New(rand.NewPCG(n.cfg.Seed, uint64(qp))) }

// now is the time since the start of the network. Without delays there is none: everything is due at once.
func (n *Network) now() int64 { return int64(time.Since(n.started)) + 1 }

// later sees to it that q gets on at its next time. mu is held.
func (n *Network) later(q *qp) {
	at := q.next()
	if at == never {
		return
	}
	if !q.waiting {
		q.waiting = true
		n.waiting = append(n.waiting, q)
	}
	n.alarm(at)
}

// alarm has the timer fire no later than at.
func (n *Network) alarm(at int64) {
	if at >= n.timerAt {
		return
	}
	n.timerAt = at
	d := time.Duration(max(at-n.now(), 0))
	if n.timer == nil {
		n.timer = time.AfterFunc(d, n.tick)
	} else {
		n.timer.Reset(d)
	}
}

// tick does what is due, in the order of time.
func (n *Network) tick() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.timerAt = never
	for {
		var first *qp
		at := never
		for _, q := range n.waiting {
			if t := q.next(); t < at || t == at && first != nil && q.number < first.number {
				first, at = q, t
			}
		}
		if first == nil || at > n.now() {
			break
		}
		first.step(n.now())
	}
	kept, at := n.waiting[:0], never
	for _, q := range n.waiting {
		t := q.next()
		if q.waiting = t != never; q.waiting {
			kept, at = append(kept, q), min(at, t)
		}
	}
	clear(n.waiting[len(kept):])
	n.waiting = kept
	if at != never {
		n.alarm(at)
	}
}

// String names the host.
func (h *Host) String() string { return fmt.Sprintf("sim host %s", h.name) }
