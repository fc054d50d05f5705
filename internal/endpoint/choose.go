package endpoint

import (
	"cmp"
	"slices"
	"time"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
)

// The end that dialled a connection chooses its path. For each peer process one goroutine (chooseLoop) measures the paths there
// are, and lets every connection to it decide on what was measured; package selector says how.

// For a choice younger than eager that has not found a better path, but has one to compare with, the paths are measured again: first
// after eagerPause, later after half the time that this has been going on with the peer, at most eagerMost. Where connections come and
// go all the time it is one round of some ms per eagerMost.
const (
	eager      = 5 * time.Second
	eagerPause = 30 * time.Millisecond
	eagerMost  = time.Second
)

// priors order the probes, so that the most promising path is measured first; nothing is chosen on them.
var priors = map[string]time.Duration{"shm": time.Microsecond, "verbs": 3 * time.Microsecond, "udp": 30 * time.Microsecond, "tcp": 40 * time.Microsecond}

// eagerness is after which pause the paths should be measured again for a young connection. It is called by the loop alone.
func (p *peer) eagerness(now time.Time) time.Duration {
	if now.Sub(p.eagerAt) > eager {
		p.eagerFrom = now
	}
	p.eagerAt = now
	return min(max(eagerPause, now.Sub(p.eagerFrom)/2), eagerMost)
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
			policy, rtt := p.policy, p.rtt
			p.mu.Unlock()
			r := p.table.Round(now, inUse...)
			within := func(path selector.Path) time.Duration { return e.probeLimit(path, policy, rtt) }
			record := func(list []probed, partial bool) {
				for _, l := range list {
					if partial && !l.m.OK() {
						continue // at the end, once
					}
					l.m.Round, l.m.Partial = r.ID, partial
					p.table.Record(l.path, l.m)
				}
			}
			again := time.Duration(0) // after which all is to be measured that a glance has cut short
			glance := func(list []probed, late bool) bool {
				record(list, true)
				for _, c := range all {
					again = max(again, c.glance(p, late))
				}
				return again > 0
			}
			paths := baseSecond(r.Paths, e.cfg.Substrate.Name())
			if p.spare = p.newSpare(paths, all); p.spare == nil {
				glance = nil // nobody is about to choose for the first time
			}
			e.probe(e.ctx, survey{proc: p.proc, paths: paths, within: within, spare: p.spare, glance: glance, tell: func(list []probed) {
				if e.ctx.Err() != nil {
					return
				}
				for _, l := range list {
					if l.m.OK() && l.path.Substrate == e.cfg.Substrate.Name() {
						p.heard(l, all)
					}
				}
				record(list, false)
				for _, c := range all {
					c.decide(p)
				}
			}})
			p.spare.drop()
			p.spare = nil
			if again > 0 {
				p.table.Hasten(time.Now().Add(again), paths...)
			}
			if len(r.Paths) == 0 {
				for _, c := range all {
					c.decide(p) // a pin that can't be had must fail also if there is nothing to measure
				}
			}
		}
		if next, ok := p.table.NextProbe(time.Now()); ok {
			switch due := time.Until(next); {
			case busy:
				wait = max(due, time.Millisecond)
			case due > 0: // it may be quiet for a moment only
				wait = min(wait, due)
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

// probeLimit is how long a path to a peer so far away may take to be opened to be measured: one that a policy names as long as a set-up, for
// a device may have to be opened first.
func (e *Endpoint) probeLimit(path selector.Path, own selector.Policy, rtt time.Duration) time.Duration {
	least := probeTime
	if own.Wants(path.Substrate) {
		least = max(least, e.cfg.HandshakeTimeout)
	}
	return trips(openTrips, rtt, least)
}

// heard takes over what the peer says of itself now, over a base path: what it offers and what it admits; and how far away it is.
func (p *peer) heard(l probed, all []*choice) {
	peer := l.peer
	p.mu.Lock()
	p.rtt = l.m.Cost.RTT
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

// baseSecond puts the base path behind the most promising one, for only so many are opened at a time: with those two measured there can be a
// decision.
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
