package endpoint

import (
	"cmp"
	"slices"
	"time"
)

// Paths are measured in turns, a few round trips over each and then again: what else the machine does in the meantime hits all of them, and
// within a turn they can be compared. In a turn the first ping finds a peer that sleeps, and doesn't count; of the others the faster one does. Of
// the turns that third counts in which all paths together took the least.
const (
	probePing  = 64
	turnPings  = 2  // that count, per path and turn
	probeTurns = 24 // little enough to disturb nobody
	quietTurns = 3  // one in so many counts ...
	leastTurns = 4  // ... but so many at least, which are made unless they take pingsMost
	pingsTime  = 15 * time.Millisecond
	pingsMost  = 250 * time.Millisecond // for those of one path, but leastPings are always sent
	leastPings = 2
	firstPings = 3                     // none of which is fast on a slow path
	glanceFrom = 2                     // turns after which it may be clear already which path is the best ...
	glanceTime = 60 * time.Millisecond // until then further turns are worth more than trains, which load spoils
)

// measure measures tracks in turns, and closes them. If look isn't nil, it says whether what is known by now is enough.
func measure(tracks []*track, look func(late bool) bool) {
	enough, most := false, pingsTime
	if look != nil {
		most = glanceTime
	}
	inTurns(tracks, func(tr *track, elapsed time.Duration) bool {
		switch {
		case len(tr.turns) == probeTurns, len(tr.turns) >= leastTurns && elapsed > most:
			return false
		case len(tr.pings) >= leastPings && tr.spent > pingsMost:
			return false
		}
		tr.turn()
		return true
	}, func(turns int, elapsed time.Duration) bool {
		busy := elapsed > pingsTime
		if look != nil && turns >= glanceFrom && (busy || turns == probeTurns) {
			quiet(tracks)
			enough = look(busy && turns >= leastTurns)
		}
		return enough
	})
	for _, tr := range tracks {
		tr.spent = 0
	}
	inTurns(tracks, func(tr *track, elapsed time.Duration) bool {
		if enough || tr.trained > 0 && (tr.trained >= probeTrains || elapsed > trainsTime) && (tr.trained >= leastTrains || tr.spent > slowTime) {
			return false
		}
		tr.train()
		return true
	}, nil)
	for _, tr := range tracks {
		tr.close()
	}
	quiet(tracks)
}

// inTurns calls visit for one track after the other, those that have failed left out, until it has reported false for each of them. Who was
// first in one turn is last in the next. elapsed is how long that has been going on. If enough isn't nil, it may end that after any turn.
func inTurns(tracks []*track, visit func(tr *track, elapsed time.Duration) bool, enough func(turns int, elapsed time.Duration) bool) {
	start := time.Now()
	order := slices.Clone(tracks)
	for turns, again := 0, true; again; slices.Reverse(order) {
		if enough != nil && enough(turns, time.Since(start)) {
			return
		}
		turns++
		again = false
		elapsed := time.Since(start) // the same for all: they stay in step
		for _, tr := range order {
			if tr.err != nil {
				continue
			}
			before := time.Now()
			again = visit(tr, elapsed) || again
			if time.Since(before) > pingsMost { // none of the others' fault
				for _, o := range order {
					if o != tr && o.err == nil {
						o.renew()
					}
				}
			}
		}
	}
}

// quiet picks of the turns of tracks that were measured together those in which all of them took the least.
func quiet(tracks []*track) {
	var ok []*track
	for _, tr := range tracks {
		if tr.err == nil {
			ok = append(ok, tr)
		}
	}
	if len(ok) == 0 {
		return
	}
	type turn struct {
		i    int
		took time.Duration
	}
	list := make([]turn, len(ok[0].turns))
	for i := range list {
		list[i].i = i
		for _, tr := range ok {
			list[i].took += tr.turns[min(i, len(tr.turns)-1)]
		}
	}
	slices.SortFunc(list, func(a, b turn) int { return cmp.Compare(a.took, b.took) })
	list = list[:min(len(list), max(len(list)/quietTurns, leastTurns))]
	for _, tr := range ok {
		tr.quiet = make([]time.Duration, len(list))
		for i, t := range list {
			tr.quiet[i] = tr.turns[min(t.i, len(tr.turns)-1)]
		}
	}
}

// outcomes are those of tracks that are measured together.
func outcomes(tracks []*track) []probed {
	list := make([]probed, 0, len(tracks))
	for _, tr := range tracks {
		list = append(list, tr.outcome(len(tracks) > 1))
	}
	return list
}
