package selector

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A box is a machine on which two paths are measured in turns, with what else it does.
type box struct {
	l    *lab
	rtts map[Path]time.Duration
	// load returns what is added to a round trip over p: common to a turn, or its own.
	load func(p Path, turn int) time.Duration
}

func newBox(t *testing.T, rtts map[Path]time.Duration) *box {
	l := newLab(t, offer(tcp, shm)...)
	l.sizes = tinySizes()
	b := &box{l: l, rtts: rtts}
	for p := range rtts {
		l.paths[p] = func() Measurement { return b.measure(p) }
	}
	return b
}

// measure is what the endpoint makes of its turns.
func (b *box) measure(p Path) Measurement {
	turns := make([]time.Duration, 8)
	var list []float64
	for i := range turns {
		turns[i] = b.rtts[p] + b.load(p, i)
		list = append(list, float64(turns[i]))
	}
	c := quiet(time.Duration(median(list)))
	for i := range list {
		list[i] = float64((turns[i] - c.RTT).Abs())
	}
	c.Jitter, c.Samples = time.Duration(1.2*median(list)), 48
	return Measurement{Cost: c, Turns: turns, RTTMin: slices.Min(turns)}
}

// byTurn gives each turn of each round a load of its own, the same for all paths.
func (b *box) byTurn(load func() time.Duration) func(Path, int) time.Duration {
	type key struct{ round, turn int }
	known := make(map[key]time.Duration)
	return func(_ Path, turn int) time.Duration {
		k := key{b.l.rounds, turn}
		if _, ok := known[k]; !ok {
			known[k] = load()
		}
		return known[k]
	}
}

// What a busy machine adds to all paths cancels: the first round decides.
func TestLoadOfAllPathsCancels(t *testing.T) {
	for name, load := range map[string]func(b *box) time.Duration{
		"some turns lose a time slice": func(b *box) time.Duration {
			if b.l.rng.Float64() < .4 {
				return 4 * time.Millisecond
			}
			return 0
		},
		"the connection's own dialogue takes turns with the probe": func(b *box) time.Duration {
			return 10*time.Microsecond + time.Duration(b.l.rng.IntN(500))
		},
		"every turn takes another while": func(b *box) time.Duration {
			return time.Duration(b.l.rng.IntN(int(4 * time.Microsecond)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, map[Path]time.Duration{tcp: 10 * time.Microsecond, shm: 4500 * time.Nanosecond})
			b.load = b.byTurn(func() time.Duration { return load(b) })
			d := b.l.step()
			require.Equal(t, CauseInitial, d.Cause, d.String())
		})
	}
}

// All of one path's turns hit something that none of the other's did. That misleads for one round, not for longer.
func TestOnePathHit(t *testing.T) {
	b := newBox(t, map[Path]time.Duration{tcp: 10 * time.Microsecond, shm: 4500 * time.Nanosecond})
	b.load = func(p Path, turn int) time.Duration {
		if b.l.rounds == 0 && p == shm {
			return time.Duration(100+100*turn) * time.Microsecond
		}
		return time.Duration(b.l.rng.IntN(300))
	}
	require.Equal(t, Stay, b.l.step().Action)
	b.l.table.Hasten(b.l.now.Add(50*time.Millisecond), tcp, shm) // as for all young connections
	d := b.l.step()
	require.Equal(t, CauseInitial, d.Cause, d.String())

	// The other way around: what the current path seems to lose, it loses in one round, too, if that is its first.
	b = newBox(t, map[Path]time.Duration{tcp: 10 * time.Microsecond, shm: 10 * time.Microsecond})
	b.load = func(p Path, turn int) time.Duration {
		own := time.Duration(b.l.rng.IntN(300))
		if p == tcp && turn < 3 {
			own += 4 * time.Millisecond
		}
		return own
	}
	for range 10 {
		d := b.l.step()
		require.Equal(t, Stay, d.Action, d.String())
	}
}

