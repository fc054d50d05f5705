package selector

import (
	"fmt"
	"time"
)

// The first choice of a connection protects nothing: nobody knows that the path on which it began is good, and the choice can be taken back.
// So where the machine is too busy for figures that settle it, or for waiting for them, the path is taken that is more likely the faster one,
// and measured again at once. What is believed then is what other work disturbs least: the fastest round trips, which only have to come through
// undisturbed once, and who was the faster one in most of the turns. A path must win by both.
const (
	sightTurns  = 2            // turns after which a path that is faster in all of them, or in sightMost, may be taken at sight ...
	sightMost   = .75          //
	sightRatio  = initialRatio // ... if it costs less than this part
	likelyTurns = 4            // after these it may be by little evidence: in half of the turns ...
	likelyMost  = .5           //
	likelyRatio = minRatio     // ... and less than this part
	unknownByte = float64(.25) // ns per byte, as long as that is known of no path: the same for all, so it favours none
	firstSight  = confirm      // when what was taken so is measured again
)

// Glance asks, in the middle of a round whose results so far were recorded as partial, whether a connection that is still where it began should
// move at once, without waiting for the rest. Late says that the machine is too busy for that to come soon. It reports false if not; then it
// has changed nothing, and Decide comes later. A Switch is carried out as one of Decide's.
func (b *Binding) Glance(now time.Time, t *Table, sizes *Sizes, late bool) (Decision, bool) {
	if !b.decides || b.target != (Path{}) || !b.first(now) || !b.policy.Allows(b.current.Substrate) {
		return Decision{}, false
	}
	d := b.see(now, t, sizes)
	if !b.guess(&d, late) {
		return d, false
	}
	b.conclude(&d)
	return d, true
}

// first reports whether the connection has not moved yet and is young.
func (b *Binding) first(now time.Time) bool {
	return b.current == b.origin && b.since.Equal(b.started) && now.Sub(b.started) <= initialWindow
}

// guess makes d a switch to the path that is likely faster than the current one, if there is one. Without late it must be so at first sight.
func (b *Binding) guess(d *Decision, late bool) bool {
	cur := d.candidate(b.current)
	if cur == nil || !cur.OK {
		return false
	}
	var found *Candidate
	cause, least, won := CauseNone, 0.0, 0
	for i := range d.Candidates {
		c := &d.Candidates[i]
		if c == cur || !c.OK || c.preference != cur.preference || !paired(cur, c) {
			continue
		}
		ours, theirs := cur.atBest(d.weights), c.atBest(d.weights)
		if theirs <= 0 || ours-theirs <= float64(minGain) || found != nil && theirs >= least {
			continue
		}
		n, wins := min(len(cur.turns), len(c.turns)), 0
		for i := range n {
			if c.turns[i] < cur.turns[i] {
				wins++
			}
		}
		share := float64(wins) / float64(n)
		switch {
		case n >= sightTurns && theirs < sightRatio*ours && share >= sightMost:
			found, cause, least, won = c, CauseSight, theirs, wins
		case late && n >= likelyTurns && theirs < likelyRatio*ours && share >= likelyMost:
			found, cause, least, won = c, CauseLikely, theirs, wins
		}
	}
	if found == nil {
		return false
	}
	b.dropLead()
	b.move(d, found, cause)
	d.Note = fmt.Sprintf("at best %s -> %s a message, faster in %d of %d turns", Micros(cur.atBest(d.weights)), Micros(least), won, min(len(cur.turns), len(found.turns)))
	d.Doubt, d.Again = cause == CauseLikely, firstSight
	return true
}

// atBest is what a message would cost over c on a machine that did nothing else, going by the fastest round trip; 0 if that isn't known.
func (c *Candidate) atBest(w Weights) float64 {
	least := c.record.least()
	if len(c.turns) == 0 || least <= 0 {
		return 0
	}
	return (float64(c.cost.SendOverhead) + float64(least)/2 + w.Mean()*c.perByte) * (1 + lossPenalty*c.cost.Loss)
}
