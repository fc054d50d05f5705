package selector

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// sight records a round's turns so far: in each the round trips of tcp and shm.
func sight(l *lab, tcpTurns, shmTurns []time.Duration) {
	if r := l.table.Round(l.now); r.ID != 0 {
		l.round = r
	}
	for p, turns := range map[Path][]time.Duration{tcp: tcpTurns, shm: shmTurns} {
		l.table.Record(p, partial(l, turns))
	}
}

func partial(l *lab, turns []time.Duration) Measurement {
	var list []float64
	least := turns[0]
	for _, d := range turns {
		list = append(list, float64(d))
		least = min(least, d)
	}
	return Measurement{
		Round: l.round.ID, At: l.now, Turns: turns, RTTMin: least, Partial: true,
		Cost: substrate.Cost{RTT: time.Duration(median(list)), Samples: 2 * len(turns), Source: substrate.SourceProbe},
	}
}

func us(list ...float64) (turns []time.Duration) {
	for _, x := range list {
		turns = append(turns, time.Duration(x*1e3))
	}
	return turns
}

// TestGlance: what a few turns must show so that a new connection moves.
func TestGlance(t *testing.T) {
	for name, c := range map[string]struct {
		tcp, shm []time.Duration
		late     bool
		want     Cause         // CauseNone: it waits for more
		once     time.Duration // a round trip over tcp that was undisturbed, in a turn that doesn't count
	}{
		"clear":                     {us(70, 4000), us(1.2, 1.1), false, CauseSight, 0},
		"clear in most turns":       {us(70, 4000, 80, 75), us(1.2, 1.1, 4000, 1), false, CauseSight, 0},
		"one turn":                  {us(70), us(1.2), true, CauseNone, 0},
		"one of two turns":          {us(70, 60), us(1.2, 4000), true, CauseNone, 0},
		"not clear":                 {us(12, 20, 20, 12), us(9, 16, 17, 9), false, CauseNone, 0},
		"not clear, but late":       {us(12, 20, 20, 12), us(9, 16, 17, 9), true, CauseLikely, 0},
		"too few turns":             {us(12, 20, 20), us(9, 16, 17), true, CauseNone, 0},
		"half of the turns":         {us(408, 83, 72, 12.7), us(2300, 6500, 1.4, 1.1), true, CauseLikely, 0},
		"only once faster":          {us(13, 14, 13, 15), us(4000, 1.1, 4000, 4000), true, CauseNone, 0},
		"at best not faster":        {us(12, 300, 400, 12), us(12, 200, 200, 12), true, CauseNone, 0},
		"a little":                  {us(12, 12, 12, 12), us(10, 10, 10, 10), true, CauseNone, 0},
		"less than a microsecond":   {us(1.5, 1.5, 1.5, 1.5), us(.5, .5, .5, .5), true, CauseNone, 0},
		"in all turns":              {us(15, 15, 15, 15, 14, 15, 15, 15), us(11, 11, 11, 11, 10.5, 11, 11, 11), false, CauseSight, 7 * time.Microsecond},
		"in all turns, by a little": {us(15, 15, 15, 15, 14, 15, 15, 15), us(14, 14, 14, 14, 13, 14, 14, 14), true, CauseNone, 7 * time.Microsecond},
		"slower":                    {us(12, 12, 12, 12), us(30, 30, 30, 30), true, CauseNone, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, offer(tcp, shm)...)
			l.sizes = tinySizes()
			sight(l, c.tcp, c.shm)
			if c.once > 0 {
				m := partial(l, c.tcp)
				m.RTTMin = c.once
				l.table.Record(tcp, m)
			}
			d, ok := l.b.Glance(l.now, l.table, l.sizes, c.late)
			require.Equal(t, c.want != CauseNone, ok, d.String())
			if !ok {
				require.Empty(t, l.b.History(), "nothing has changed")
				require.Zero(t, l.b.target)
				return
			}
			require.Equal(t, c.want, d.Cause)
			require.Equal(t, shm, d.To)
			require.Equal(t, confirm, d.Again)
			require.Contains(t, d.String(), "; measured again within 1s")
			under := l.b.Decide(l.now, l.table, l.sizes, RoundDone)
			require.Equal(t, CauseInProgress, under.Cause)
		})
	}
}

