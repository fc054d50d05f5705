package selector

import (
	"math"
	"slices"
	"time"
)

// The rules of moving within a tier. Tailscale's 1 %, iroh's 5 ms and pion's 10 ms are the wrong scale within a cluster; the
// 1.5-fold gain of tailscale PR 1105 was found too coarse there.
const (
	minRatio   = 0.80             // the new path costs less than this part of the current one
	minGain    = time.Microsecond // and at least this much less
	sigmas     = 2                // and this many standard deviations of both
	clearRatio = 0.5              // or less than this part, whatever the noise: on a busy machine that never becomes small
	needLeads  = 3                // in this many rounds running
	confirm    = time.Second      // so long after one such round the next should be
	maxDoubt   = 8 * time.Second  // at most so long after one that was too noisy to tell, the first time confirm, then twice as long each time

	// The first upgrade, decided by a single round; or by needLeads of them in which the ratio was as good, whatever the noise, and none
	// in between in which the first path was the best. Little is lost if it is wrong: nothing is known of the first path either.
	initialWindow  = 10 * time.Second
	initialRatio   = 0.67 // or minRatio, if the paths were measured in turns
	initialSigmas  = 5
	initialSamples = 8 // of each path, or the round isn't solid

	flapWindow = time.Minute // switches within it lengthen the hold-down
	historyLen = 64
)

// An Event says why a decision is asked for.
type Event uint8

// The events.
const (
	// RoundDone: a round of probes was recorded. It is the usual event, and fits whatever isn't one of the others.
	RoundDone Event = iota
	// LinkDied: the connection has no link. If that speaks against the path, Table.Died was called before.
	LinkDied
)

// A Binding is the decision state of one connection: which path it is on, and what it needs to remember to move neither too
// early nor too often. It is not safe for concurrent use: whoever drives the connection guards it.
type Binding struct {
	own, peer, policy Policy
	decides           bool

	started time.Time
	origin  Path // the path that it started on
	current Path
	since   time.Time // on the current path since then
	moves   []move    // switches of the last minute, oldest first
	lost    Path      // the path that was left because it died
	target  Path      // of the switch under way; zero if none is
	cause   Cause     // of that switch

	lead      int // rounds running in which leader was clearly better
	leader    Path
	leadRound uint64 // the newest of them

	doubts     int // rounds running that were too noisy
	doubtRound uint64

	refused []refusal
	mix     mix
	history []Decision
}

// A move is a switch of the past. By choice: numbers or preference called for it, not a failure or a pin.
type move struct {
	at       time.Time
	from     Path
	byChoice bool
	guess    bool // see Glance
}

// A refusal keeps a path that the peer declined, or that couldn't be opened, from being proposed again at once.
type refusal struct {
	path   Path
	reason string
	times  int
	until  time.Time
}

// NewBinding starts the state of a connection that runs on path current. Exactly one of its two ends decides; which one is
// the caller's to settle (the lower end id). own and peer are both ends' policies; that they contradict each other is an error.
func NewBinding(now time.Time, current Path, decides bool, own, peer Policy) (*Binding, error) {
	b := &Binding{started: now, origin: current, current: current, since: now, decides: decides}
	return b, b.SetPolicies(own, peer)
}

// SetPolicies changes the policies. On an error (Merge) the old ones stay.
func (b *Binding) SetPolicies(own, peer Policy) error {
	m, err := Merge(own, peer)
	if err == nil {
		b.own, b.peer, b.policy = own, peer, m
	}
	return err
}

// Policy is what both ends' policies ask together.
func (b *Binding) Policy() Policy { return b.policy }

// Current is the path that the connection runs on.
func (b *Binding) Current() Path { return b.current }

// History returns the last 64 decisions, oldest first. Equal decisions to stay that follow each other are kept as one.
func (b *Binding) History() []Decision { return slices.Clone(b.history) }

