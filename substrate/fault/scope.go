package fault

import (
	"fmt"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// A Dir is a direction of a link, or both.
type Dir uint8

// The directions, as seen from a Scope.
const (
	Forward Dir = 1 << iota
	Backward
	Both = Forward | Backward
)

// A Shape says how the bytes of one direction travel. The zero Shape delivers everything at once.
type Shape struct {
	// Delay is the time from Send to arrival. A dial takes one Delay each way.
	Delay time.Duration
	// Jitter is added to Delay, between nothing and all of it. Order is kept: what is sent later never arrives earlier.
	Jitter time.Duration
	// Rate limits the direction to so many bytes per second; 0 doesn't.
	Rate int
	// SendPiece cuts what is sent into pieces of 1 to SendPiece bytes, which travel by themselves; 0 doesn't.
	SendPiece int
	// RecvPiece makes Recv return 1 to RecvPiece bytes, though more may have arrived; 0 doesn't limit.
	RecvPiece int
}

// A Scope is a set of links on which faults are set: All, Between two hosts, or On one link. Its methods are safe for
// concurrent use and take effect at once, also for what is in flight.
type Scope struct {
	net   *Network
	link  *Link
	hosts *hosts
}

// All is every link. Forward is from the dialer to the listener.
func (n *Network) All() Scope { return Scope{net: n} }

// Between is every link between the hosts a and b, whoever dialled. Forward is from a to b. An empty name stands for any host.
func (n *Network) Between(a, b string) Scope { return Scope{net: n, hosts: &hosts{a, b}} }

// On is the link that l is an end of. Forward is what l sends. It panics if l isn't from this package.
func (n *Network) On(l substrate.Link) Scope {
	own, ok := l.(interface{ own() *Link })
	if !ok {
		panic(fmt.Sprintf("fault: On(%T): not a link of a fault.Network", l))
	}
	return Scope{net: n, link: own.own()}
}

// Cut resets the links: both ends see it at once. Bytes in flight are lost, but for a part chosen by chance, and so may be bytes
// that had arrived and weren't yet read.
func (s Scope) Cut() {
	for _, c := range s.conns() {
		c.mu.Lock()
		c.cut()
		c.mu.Unlock()
	}
}

// ResetAfter resets the links exactly when byte n of direction d, counted from the link's first, has been delivered; with 0, or if
// more has been delivered already, at once. The receiver can read all of them; what else was in flight is lost.
func (s Scope) ResetAfter(n uint64, d Dir) {
	s.each(d, func(p *pipe) { p.setReset(n) })
}

// Shape sets how bytes travel in direction d from now on. The setting of one link goes before that between hosts, and
// that before the one for all.
func (s Scope) Shape(d Dir, shape Shape) {
	s.set(d, func(r *rule) { r.shape = &shape })
}

// Stall stops direction d, or lets it go on. It is stalled as long as any scope says so. Between hosts and for all it makes
// dials hang, too: those need both directions.
func (s Scope) Stall(d Dir, on bool) {
	s.set(d, func(r *rule) { r.stall = on })
}

// Blackhole swallows the bytes of direction d, those in flight included, or ends that. A direction that lost a byte stays stuck
// until its link is closed or cut; Send takes bytes until the buffer is full. Between hosts and for all it makes dials hang.
func (s Scope) Blackhole(d Dir, on bool) {
	s.set(d, func(r *rule) { r.hole = on })
}

// A rule is what a scope says about a direction.
type rule struct {
	shape *Shape // nil: nothing
	stall bool
	hole  bool
}

// set changes the rule of direction d and applies it to the links there are.
func (s Scope) set(d Dir, f func(*rule)) {
	switch {
	case s.link != nil:
		s.each(d, func(p *pipe) { f(&p.own) })
	case s.hosts != nil:
		s.net.change(func() { s.net.setPair(*s.hosts, d, f) })
	default:
		s.net.change(func() {
			for i := range s.net.all {
				if d&(Forward<<i) != 0 {
					f(&s.net.all[i])
				}
			}
		})
	}
	for _, c := range s.conns() {
		c.mu.Lock()
		c.applyRules()
		c.mu.Unlock()
	}
}

func (n *Network) setPair(h hosts, d Dir, f func(*rule)) {
	if d&Forward != 0 {
		r := n.pairs[h]
		f(&r)
		n.pairs[h] = r
	}
	// Between a host and itself, or any and any, both directions are one entry.
	if back := (hosts{h.to, h.from}); d&Backward != 0 && (back != h || d&Forward == 0) {
		r := n.pairs[back]
		f(&r)
		n.pairs[back] = r
	}
}

// each runs f, under the lock of its conn, on each pipe of the scope that direction d means.
func (s Scope) each(d Dir, f func(*pipe)) {
	for _, c := range s.conns() {
		c.mu.Lock()
		for i := range c.pipes {
			if p := &c.pipes[i]; !c.over && d&s.dirOf(p) != 0 {
				f(p)
			}
		}
		c.mu.Unlock()
	}
}

// dirOf says which direction p is, as seen from s.
func (s Scope) dirOf(p *pipe) Dir {
	switch {
	case s.link != nil:
		if p == s.link.out() {
			return Forward
		}
		return Backward
	case s.hosts != nil:
		var d Dir
		if s.hosts.match(p.hosts) {
			d |= Forward
		}
		if s.hosts.match(hosts{p.hosts.to, p.hosts.from}) {
			d |= Backward
		}
		return d
	}
	return Forward << p.index
}

func (h hosts) match(of hosts) bool {
	return (h.from == "" || h.from == of.from) && (h.to == "" || h.to == of.to)
}

// conns returns the live links of the scope.
func (s Scope) conns() []*conn {
	if s.link != nil {
		return []*conn{s.link.conn}
	}
	var in []*conn
	for _, c := range s.net.snapshot() {
		if s.dirOf(&c.pipes[0]) != 0 { // hosts never change: no lock needed
			in = append(in, c)
		}
	}
	return in
}

// ruleFor merges what all scopes but the link's own say about a direction.
func (n *Network) ruleFor(index int, h hosts) rule {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ruleLocked(index, h)
}

func (n *Network) ruleLocked(index int, h hosts) rule {
	r := n.all[index]
	for _, k := range []hosts{{"", ""}, {"", h.to}, {h.from, ""}, h} {
		if pair, ok := n.pairs[k]; ok {
			r = r.under(pair)
		}
	}
	return r
}

// under returns what holds when a narrower rule is added.
func (r rule) under(narrow rule) rule {
	if narrow.shape != nil {
		r.shape = narrow.shape
	}
	r.stall = r.stall || narrow.stall
	r.hole = r.hole || narrow.hole
	return r
}