// Between two paths that are equally good, whatever the machine does to them, a connection moves once a minute at most.
func TestEqualPathsUnderLoad(t *testing.T) {
	for name, own := range map[string]time.Duration{"quiet": 500, "noisy": 20 * time.Microsecond, "very noisy": 4 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, map[Path]time.Duration{tcp: 10 * time.Microsecond, shm: 10 * time.Microsecond})
			common := b.byTurn(func() time.Duration { return time.Duration(b.l.rng.ExpFloat64() * 5e4) })
			b.load = func(p Path, turn int) time.Duration {
				return common(p, turn) + time.Duration(b.l.rng.IntN(int(own)))
			}
			b.l.run(time.Hour, false)
			require.LessOrEqual(t, mostPerMinute(b.l.log), 1)
			require.LessOrEqual(t, len(b.l.log), 12, "and mostly stays where it is")
		})
	}
}

// A round that could tell nothing says so, and the next comes soon; but not at that pace for ever.
func TestDoubt(t *testing.T) {
	b := newBox(t, map[Path]time.Duration{tcp: 10 * time.Microsecond, shm: 9 * time.Microsecond})
	b.load = func(Path, int) time.Duration { return time.Duration(b.l.rng.IntN(int(4 * time.Millisecond))) }
	b.l.b.started = b.l.now.Add(-time.Minute) // at first it would take what is more likely the better one
	var pauses []time.Duration                // after doubts that follow each other
	for n := 0; len(pauses) < 5; n++ {
		require.Less(t, n, 100)
		d := b.l.step()
		if !d.Doubt {
			pauses = nil
			continue
		}
		require.Contains(t, d.String(), "too noisy to tell, looks again within "+d.Again.String())
		pauses = append(pauses, d.Again)
	}
	require.Equal(t, []time.Duration{1e9, 2e9, 4e9, 8e9, 8e9}, pauses)
	next, ok := b.l.table.NextProbe(b.l.now)
	require.True(t, ok)
	require.LessOrEqual(t, next.Sub(b.l.now), maxDoubt)

	b.load = func(Path, int) time.Duration { return 0 }
	b.l.b.doubts = 3
	for range pastRounds {
		require.NotEqual(t, Switch, b.l.step().Action)
	}
	require.Zero(t, b.l.b.doubts)
}

// A doubt may go and come back within one round: another rival is compared, or the connection's messages change.
func TestDoubtComesBack(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	cur, other := &Candidate{Path: tcp, round: 7, score: 1e4}, &Candidate{Path: shm, round: 7, score: 1e4}
	const noise = 1e4
	for range 3 {
		var d Decision
		require.True(t, l.b.doubt(&d, cur, other, 0, noise))
		require.Equal(t, confirm, d.Again, "the first of its run")
		require.False(t, l.b.doubt(&d, cur, other, 0, 0))
	}
}

func TestNoiseEstimates(t *testing.T) {
	require.Zero(t, between([]float64{5, 5, 5, 5}))
	require.Zero(t, between([]float64{5, 5, 5, 9, 9, 9}), "a lasting change shows once")
	require.InDelta(t, 2*normalMedian/1.4142, between([]float64{0, 2, 0, 2, 0}), .01)
	require.InDelta(t, 5, logMean(5, 5), 1e-9)
	require.InDelta(t, 4/.5878, logMean(9, 5), .01)
	as, bs := []float64{10, 30, 14, 42}, []float64{6, 18, 8.4, 25.2} // .6 of it
	require.Zero(t, apart(as, bs, ofMedian), "what multiplies both cancels")
	as, bs = []float64{10, 30, 14, 42}, []float64{6, 26, 10, 38}
	require.Zero(t, apart(as, bs, ofMedian), "and what adds to both")
	require.Greater(t, apart(as, []float64{38, 6, 26, 10}, ofMedian), 5.)

	var r record
	for i := range pastRounds + 3 {
		r.add(past{round: uint64(i), jitter: time.Duration(100 - i), least: time.Duration(50 + i)})
	}
	require.EqualValues(t, 3, r.rounds()[0].round)
	require.EqualValues(t, 93, r.jitter())
	require.EqualValues(t, 53, r.least())
}