// Bound says that the connection now runs on path p: a switch succeeded, or the session resumed there by itself.
func (b *Binding) Bound(now time.Time, p Path) {
	byChoice := p == b.target && b.cause.byChoice()
	guess := p == b.target && (b.cause == CauseSight || b.cause == CauseLikely)
	b.target, b.cause = Path{}, CauseNone
	b.dropLead()
	if p == b.current {
		return
	}
	if len(b.moves) == historyLen {
		b.moves = slices.Delete(b.moves, 0, 1)
	}
	b.moves = append(b.moves, move{now, b.current, byChoice, guess})
	b.current, b.since = p, now
	if p == b.lost {
		b.lost = Path{}
	}
	b.refused = slices.DeleteFunc(b.refused, func(r refusal) bool { return r.path == p })
}

// Refused says that the proposed switch to p failed: the peer refused, or the link couldn't be opened. p is not proposed
// again for 1 s, doubled each time up to 60 s. Others may be at once.
func (b *Binding) Refused(now time.Time, p Path, reason string) {
	b.target, b.cause = Path{}, CauseNone
	b.dropLead()
	i := slices.IndexFunc(b.refused, func(r refusal) bool { return r.path == p })
	if i < 0 {
		if len(b.refused) == maxOffers {
			b.refused = slices.Delete(b.refused, 0, 1)
		}
		i, b.refused = len(b.refused), append(b.refused, refusal{path: p})
	}
	r := &b.refused[i]
	r.until = now.Add(min(firstHold<<min(r.times, 6), maxHold))
	r.times++
	r.reason = tidy(reason)
}

func (b *Binding) dropLead() { b.lead, b.leader, b.leadRound = 0, Path{}, 0 }

// Decide says what the connection should do, with the reasons. sizes are its messages; nil means that nothing is known of
// them. After a Switch the caller opens the new path, moves the stream (make before break), and calls Bound or Refused;
// until then Decide says that a switch is in progress, unless the link dies.
func (b *Binding) Decide(now time.Time, t *Table, sizes *Sizes, event Event) Decision {
	d := b.see(now, t, sizes)
	switch {
	case !b.decides:
		d.Cause = CausePeerDecides
	case b.target != Path{} && event != LinkDied:
		d.To, d.Cause = b.target, CauseInProgress
	case event == LinkDied:
		b.leave(&d, CausePathDied)
	default:
		b.compare(now, &d)
		if d.Action == Stay && d.Cause.unsure() && b.first(now) {
			b.guess(&d, true)
		}
	}
	b.conclude(&d)
	return d
}

// see begins a decision with what is known.
func (b *Binding) see(now time.Time, t *Table, sizes *Sizes) Decision {
	w := b.mix.fold(sizes)
	cs := t.Candidates(now, w, b.policy)
	b.markRefused(now, cs)
	return Decision{At: now, Peer: t.peer, From: b.current, To: b.current, Candidates: cs, base: t.cfg.Base, ttl: t.cfg.TTL, weights: w}
}

// conclude notes what was decided.
func (b *Binding) conclude(d *Decision) {
	if d.Action == Switch {
		explainLosers(d.Candidates, d.To)
		b.target, b.cause = d.To, d.Cause
		if d.Cause == CausePathDied || d.Cause == CauseSuspect {
			b.lost = b.current
		}
	}
	b.remember(*d)
}

// markRefused takes paths that were refused lately out of the running.
func (b *Binding) markRefused(now time.Time, cs []Candidate) {
	for _, r := range b.refused {
		i := slices.IndexFunc(cs, func(c Candidate) bool { return c.Path == r.path })
		if i >= 0 && cs[i].OK && now.Before(r.until) {
			cs[i].Tier, cs[i].OK, cs[i].cond, cs[i].Reason = Suspect, false, failing, "refused: "+r.reason
		}
	}
	slices.SortFunc(cs, byRank)
}

// leave finds another path without hysteresis: the best that is measured, else the base path. It may find the current one again,
// if that is still good: its link died, not the path.
func (b *Binding) leave(d *Decision, cause Cause) {
	b.dropLead()
	d.Cause = cause
	if cur := d.candidate(b.current); cur != nil {
		d.Note = cur.Reason
	}
	if best := d.best(); best != nil {
		b.move(d, best, cause)
		return
	}
	if base := b.lastResort(d); base != nil {
		b.move(d, base, cause)
		return
	}
	b.stuck(d)
}

