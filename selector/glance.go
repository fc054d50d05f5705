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
	sightTurns  = 2             // turns after which a path that is faster in all of them, or in sightMost, may be taken at sight ...
	sightMost   = .75           //
	sightRatio  = initialRatio  // ... if it costs less than this part
	likelyTurns = 4             // after these it may be by little evidence: in half of the turns ...
	likelyMost  = .5            //
	likelyRatio = minRatio      // ... and less than this part
	sureTurns   = 8             // of so many turns that count a path that won this share of them needs no round trip that came through undisturbed:
	sureMost    = .95           // what it gains in the middle one counts
	unknownByte = float64(.25)  // ns per byte, as long as that is known of no path: the same for all, so it favours none
	firstSight  = confirm       // when what was taken so is measured again
	undoLeads   = 2 * needLeads // in so many rounds running the first path must then be clearly better to be taken again within a minute
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

// leads is in how many rounds running path p must be clearly better to be taken by choice.
func (b *Binding) leads(now time.Time, p Path) int {
	for _, m := range b.moves {
		if m.guess && m.from == p && now.Sub(m.at) < flapWindow {
			return undoLeads
		}
	}
	return needLeads
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
	cause, least, note := CauseNone, 0.0, ""
	for i := range d.Candidates {
		c := &d.Candidates[i]
		if c == cur || !c.OK || c.preference != cur.preference || !paired(cur, c) {
			continue
		}
		ours, theirs := cur.atBest(d.weights), c.atBest(d.weights)
		n, wins := min(len(cur.turns), len(c.turns)), 0
		diffs := make([]float64, n)
		for i := range n {
			if diffs[i] = float64(cur.turns[i] - c.turns[i]); diffs[i] > 0 {
				wins++
			}
		}
		share := float64(wins) / float64(n)
		why, how := CauseNone, fmt.Sprintf("at best %s -> %s a message", Micros(ours), Micros(theirs))
		switch gain := median(diffs) / 2; {
		case ours <= 0 || theirs <= 0:
		case n >= sureTurns && share >= sureMost && gain > max(float64(minGain), (1-minRatio)*ours):
			theirs = ours - gain
			why, how = CauseSight, fmt.Sprintf("by %s a message", Micros(gain))
		case ours-theirs <= float64(minGain):
		case n >= sightTurns && theirs < sightRatio*ours && share >= sightMost:
			why = CauseSight
		case late && n >= likelyTurns && theirs < likelyRatio*ours && share >= likelyMost:
			why = CauseLikely
		}
		if why != CauseNone && (found == nil || theirs < least) {
			found, cause, least = c, why, theirs
			note = fmt.Sprintf("%s, faster in %d of %d turns", how, wins, n)
		}
	}
	if found == nil {
		return false
	}
	b.dropLead()
	b.move(d, found, cause)
	d.Note, d.Doubt, d.Again = note, cause == CauseLikely, firstSight
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
