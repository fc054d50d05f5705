package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
)

// youngLink: a link that dies sooner speaks against its path; one that lived longer against nothing.
const youngLink = time.Second

// A choice is what a connection's dialling end knows about the choice of its path.
type choice struct {
	s *session.Session

	mu      sync.Mutex
	own     selector.Policy
	theirs  selector.Policy
	p       *peer
	b       *selector.Binding // nil: the policies of both ends contradict each other, see err
	err     error
	began   time.Time // when there came to be a choice
	last    selector.Decision
	moved   uint64        // bytes, when it last was looked at
	changed chan struct{} // closed and replaced when last, b or the path changes
}

// bind tells the choice that the connection has a new link, to a process that p stands for.
func (c *choice) bind(p *peer) {
	name, addr, _ := c.s.Link()
	if name == "" {
		return // lost again
	}
	path := selector.Path{Substrate: name, Addr: addr}
	now := time.Now()
	_, theirs := c.s.PeerOffers()
	peer, err := selector.ParsePolicy(theirs)
	if err != nil {
		peer = selector.Policy{} // words of a later version
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p != p {
		c.p, c.b = p, nil
	}
	c.theirs = peer
	if c.b == nil {
		c.began = now
		c.b, c.err = selector.NewBinding(now, path, true, c.own, peer)
		if c.err != nil {
			c.b = nil
		}
	} else {
		c.b.Bound(now, path)
	}
	c.change()
}

// change wakes who waits for a decision. Under mu.
func (c *choice) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// look returns the connection's path, whether it is worth measuring (it is young, isn't where its policy wants it, has moved bytes since
// the last look, or the peer's policy as last heard contradicts this end's), and whether the policies allow it.
func (c *choice) look() (path selector.Path, busy, allowed bool) {
	moved := c.s.Moved()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.b == nil {
		return selector.Path{}, c.err != nil, true
	}
	allowed = c.b.Policy().Allows(c.b.Current().Substrate)
	young := time.Since(c.began) < eager && c.b.Current().Substrate == c.p.e.cfg.Substrate.Name()
	busy = moved != c.moved || young || !allowed || c.err != nil
	c.moved = moved
	return c.b.Current(), busy, allowed
}

// decide asks for a decision after a probe of the paths to p, and carries it out.
func (c *choice) decide(p *peer) {
	c.mu.Lock()
	if c.b == nil || c.p != p { // the other end has moved to another process meanwhile
		c.mu.Unlock()
		return
	}
	now := time.Now()
	d := c.b.Decide(now, p.table, c.s.Sizes(), selector.RoundDone)
	c.last = d
	young := now.Sub(c.began) < eager
	c.change()
	c.mu.Unlock()
	c.follow(p, d, young)
}

// glance moves the connection in the middle of a round, if it is clear enough by then that it should be; see selector.Binding.Glance. It returns
// after which time the paths should be measured again, 0 if it didn't.
func (c *choice) glance(p *peer, late bool) time.Duration {
	c.mu.Lock()
	if c.b == nil || c.p != p {
		c.mu.Unlock()
		return 0
	}
	d, ok := c.b.Glance(time.Now(), p.table, c.s.Sizes(), late)
	if ok {
		c.last = d
		c.change()
	}
	c.mu.Unlock()
	if !ok {
		return 0
	}
	c.follow(p, d, true)
	return d.Again
}

// follow carries a decision out. It is called by the loop alone.
func (c *choice) follow(p *peer, d selector.Decision, young bool) {
	t, now := p.table, time.Now()
	var ok []selector.Path
	for _, k := range d.Candidates {
		if k.OK {
			ok = append(ok, k.Path)
		}
	}
	if d.Again > 0 {
		t.Hasten(now.Add(d.Again), append(ok, d.From)...)
	}
	if d.Action == selector.Stay && d.Cause != selector.CauseInProgress && young && d.From.Substrate == p.e.cfg.Substrate.Name() && len(ok) > 1 {
		// A machine that is just busy has blurred the first round: the next may be clearer.
		t.Hasten(now.Add(p.eagerness(now)), ok...)
	}
	if d.Action == selector.Switch {
		p.e.log.Info("path chosen", "gid", c.s.GID(), "decision", d)
		ready := p.spare.take(c, d.To)
		p.e.wg.Go(func() { c.move(p, d, ready) }) // the caller is one of wg's
	}
}

// order says which paths to try for a connection without a link, the best first: what the choice falls on, the others that work,
// then the base paths given. But what has broken one path of a substrate other than the base may have broken all of them, so they come last: the choice
// falls on one of them again when it has been measured.
func (c *choice) order(base []selector.Path) []selector.Path {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.b == nil {
		return base
	}
	now := time.Now()
	cur := c.b.Current()
	if now.Sub(c.boundAt()) < youngLink {
		c.p.table.Died(now, cur, "its link died young")
	}
	d := c.b.Decide(now, c.p.table, c.s.Sizes(), selector.LinkDied)
	c.last = d
	c.change()
	var list []selector.Path
	add := func(p selector.Path) {
		for _, q := range list {
			if p == q {
				return
			}
		}
		if p.Addr != "" && c.b.Policy().Allows(p.Substrate) {
			list = append(list, p)
		}
	}
	if d.Action != selector.Fail {
		add(d.To)
	}
	for _, k := range d.Candidates {
		if k.OK {
			add(k.Path)
		}
	}
	for _, p := range base {
		add(p)
	}
	if cur.Substrate != c.p.e.cfg.Substrate.Name() {
		slices.SortStableFunc(list, func(p, q selector.Path) int {
			return cmp.Compare(same(p, cur), same(q, cur))
		})
	}
	return list
}

// same is 1 for two paths of one substrate, else 0.
func same(p, q selector.Path) int {
	if p.Substrate == q.Substrate {
		return 1
	}
	return 0
}

// boundAt is since when the connection has been on its path. Under mu.
func (c *choice) boundAt() time.Time {
	h := c.b.History()
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].Action == selector.Switch {
			return h[i].At
		}
	}
	return time.Time{}
}