// lastResort finds a base path to fall back to without a fresh measurement: one that was measured and does not fail, else one
// that has carried this connection, else one that was measured at least once, else any.
func (b *Binding) lastResort(d *Decision) *Candidate {
	var found *Candidate
	best := math.MaxInt
	for i := range d.Candidates {
		c := &d.Candidates[i]
		if c.Substrate != d.base || c.cond == barred || !b.policy.Allows(c.Substrate) {
			continue
		}
		rank := 3
		switch {
		case !c.at.IsZero() && c.cond != failing && c.Path != b.current:
			rank = 0
		case c.Path == b.current || c.Path == b.origin:
			rank = 1
		case !c.at.IsZero():
			rank = 2
		}
		if rank < best {
			found, best = c, rank
		}
	}
	return found
}

// move makes d a switch to c, with the numbers of both.
func (b *Binding) move(d *Decision, c *Candidate, cause Cause) {
	d.Cause, d.To = cause, c.Path
	if c.Path == b.current {
		return
	}
	d.Action = Switch
	d.measure(d.candidate(b.current), c)
}

// stuck is what remains if the policy allows no path that works: to wait for one that may come, or to fail.
func (b *Binding) stuck(d *Decision) {
	hope := slices.ContainsFunc(d.Candidates, func(c Candidate) bool {
		return b.policy.Allows(c.Substrate) && (c.Tier == Suspect || c.cond == pending)
	})
	switch {
	case hope && b.policy.Required():
		d.Cause = CausePinWaits
	case hope:
		d.Cause = CauseOnlyPath
	case b.policy.Required():
		d.Action, d.Cause = Fail, CausePinImpossible
	default:
		d.Action, d.Cause = Fail, CauseNoPath
	}
	d.Note = b.explainPolicy()
}

func (b *Binding) explainPolicy() string {
	switch {
	case b.own.Required() && b.peer.Required():
		return "both ends pin it"
	case b.own.Required():
		return "this end pins it"
	case b.peer.Required():
		return "the peer pins it"
	}
	return "policy: " + b.policy.String()
}

// compare decides whether to leave a path that works, or seems to.
func (b *Binding) compare(now time.Time, d *Decision) {
	cur, best := d.candidate(b.current), d.best()
	if !b.policy.Allows(b.current.Substrate) {
		cause := CausePinned
		if b.own.Allows(b.current.Substrate) {
			cause = CausePeerPinned
		}
		b.leave(d, cause)
		if d.Action == Switch {
			d.Note = b.explainPolicy()
		}
		return
	}
	switch {
	case best == nil:
		b.dropLead()
		d.Cause = CauseOnlyPath
	case best.Path == b.current:
		b.holds(now, d, cur)
	case cur == nil || cur.cond == barred:
		b.leave(d, CauseStale)
		if cur == nil {
			d.Note = "it is no candidate any more"
		}
	case cur.cond == failing:
		b.leave(d, CauseSuspect)
	case cur.cond != fine:
		b.unmeasured(now, d, cur, best)
	case best.preference < cur.preference:
		d.measure(cur, best)
		if b.ripe(now, d, best.Path) {
			b.move(d, best, CausePreferred)
		}
	default:
		b.weigh(now, d, cur, best)
	}
}

// unmeasured: the current path carries the connection, but nothing is known of it now. That is no reason to leave it, until a
// whole TTL has passed in which another path was measured and this one was not.
func (b *Binding) unmeasured(now time.Time, d *Decision, cur, best *Candidate) {
	b.dropLead()
	d.Cause, d.Note = CauseRound, cur.Reason
	known := b.since
	if cur.at.After(known) {
		known = cur.at
	}
	if now.Sub(known) > d.ttl {
		b.move(d, best, CauseStale)
	}
}

