package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sockemu/sockemu/internal/inventory"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// The end that dialled a connection chooses its path. For each peer process one goroutine (chooseLoop) measures the paths there
// are, and lets every connection to it decide on what was measured; package selector says how.

// moveTime bounds a move to another path, moves how many of them run at a time. After one that failed the paths are measured again
// in retryMove: as soon as the same may be decided again.
const (
	moveTime  = 3 * time.Second
	moves     = 16
	retryMove = time.Second
)

// For a choice younger than eager that has not found a better path, but has one to compare with, the paths are measured again: first
// after eagerPause, later after half the time that this has been going on with the peer, at most eagerMost. Where connections come and
// go all the time it is one round of some ms per eagerMost.
const (
	eager      = 5 * time.Second
	eagerPause = 30 * time.Millisecond
	eagerMost  = time.Second
)

// youngLink: a link that dies sooner speaks against its path; one that lived longer against nothing.
const youngLink = time.Second

// priors order the probes, so that the most promising path is measured first; nothing is chosen on them.
var priors = map[string]time.Duration{"shm": time.Microsecond, "verbs": 3 * time.Microsecond, "udp": 30 * time.Microsecond, "tcp": 40 * time.Microsecond}

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

// chooses reports whether there can be a choice of paths to the peer at addr.
func (e *Endpoint) chooses(addr string) bool {
	p := e.policy(addr)
	for _, o := range e.cfg.Others {
		if p.Allows(o.Substrate.Name()) {
			return true
		}
	}
	return !p.Allows(e.cfg.Substrate.Name())
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

// decide asks for a decision after a probe of the paths to p, and carries it out.
func (c *choice) decide(p *peer) {
	t := p.table
	c.mu.Lock()
	if c.b == nil || c.p != p { // the other end has moved to another process meanwhile
		c.mu.Unlock()
		return
	}
	now := time.Now()
	d := c.b.Decide(now, t, c.s.Sizes(), selector.RoundDone)
	c.last = d
	young := now.Sub(c.began) < eager
	c.change()
	c.mu.Unlock()
	if d.Again > 0 && len(d.Candidates) > 0 {
		t.Hasten(now.Add(d.Again), d.Candidates[0].Path, d.From)
	}
	if d.Action == selector.Stay && young && d.From.Substrate == p.e.cfg.Substrate.Name() {
		// A machine that is just busy has blurred the first round: the next may be clearer.
		var ok []selector.Path
		for _, k := range d.Candidates {
			if k.OK {
				ok = append(ok, k.Path)
			}
		}
		if len(ok) > 1 {
			t.Hasten(now.Add(p.eagerness(now)), ok...)
		}
	}
	if d.Action == selector.Switch {
		p.e.log.Info("path chosen", "gid", c.s.GID(), "decision", d)
		p.e.wg.Go(func() { c.move(p, d) }) // the caller is one of wg's
	}
}

// eagerness is after which pause the paths should be measured again for a young connection. It is called by the loop alone.
func (p *peer) eagerness(now time.Time) time.Duration {
	if now.Sub(p.eagerAt) > eager {
		p.eagerFrom = now
	}
	p.eagerAt = now
	return min(max(eagerPause, now.Sub(p.eagerFrom)/2), eagerMost)
}

// move takes the connection to the path that was decided on.
func (c *choice) move(p *peer, d selector.Decision) {
	e := p.e
	ctx, cancel := context.WithTimeout(e.ctx, moveTime)
	defer cancel()
	select {
	case e.moving <- struct{}{}:
		defer func() { <-e.moving }()
	case <-ctx.Done():
	}
	link, a, err := c.standby(ctx, p, d.To)
	if err == nil {
		gone := false
		err = c.s.Move(d.To.String(), d.Cause.String(), func(my wire.Setup) (session.NewLink, error) {
			gone = true
			return e.goOver(ctx, c.s, d.To, link, a, my)
		})
		if !gone {
			link.Close()
		}
	}
	if err != nil {
		e.log.Debug("not moved", "gid", c.s.GID(), "to", d.To, "err", err)
		c.mu.Lock()
		if c.b != nil {
			c.b.Refused(time.Now(), d.To, err.Error())
		}
		c.change()
		c.mu.Unlock()
		p.table.Hasten(time.Now().Add(retryMove), d.To, d.From)
		p.wake()
		return
	}
	e.count.moved.Add(1)
}

// standby opens a link over path. The peer may not know the connection yet: over a fast path this can overtake the end of the
// connection's own handshake.
func (c *choice) standby(ctx context.Context, p *peer, path selector.Path) (substrate.Link, agreed, error) {
	for pause := time.Millisecond; ; pause *= 2 {
		link, _, a, err := p.e.openTo(ctx, p.proc, path, request{
			kind: wire.KindResume, standby: true, gid: c.s.GID(), psk: resumePSK(c.s.Secret()), seal: p.e.cfg.Session.Seal, my: wire.Setup{Epoch: 1},
			home: p.e.knownAs(c.s),
		})
		var r *session.RefusedError
		if !errors.As(err, &r) || r.Status != wire.StatusUnknown || pause > 200*time.Millisecond {
			return link, a, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// order says which paths to try for a connection without a link, the best first: what the choice falls on, the others that work,
// then the base paths given.
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
	return list
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

// failed says that the connection could not be resumed over path. An answer of the peer's process is none of the path's fault.
func (c *choice) failed(path selector.Path, err error) {
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

// why says why there is no path to try.
func (c *choice) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return fmt.Errorf("%w: %s", substrate.ErrConfig, c.last)
}

// offered is what a peer and this process can use together, and why not what they can't. Under p.mu.
func (p *peer) offered() []selector.Offer {
	e := p.e
	prior := func(name string) substrate.Cost {
		return substrate.Cost{RTT: priors[name], Source: substrate.SourcePrior}
	}
	var list []selector.Offer
	add := func(path selector.Path, barred string) {
		// The base path is measured even if it may not be used: there the peer says what it offers now.
		if barred == "" && !p.policy.Allows(path.Substrate) && path.Substrate != e.cfg.Substrate.Name() {
			barred = "not admitted: policy " + p.policy.String()
		}
		list = append(list, selector.Offer{Path: path, Barred: barred, Prior: prior(path.Substrate)})
	}
	for _, a := range p.addrs {
		add(e.basePath(a), "")
	}
	theirs := make(map[string]bool)
	for _, o := range p.offers {
		theirs[o.Substrate] = true
		barred := unavailable(e.subs[o.Substrate])
		if e.subs[o.Substrate] == nil || o.Substrate == e.cfg.Substrate.Name() {
			barred = "this process does not have it"
		}
		add(selector.Path{Substrate: o.Substrate, Addr: o.Addr}, barred)
	}
	for _, o := range e.cfg.Others {
		if n := o.Substrate.Name(); !theirs[n] {
			add(selector.Path{Substrate: n}, cmp.Or(unavailable(o.Substrate), "the peer does not offer it"))
		}
	}
	return list
}

// unavailable says why a substrate can't work on this machine, if it is one that may be so and can tell.
func unavailable(s substrate.Substrate) string {
	if c, ok := s.(interface{ Check() error }); ok {
		if err := c.Check(); err != nil {
			return err.Error()
		}
	}
	return ""
}

// choose starts the loop that measures and decides, unless it runs; a running one looks again at once.
func (p *peer) choose() {
	p.e.mu.Lock()
	p.mu.Lock()
	start := !p.choosing && !p.e.closed && len(p.choices) > 0
	if start && !p.e.watching && !p.e.cfg.NoWatch {
		p.e.watching = true
		p.e.wg.Go(p.e.watch)
	}
	if start {
		p.choosing = true
		p.e.wg.Go(p.chooseLoop)
	}
	p.mu.Unlock()
	p.e.mu.Unlock()
	p.wake()
}

// watch has the paths measured again when the host's interfaces, addresses or routes change.
func (e *Endpoint) watch() {
	err := inventory.Watch(e.ctx, func(ev inventory.Event) {
		if len(ev.Changes) > 0 {
			e.Remeasure(ev.Changes[0].Text)
		}
	})
	if err != nil {
		e.log.Debug("changes of the network are not noticed", "err", err)
	}
}

// wake makes the loop look again.
func (p *peer) wake() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

func (p *peer) chooseLoop() {
	e := p.e
	for {
		p.mu.Lock()
		if len(p.choices) == 0 || e.ctx.Err() != nil {
			p.choosing = false
			p.mu.Unlock()
			p.tidyLater()
			return
		}
		p.table.SetOffers(p.offered())
		all := make([]*choice, 0, len(p.choices))
		for _, c := range p.choices {
			all = append(all, c)
		}
		p.mu.Unlock()

		var inUse []selector.Path
		busy := false
		for _, c := range all {
			path, moves, allowed := c.look()
			inUse = append(inUse, path)
			busy = busy || moves
			if !allowed {
				c.decide(p) // perhaps it can go elsewhere before anything is measured
			}
		}
		now := time.Now()
		wait := e.choiceInterval()
		if busy {
			p.mu.Lock()
			policy := p.policy
			p.mu.Unlock()
			r := p.table.Round(now, inUse...)
			for _, path := range baseSecond(r.Paths, e.cfg.Substrate.Name()) {
				m, peer := e.probe(e.ctx, p.proc, path, e.probeLimit(path, policy))
				if e.ctx.Err() != nil {
					break
				}
				if m.OK() && path.Substrate == e.cfg.Substrate.Name() {
					p.heard(peer, all)
				}
				m.Round = r.ID
				p.table.Record(path, m)
				for _, c := range all {
					c.decide(p)
				}
			}
			if len(r.Paths) == 0 {
				for _, c := range all {
					c.decide(p) // a pin that can't be had must fail also if there is nothing to measure
				}
			}
			if next, ok := p.table.NextProbe(time.Now()); ok {
				wait = max(time.Until(next), time.Millisecond)
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-p.again:
		case <-e.ctx.Done():
		}
		t.Stop()
	}
}

// probeLimit is how long a path may take to be measured: one that a policy names as long as a set-up, for a device may have to be opened
// first.
func (e *Endpoint) probeLimit(path selector.Path, own selector.Policy) time.Duration {
	if own.Wants(path.Substrate) {
		return max(probeTime, e.cfg.HandshakeTimeout)
	}
	return probeTime
}

// heard takes over what the peer says of itself now: what it offers and what it admits.
func (p *peer) heard(peer wire.Setup, all []*choice) {
	p.mu.Lock()
	changed := !slices.Equal(p.offers, peer.Offers)
	p.offers = peer.Offers
	p.mu.Unlock()
	if changed {
		p.wake()
	}
	theirs, err := selector.ParsePolicy(peer.Policy)
	if err != nil {
		return
	}
	for _, c := range all {
		c.mu.Lock()
		mine := c.p == p
		c.mu.Unlock()
		if mine {
			c.setPolicies(theirs)
		}
	}
}

// setPolicies tells the choice what both ends ask now.
func (c *choice) setPolicies(theirs selector.Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.theirs = theirs
	if c.b != nil {
		c.err = c.b.SetPolicies(c.own, theirs)
	} else {
		_, c.err = selector.Merge(c.own, theirs) // bind makes the binding, at the next link
	}
	c.change()
}

// PolicyChanged has Config.Policy asked again about every peer. Connections leave paths that are not admitted any more at once, at
// whichever end that is said.
func (e *Endpoint) PolicyChanged() {
	e.mu.Lock()
	list := make([]*entry, 0, len(e.sessions))
	for _, en := range e.sessions {
		if !en.ended {
			list = append(list, en)
		}
	}
	peers := make([]*peer, 0, len(e.peers))
	for _, p := range e.peers {
		peers = append(peers, p)
	}
	e.mu.Unlock()
	for _, p := range peers {
		p.mu.Lock()
		p.policy = e.policy(p.home)
		p.mu.Unlock()
	}
	for _, en := range list {
		own := e.policy(known(en.home, en.s))
		e.mu.Lock()
		c := en.choice
		e.mu.Unlock()
		if c != nil {
			c.mu.Lock()
			c.own = own
			theirs := c.theirs
			c.mu.Unlock()
			c.setPolicies(theirs)
		} else {
			e.Bound(en.s) // there may be a choice now
		}
		// The end that decides moves the connection when it has another path; the other end can only drop the link.
		if name, _, _ := en.s.Link(); c == nil && name != "" && !own.Allows(name) {
			en.s.Switch(fmt.Errorf("%s is not admitted any more", name))
		}
	}
	for _, p := range peers {
		p.table.Invalidate(time.Now(), "the policy has changed")
		p.choose()
	}
}

// baseSecond puts the base path behind the most promising one: with those two measured there can be a decision.
func baseSecond(paths []selector.Path, base string) []selector.Path {
	for i, p := range paths {
		if i > 1 && p.Substrate == base {
			return slices.Insert(slices.Delete(slices.Clone(paths), i, i+1), 1, p)
		}
	}
	return paths
}

// choiceInterval is how often it is looked whether an idle connection still is.
func (e *Endpoint) choiceInterval() time.Duration {
	if e.cfg.Choice.Interval > 0 {
		return e.cfg.Choice.Interval
	}
	return selector.DefaultInterval
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

// AwaitPolicy waits until the connection is on a path that both ends' policies allow, for twice the time of a handshake at most. It
// returns an error that matches substrate.ErrConfig if it won't be, and says why.
func (e *Endpoint) AwaitPolicy(ctx context.Context, s *session.Session) error {
	e.mu.Lock()
	var c *choice
	if en := e.sessions[endOf(s)]; en != nil {
		c = en.choice
	}
	e.mu.Unlock()
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*e.cfg.HandshakeTimeout)
	defer cancel()
	for {
		c.mu.Lock()
		err := c.err
		ok := c.b != nil && c.b.Policy().Allows(c.b.Current().Substrate)
		failed := c.b != nil && c.last.Action == selector.Fail
		last, changed := c.last, c.changed
		c.mu.Unlock()
		switch {
		case err != nil:
			return err
		case ok:
			return nil
		case failed:
			return fmt.Errorf("%w: %s", substrate.ErrConfig, last)
		}
		select {
		case <-changed:
		case <-s.Done():
			return net.ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: %s (%w)", substrate.ErrConfig, last, context.Cause(ctx))
		}
	}
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

// Remeasure has every path measured again soon: something has changed that may concern them.
func (e *Endpoint) Remeasure(reason string) {
	e.mu.Lock()
	list := make([]*peer, 0, len(e.peers))
	for _, p := range e.peers {
		list = append(list, p)
	}
	e.mu.Unlock()
	for _, p := range list {
		p.table.Invalidate(time.Now(), reason)
		p.wake()
	}
}