// TestGlanceWords: the record says in plain words on how little the choice was made.
func TestGlanceWords(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.sizes = tinySizes()
	sight(l, us(408, 83, 72, 12.7), us(2300, 6500, 1.4, 1.1))
	d, _ := l.b.Glance(l.now, l.table, l.sizes, true)
	require.Regexp(t, `^tcp -> shm \(10\.0\.0\.7:7000\): little evidence, but it is more likely the faster one: `+
		`at best \d\.\d us -> \d\.\d us a message, faster in 2 of 4 turns; measured again within 1s$`, d.String())
	require.True(t, d.Doubt)
}

// TestGlanceAtLargeMessages: as long as no path's bandwidth is known, the fixed part of the cost decides nothing for those who write much.
func TestGlanceAtLargeMessages(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.sizes = new(Sizes)
	for range 1000 {
		l.sizes.Add(1 << 20)
	}
	sight(l, us(70, 60, 70, 60), us(1, 1, 1, 1))
	d, ok := l.b.Glance(l.now, l.table, l.sizes, true)
	require.False(t, ok, d.String())
}

// TestGlanceIsForTheFirstChoice: later nothing is decided on a few turns.
func TestGlanceIsForTheFirstChoice(t *testing.T) {
	for name, change := range map[string]func(l *lab){
		"moved":             func(l *lab) { l.b.Bound(l.now.Add(1), shm); l.b.Bound(l.now.Add(2), tcp) },
		"old":               func(l *lab) { l.b.started = l.now.Add(-2 * initialWindow); l.b.since = l.b.started },
		"the peer decides":  func(l *lab) { l.b.decides = false },
		"refused":           func(l *lab) { l.b.Refused(l.now, shm, "no") },
		"prefers the other": func(l *lab) { require.NoError(l.t, l.b.SetPolicies(Policy{Prefer: []string{"tcp"}}, Policy{})) },
		"denied":            func(l *lab) { require.NoError(l.t, l.b.SetPolicies(Policy{Deny: []string{"shm"}}, Policy{})) },
		"under way":         func(l *lab) { l.b.target = shm },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, offer(tcp, shm)...)
			l.sizes = tinySizes()
			change(l)
			sight(l, us(70, 60, 70, 60), us(1, 1, 1, 1))
			d, ok := l.b.Glance(l.now, l.table, l.sizes, true)
			require.False(t, ok, d.String())
		})
	}
}

// TestPartialResultsAreReplaced: a round counts once, however often it was looked at before its end.
func TestPartialResultsAreReplaced(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	sight(l, us(70, 60), us(1, 1))
	for range 20 {
		l.table.Record(shm, partial(l, us(5, 5, 5)))
	}
	e := l.table.find(shm)
	require.Equal(t, 1, e.record.n)
	require.Equal(t, 5*time.Microsecond, e.record.least())
	require.Equal(t, DefaultInterval, e.interval, "and it is the end that says when the next one is")
}

// TestWrongGuessIsTakenBack: a path that only seemed faster is left again by the usual rules, soon, and once.
func TestWrongGuessIsTakenBack(t *testing.T) {
	b := newBox(t, map[Path]time.Duration{tcp: 10 * time.Microsecond, shm: 20 * time.Microsecond})
	b.load = func(Path, int) time.Duration { return time.Duration(b.l.rng.IntN(1000)) }
	sight(b.l, us(4000, 60), us(23, 24))
	d, ok := b.l.b.Glance(b.l.now, b.l.table, b.l.sizes, true)
	require.True(t, ok)
	b.l.log = append(b.l.log, d)
	b.l.b.Bound(b.l.now, d.To)
	began := b.l.now
	b.l.table.Hasten(b.l.now.Add(d.Again), tcp, shm)
	b.l.run(time.Hour, false)
	require.Len(t, b.l.log, 2)
	require.Equal(t, tcp, b.l.log[1].To)
	require.Less(t, b.l.log[1].At.Sub(began), 10*time.Second)
}

