package selector

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// The defaults of a Config and the fixed times of probing and hold-down.
const (
	DefaultTTL      = 30 * time.Second
	DefaultInterval = 5 * time.Second

	maxInterval = time.Minute
	firstRetry  = time.Second
	firstHold   = time.Second
	maxHold     = time.Minute
	// forgive: a path that lived that long starts again with the shortest hold-down.
	forgive = 5 * time.Minute
	// dropAfter probes that fail in a row a path is no longer suspect but rejected.
	dropAfter = 3
	// loserBy: a path that costs this much more than the best one at every size is probed more and more seldom.
	loserBy = 1.25
)

// Config configures a Table. Zero fields mean the defaults.
type Config struct {
	// Base is the substrate of last resort, usable without a measurement; "tcp" by default.
	Base string
	// TTL is how long a measurement may win; Interval how often a path that is worth it is probed.
	TTL, Interval time.Duration
	// Rand returns numbers in [0, 1). It spreads probes by 20 % either way; math/rand/v2 by default.
	Rand func() float64
}

// A Table is what is known about the paths to one peer. All connections to the peer share it. Its methods are safe for
// concurrent use.
type Table struct {
	peer string
	cfg  Config

	mu      sync.Mutex
	round   uint64   // the ID of the newest round
	entries []*entry // in the order of probing: cheapest prior first
}

// condition is what stands behind a tier, as far as decisions depend on it.
type condition uint8

const (
	fine    condition = iota
	pending           // never probed yet
	stale             // not measured lately, or only before something changed
	failing           // died, held down, or failed its last probes
	barred            // ruled out
)

// An entry is the history of one path.
type entry struct {
	Offer
	last   Measurement // the newest that counts
	good   Measurement // the newest that succeeded; At is zero if none did
	fails  int         // probes failed in a row
	record record      // of the last rounds
	after  uint64      // only rounds later than this count: earlier probes began before the path died or the network changed
	doubt  string      // why the path is suspect until a probe succeeds
	died   bool        // the doubt is a death or a failed probe, not a mere change
	deaths int
	diedAt time.Time
	held   time.Time // suspect until then, whatever probes say

	next     time.Time // when to probe; zero: at once
	interval time.Duration
}

// NewTable makes a table for a peer, whose name appears in reports and log lines.
func NewTable(peer string, cfg Config) *Table {
	cfg.Base = cmp.Or(cfg.Base, "tcp")
	cfg.TTL = cmp.Or(cfg.TTL, DefaultTTL)
	cfg.Interval = cmp.Or(cfg.Interval, DefaultInterval)
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	return &Table{peer: tidy(peer), cfg: cfg}
}

// SetOffers replaces the candidates. What is known of those that stay is kept. Offers beyond the 64th and repeated ones
// are ignored.
func (t *Table) SetOffers(offers []Offer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.entries
	t.entries = nil
	for _, o := range offers {
		if len(t.entries) == maxOffers {
			break
		}
		o.Substrate, o.Addr, o.Barred = tidy(o.Substrate), tidy(o.Addr), tidy(o.Barred)
		if t.find(o.Path) != nil {
			continue
		}
		e := &entry{interval: t.cfg.Interval}
		if i := slices.IndexFunc(old, func(e *entry) bool { return e.Path == o.Path }); i >= 0 {
			e = old[i]
		}
		e.Offer = o
		t.entries = append(t.entries, e)
	}
	slices.SortStableFunc(t.entries, func(a, b *entry) int {
		return cmp.Or(unknownLast(a, b), cmp.Compare(score(a.Prior, StartWeights, 0, t.cfg.TTL), score(b.Prior, StartWeights, 0, t.cfg.TTL)))
	})
}

// unknownLast orders paths without a prior behind those with one.
func unknownLast(a, b *entry) int {
	rank := func(e *entry) int {
		if e.Prior.RTT == 0 {
			return 1
		}
		return 0
	}
	return rank(a) - rank(b)
}

// find wants mu.
func (t *Table) find(p Path) *entry {
	for _, e := range t.entries {
		if e.Path == p {
			return e
		}
	}
	return nil
}

// A Round is a set of paths to be probed together, so that they can be compared. The zero Round has nothing to probe.
type Round struct {
	ID    uint64
	Paths []Path // the most promising first
}

// Round starts a round of probes if any path is due. It includes the paths in use, so that current is compared with
// current. The caller probes, records each outcome with the round's ID, and then asks each Binding to decide: when all are in,
// or when it won't wait any longer (100 ms after connect, for example). What comes later counts in its round all the same.
func (t *Table) Round(now time.Time, inUse ...Path) Round {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.ContainsFunc(t.entries, func(e *entry) bool { return e.due(now) }) {
		return Round{}
	}
	t.round++
	r := Round{ID: t.round}
	// What would be due a little later comes along: the random spread of the times must not tear rounds apart.
	soon := now.Add(t.cfg.Interval * 2 / 5)
	for _, e := range t.entries {
		if e.due(now) || !now.Before(e.held) && (e.due(soon) || e.Barred == "" && slices.Contains(inUse, e.Path)) {
			t.schedule(e, now)
			r.Paths = append(r.Paths, e.Path)
		}
	}
	return r
}

func (e *entry) due(now time.Time) bool { return e.Barred == "" && !now.Before(e.next) }

