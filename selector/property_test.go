package selector

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/substrate"
)

// TestEqualNoisyPaths: two equally good paths whose rounds vary by 20 %, independently or as a slow drift, make at most one
// switch a minute, however long one watches. The first is the worst case of a probe: nothing is averaged within a round.
func TestEqualNoisyPaths(t *testing.T) {
	for name, memory := range map[string]float64{"independent": 0, "drifting": .9} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, offer(tcp, udp)...)
			noisy := func() func() Measurement {
				x, y := 0.0, 0.0
				next := func(v *float64) float64 {
					*v = memory**v + math.Sqrt(1-memory*memory)*.2*l.rng.NormFloat64()
					return max(1+*v, .1)
				}
				return func() Measurement {
					c := cost(time.Duration(30e3*next(&x)), .4*next(&y))
					c.Jitter = 6 * time.Microsecond
					return Measurement{Cost: c}
				}
			}
			l.paths[tcp], l.paths[udp] = noisy(), noisy()
			const hours = 24
			l.run(hours*time.Hour, false)
			t.Logf("%d switches in %d hours and %d rounds, at most %d in a minute", len(l.log), hours, l.rounds, mostPerMinute(l.log))
			require.Greater(t, l.rounds, hours*600)
			require.LessOrEqual(t, mostPerMinute(l.log), 1)
			if memory == 0 {
				require.LessOrEqual(t, len(l.log), 1, "the noise is known for what it is")
			}
		})
	}
}

// TestBetterPathIsFound: a path that really costs clearly less is taken within a minute, in spite of the same noise.
func TestBetterPathIsFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := newLab(t, offer(tcp, udp)...)
		seed := rapid.Float64Range(0, 1).Draw(rt, "noise")
		wobble := func(c substrate.Cost) func() Measurement {
			return func() Measurement {
				c := c
				c.RTT = time.Duration(float64(c.RTT) * (1 + seed*.1*l.rng.NormFloat64()))
				return Measurement{Cost: c}
			}
		}
		gain := rapid.Float64Range(.2, .5).Draw(rt, "ratio")
		l.paths[tcp] = wobble(cost(100*time.Microsecond, .5))
		l.paths[udp] = wobble(cost(time.Duration(100e3*gain), .5*gain))
		l.run(time.Minute, true)
		require.Equal(rt, udp, l.b.Current())
	})
}

// TestInvariants drives a table and a binding with random events, and checks after each decision what must always hold.
func TestInvariants(t *testing.T) {
	all := []Path{tcp, udp, shm, verbs, {"tcp", "172.17.0.1:7000"}}
	rapid.Check(t, func(rt *rapid.T) {
		l := newLab(t, offer(all...)...)
		policy := rapid.SampledFrom([]string{"auto", "shm", "!tcp", "prefer:udp,shm", "pin:tcp,udp"}).Draw(rt, "policy")
		p, err := ParsePolicy(policy)
		require.NoError(rt, err)
		require.NoError(rt, l.b.SetPolicies(p, Policy{}))
		works := map[Path]time.Time{} // when a path last went through a probe that counts
		path := rapid.SampledFrom(all)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			event := RoundDone
			l.now = l.now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(rt, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 6).Draw(rt, "event") {
			case 0:
				dead := path.Draw(rt, "dead")
				l.table.Died(l.now, dead, "reset")
				delete(works, dead)
			case 1:
				event = LinkDied
			case 2:
				l.table.Invalidate(l.now, "netlink")
				clear(works)
			default:
				r := l.table.Round(l.now, l.b.Current())
				for _, p := range r.Paths {
					m := Measurement{Round: r.ID, At: l.now, Cost: cost(
						time.Duration(rapid.IntRange(1, 1e6).Draw(rt, "rtt")), rapid.Float64Range(0, 2).Draw(rt, "perbyte"))}
					works[p] = l.now
					if rapid.IntRange(0, 3).Draw(rt, "fails") == 0 {
						m.Class, m.Reason = substrate.PathDown, "timeout"
						delete(works, p)
					}
					l.table.Record(p, m)
				}
			}
			d := l.b.Decide(l.now, l.table, nil, event)
			require.NotContains(rt, d.String(), "NaN")
			require.Len(rt, d.Candidates, len(all))
			require.NotEqual(rt, CauseNone, d.Cause)
			switch d.Action {
			case Switch:
				require.NotEqual(rt, d.From, d.To)
				require.True(rt, p.Allows(d.To.Substrate), "a pin is honoured: %s", d)
				at, ok := works[d.To]
				fresh := ok && l.now.Sub(at) <= DefaultTTL
				lastResort := d.To.Substrate == "tcp" && !d.Candidates[0].OK
				require.True(rt, fresh || lastResort, "an address is no answer until it was probed: %s", d)
				if rapid.Bool().Draw(rt, "opens") {
					l.b.Bound(l.now, d.To)
				} else {
					l.b.Refused(l.now, d.To, "no")
				}
			case Stay:
				if event == LinkDied {
					require.False(rt, d.Candidates[0].OK && d.Candidates[0].Path != d.From, "something better was there: %s", d)
				}
			case Fail:
				require.False(rt, d.Candidates[0].OK)
				require.False(rt, p.Allows(l.b.Current().Substrate) && event == RoundDone)
			}
			for _, c := range d.Candidates {
				require.True(rt, c.OK || c.Reason != "", "every rejected path has a reason")
			}
			require.LessOrEqual(rt, len(l.b.History()), historyLen)
		}
	})
}

// TestEnvelope compares the lower envelope with the minimum over all paths, size by size.
func TestEnvelope(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var cs []Candidate
		for i := range rapid.IntRange(0, 5).Draw(rt, "n") {
			c := substrate.Cost{
				RTT:     time.Duration(rapid.IntRange(1, 50).Draw(rt, "rtt")) * 2 * time.Microsecond,
				PerByte: float64(rapid.IntRange(1, 50).Draw(rt, "perbyte")) / 10,
			}
			cs = append(cs, Candidate{Path: Path{"x", string(rune('a' + i))}, Tier: Healthy, cost: c})
		}
		stretches := Envelope(cs)
		require.Equal(rt, len(cs) == 0, len(stretches) == 0)
		for _, size := range []int{0, 1, 64, 1000, 1 << 12, 1 << 16, 1 << 20, 1 << 30} {
			var chosen Path
			for _, s := range stretches {
				if s.From <= size {
					chosen = s.Path
				}
			}
			best := time.Duration(math.MaxInt64)
			for _, c := range cs {
				best = min(best, c.cost.OneWay(size))
			}
			for _, c := range cs {
				if c.Path == chosen {
					require.InDelta(rt, best, c.cost.OneWay(size), 1)
				}
			}
		}
		for i := 1; i < len(stretches); i++ {
			require.Greater(rt, stretches[i].From, stretches[i-1].From)
		}
	})
}