// TestGuessesDoNotOscillate: of equally good paths under a load that makes every guess a matter of chance, a connection makes at most one, and
// hardly moves afterwards.
func TestGuessesDoNotOscillate(t *testing.T) {
	moved := 0
	for seed := range 50 {
		b := newBox(t, map[Path]time.Duration{tcp: 10 * time.Microsecond, shm: 10 * time.Microsecond})
		for range seed {
			b.l.rng.Uint64()
		}
		b.load = func(Path, int) time.Duration {
			if b.l.rng.Float64() < .5 {
				return 0
			}
			return time.Duration(b.l.rng.IntN(int(8 * time.Millisecond)))
		}
		b.l.run(10*time.Minute, false)
		guesses := 0
		for _, d := range b.l.log {
			if d.Cause == CauseLikely || d.Cause == CauseSight {
				guesses++
			}
		}
		require.LessOrEqual(t, guesses, 1)
		require.LessOrEqual(t, mostPerMinute(b.l.log), 1)
		moved += len(b.l.log)
	}
	t.Logf("%d moves of 50 connections in 10 minutes", moved)
	require.LessOrEqual(t, moved, 100)
}

// TestGuessesUnderLoad: how often new connections take a path by guess that is so much dearer, or cheaper, than the first one, if others take a time
// slice of 4 or 8 ms in the middle of that many round trips. Who guesses wrong does so once.
func TestGuessesUnderLoad(t *testing.T) {
	for _, c := range []struct {
		load        float64
		shm         time.Duration // tcp: 20 us
		least, most float64       // share that moves
	}{
		{.1, 60 * time.Microsecond, 0, .01}, {.1, 40 * time.Microsecond, 0, .01}, {.1, 30 * time.Microsecond, 0, .02}, {.1, 10 * time.Microsecond, .98, 1},
		{.3, 60 * time.Microsecond, 0, .04}, {.3, 40 * time.Microsecond, 0, .04}, {.3, 30 * time.Microsecond, 0, .05}, {.3, 10 * time.Microsecond, .96, 1},
		{.6, 60 * time.Microsecond, 0, .25}, {.6, 40 * time.Microsecond, 0, .25}, {.6, 30 * time.Microsecond, 0, .25}, {.6, 10 * time.Microsecond, .9, 1},
	} {
		const n = 500
		moved, sizes := 0, tinySizes()
		for seed := range uint64(n) {
			l := newLab(t, offer(tcp, shm)...)
			l.sizes = sizes
			rng := rand.New(rand.NewPCG(seed, 1))
			turn := func(rtt time.Duration) (best time.Duration, pings time.Duration) {
				best = time.Hour
				for i := range 3 {
					d := rtt + time.Duration(rng.IntN(2000))
					if rng.Float64() < c.load {
						d += time.Duration(1+rng.IntN(2)) * 4 * time.Millisecond
					}
					if pings += d; i > 0 {
						best = min(best, d)
					}
				}
				return best, pings
			}
			var a, b []time.Duration
			var took time.Duration
			for range 24 {
				x, dx := turn(20 * time.Microsecond)
				y, dy := turn(c.shm)
				a, b, took = append(a, x), append(b, y), took+dx+dy
				busy := took > 15*time.Millisecond
				if len(a) < 2 || !busy && len(a) < 24 {
					continue
				}
				sight(l, a, b)
				if _, ok := l.b.Glance(l.now, l.table, l.sizes, busy && len(a) >= 4); ok {
					moved++
					break
				}
				if took > 60*time.Millisecond && len(a) >= 4 {
					break
				}
			}
		}
		t.Logf("load %.0f %%, %v instead of 20 us: %.1f %% move", 100*c.load, c.shm, 100*float64(moved)/n)
		require.GreaterOrEqual(t, float64(moved)/n, c.least)
		require.LessOrEqual(t, float64(moved)/n, c.most)
	}
}