// schedule sets the time of the next probe. mu is held.
func (t *Table) schedule(e *entry, now time.Time) {
	e.next = now.Add(time.Duration(float64(e.interval) * (.8 + .4*t.cfg.Rand())))
	if e.next.Before(e.held) {
		e.next = e.held
	}
}

// NextProbe returns when Round will next have something to do. It returns false if never: there is no path to probe.
func (t *Table) NextProbe(now time.Time) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next time.Time
	found := false
	for _, e := range t.entries {
		if e.Barred == "" && (!found || e.next.Before(next)) {
			next, found = e.next, true
		}
	}
	if found && next.Before(now) {
		next = now
	}
	return next, found
}

// Hasten makes paths due at the given time, if they would be later. Decision.Again asks for it.
func (t *Table) Hasten(at time.Time, paths ...Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range paths {
		if e := t.find(p); e != nil && at.Before(e.next) && !at.Before(e.held) {
			e.next = at
		}
	}
}

// Record takes in the outcome of a probe. One that began before the path died, or before Invalidate, says nothing about now
// and is ignored; so is one about a path that is no candidate any more.
func (t *Table) Record(p Path, m Measurement) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.find(p)
	if e == nil || m.Round <= e.after || m.Round < e.last.Round {
		return
	}
	m.Cost, m.Reason = plausible(m.Cost), tidy(m.Reason)
	e.last = m
	if !m.OK() {
		e.fails++
		e.died = true
		e.doubt = "probe failed: " + cmp.Or(m.Reason, m.Class.String())
		e.interval = min(firstRetry<<min(e.fails-1, 6), maxInterval)
		t.schedule(e, m.At)
		return
	}
	if m.Cost.PerByte == 0 && e.good.Round > e.after {
		m.Cost.PerByte = e.good.Cost.PerByte // a round of pings alone: the last train still holds
	}
	e.record.add(past{m.Round, fixed(m.Cost), m.Cost.PerByte, m.Cost.Jitter, m.RTTMin})
	e.good = m
	e.fails, e.doubt, e.died = 0, "", false
	if m.Partial {
		return
	}
	if t.loses(e, m.At) {
		e.interval = min(2*max(e.interval, t.cfg.Interval), maxInterval)
	} else {
		e.interval = t.cfg.Interval
	}
	t.schedule(e, m.At)
}

// loses reports that another healthy path beats e at every size. mu is held.
func (t *Table) loses(e *entry, now time.Time) bool {
	for _, n := range Buckets {
		beaten := false
		for _, o := range t.entries {
			if o == e {
				continue
			}
			if c, _ := t.condition(o, now); c == fine && float64(e.good.Cost.OneWay(n)) > loserBy*float64(o.good.Cost.OneWay(n)) {
				beaten = true
				break
			}
		}
		if !beaten {
			return false
		}
	}
	return true
}

// Died says that a link over p broke in a way that speaks against the path itself. The path is suspect until a probe that
// starts later succeeds and the hold-down is over: 1 s, doubled with each death up to 60 s, forgiven after 5 minutes.
func (t *Table) Died(now time.Time, p Path, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.find(p)
	if e == nil {
		return
	}
	if now.Sub(e.diedAt) > forgive {
		e.deaths = 0
	}
	e.deaths++
	e.diedAt = now
	e.held = now.Add(min(firstHold<<min(e.deaths-1, 6), maxHold))
	e.after = t.round
	e.died = true
	e.doubt = "died: " + cmp.Or(tidy(reason), "no reason given")
	e.interval = firstRetry
	e.next = e.held
}

// RTT returns the median round trip over p as it was measured last; 0 if it wasn't, or if the path doesn't work now.
func (t *Table) RTT(now time.Time, p Path) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.find(p)
	if e == nil {
		return 0
	}
	if c, _ := t.condition(e, now); c != fine {
		return 0
	}
	return e.good.Cost.RTT
}

// Invalidate makes paths due at once and suspect until they are measured again: the network changed (a netlink event), or one
// end moved. No paths means all. Hold-downs stay: a flapping interface makes many events.
func (t *Table) Invalidate(now time.Time, reason string, paths ...Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		if len(paths) > 0 && !slices.Contains(paths, e.Path) {
			continue
		}
		e.after = t.round
		e.interval = t.cfg.Interval
		e.next = now
		if e.held.After(now) {
			e.next = e.held
		}
		if e.doubt == "" && !e.good.At.IsZero() {
			e.doubt = "to be measured again: " + tidy(reason)
		}
	}
}

// condition says how e stands, and why if it isn't fine. mu is held.
func (t *Table) condition(e *entry, now time.Time) (condition, string) {
	age := now.Sub(e.good.At)
	switch {
	case e.Barred != "":
		return barred, e.Barred
	case e.good.At.IsZero() && e.doubt == "":
		return pending, "not probed yet"
	case e.doubt != "" && e.died:
		return failing, e.doubt
	case e.doubt != "":
		return stale, e.doubt
	case now.Before(e.held):
		return failing, fmt.Sprintf("died %d times; held down for %s more", e.deaths, e.held.Sub(now).Round(100*time.Millisecond))
	case age > t.cfg.TTL:
		return stale, fmt.Sprintf("last measured %s ago", age.Round(time.Second))
	case e.good.Cost.RTT == 0:
		return stale, "its round-trip time is unknown"
	}
	return fine, ""
}