// failed says that the connection could not be resumed over path. An answer of the peer's process is none of the path's fault. c may be nil.
func (c *choice) failed(path selector.Path, err error) {
	if c == nil {
		return
	}
	var r *session.RefusedError
	if errors.As(err, &r) || errors.Is(err, context.Canceled) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.b == nil {
		return
	}
	for _, k := range c.last.Candidates {
		if k.Path == path && k.OK {
			c.p.table.Died(time.Now(), path, err.Error())
			c.b.Refused(time.Now(), path, err.Error())
		}
	}
}

// measuredRTT is how long a round trip over path took when that was measured last; 0 if that isn't known. c may be nil.
func (c *choice) measuredRTT(path selector.Path) time.Duration {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	p := c.p
	c.mu.Unlock()
	if p == nil {
		return 0
	}
	return p.table.RTT(time.Now(), path)
}

// why says why there is no path to try.
func (c *choice) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return fmt.Errorf("%w: %s", substrate.ErrConfig, c.last)
}

// Why is everything that is known about the choice of a connection's path.
type Why struct {
	Decisions []selector.Decision // the newest last; nil at the end that does not decide
	Report    selector.Report
	Err       error // the policies of both ends contradict each other
}

// Why returns the decisions that were made for s. It reports false if this end makes none: it has not dialled the connection.
func (e *Endpoint) Why(s *session.Session) (Why, bool) {
	e.mu.Lock()
	var c *choice
	if en := e.sessions[endOf(s)]; en != nil {
		c = en.choice
	}
	e.mu.Unlock()
	if c == nil {
		return Why{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.b == nil {
		return Why{Err: c.err}, true
	}
	return Why{Decisions: c.b.History(), Report: c.p.table.Report(time.Now(), c.b.Policy(), selector.WeightsOf(c.s.Sizes()), nil)}, true
}

// MeasuredRTT is how long a round trip over the connection's path took when that was measured last; 0 if it wasn't, or not by this end.
func (e *Endpoint) MeasuredRTT(s *session.Session) time.Duration {
	name, addr, _ := s.Link()
	e.mu.Lock()
	var c *choice
	if en := e.sessions[endOf(s)]; en != nil {
		c = en.choice
	}
	e.mu.Unlock()
	return c.measuredRTT(selector.Path{Substrate: name, Addr: addr})
}