// ripe reports that nothing holds down a switch to path p by choice: 1 s after the last switch, doubled for each earlier one
// in the last minute; and a minute after p itself was left by choice, so that two paths never change places more often.
func (b *Binding) ripe(now time.Time, d *Decision, p Path) bool {
	b.moves = slices.DeleteFunc(b.moves, func(m move) bool { return now.Sub(m.at) >= flapWindow })
	var until time.Time
	if n := len(b.moves); n > 0 {
		until = b.moves[n-1].at.Add(min(firstHold<<min(n-1, 6), maxHold))
	}
	for _, m := range b.moves {
		if back := m.at.Add(flapWindow); m.from == p && m.byChoice && back.After(until) {
			until = back
		}
	}
	if !now.Before(until) {
		return true
	}
	d.Cause, d.Again = CauseHoldDown, until.Sub(now)
	return false
}

// holds: the current path has the best score. The next best one may be the better one all the same, or there may be no telling.
func (b *Binding) holds(now time.Time, d *Decision, cur *Candidate) {
	if len(d.Candidates) > 1 {
		if second := &d.Candidates[1]; second.OK && second.preference == cur.preference && paired(cur, second) {
			gain, sigma := compare(cur, second, d.weights)
			if gain > 0 {
				b.weigh(now, d, cur, second)
				return
			}
			if b.doubt(d, cur, second, gain, sigma) {
				d.measure(cur, second)
			}
		}
	}
	b.dropLead()
	d.Cause = CauseBest
}

// doubt reports whether the difference between two paths, as a round has shown it, tells nothing: it is less than the noise, which would hide
// a gain that counts. Then the next round should be soon.
func (b *Binding) doubt(d *Decision, cur, other *Candidate, gain, sigma float64) bool {
	noise := sigmas * sigma
	if cur.round != other.round || noise < (1-minRatio)*cur.score || math.Abs(gain) > noise {
		b.doubts, b.doubtRound = 0, 0
		return false
	}
	if cur.round != b.doubtRound {
		b.doubts++
		b.doubtRound = cur.round
	}
	d.Doubt, d.Again = true, min(confirm<<min(b.doubts-1, 6), maxDoubt)
	return true
}

// blur takes a round into account that was neither clear nor against the leader. It counts for nothing where nothing is lost yet.
func (b *Binding) blur(first bool) {
	if !first {
		b.dropLead()
	}
}

// weigh compares the numbers of two paths of the same tier and preference.
func (b *Binding) weigh(now time.Time, d *Decision, cur, best *Candidate) {
	d.measure(cur, best)
	if cur.round != best.round {
		d.Cause = CauseRound
		d.Again = confirm
		return
	}
	gain, sigma := compare(cur, best, d.weights)
	plain := 1 - gain/cur.score
	ratio := plain
	if own := alone(cur, best, d.weights); own > 0 {
		ratio = min(ratio, 1-gain/own)
	}
	solid := min(cur.Cost.Samples, best.Cost.Samples) >= initialSamples
	first := b.first(now)
	clearly, initial := float64(clearRatio), float64(initialRatio)
	if first {
		clearly = initialRatio
	}
	if paired(cur, best) {
		initial = minRatio
	}
	doubt := b.doubt(d, cur, best, gain, sigma)
	switch {
	case first && solid && ratio < initial && gain > max(initialSigmas*sigma, float64(minGain)):
		d.Doubt, d.Again = false, 0
		b.move(d, best, CauseInitial)
		return
	case ratio >= minRatio:
		b.blur(first)
		d.Cause = CauseSmallGain
		return
	case gain <= float64(minGain), gain <= sigmas*sigma && plain >= clearly:
		b.blur(first)
		d.Cause = CauseNoise
		if !doubt {
			d.Again = confirm
		}
		return
	}
	d.Doubt, d.Again = false, 0
	if b.leader != best.Path {
		b.dropLead()
		b.leader = best.Path
	}
	if best.round > b.leadRound {
		b.lead++
		b.leadRound = best.round
	}
	d.Leads, d.needed = b.lead, b.leads(now, best.Path)
	switch {
	case b.lead < d.needed:
		d.Cause = CauseConfirming
		d.Again = confirm
	case !b.ripe(now, d, best.Path):
	case best.Path == b.lost:
		b.move(d, best, CausePathBack)
	default:
		b.move(d, best, CauseFaster)
	}
}
