package selector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// quiet is a cost without jitter, and tinySizes are messages for which bandwidth hardly counts.
func quiet(rtt time.Duration) substrate.Cost {
	return substrate.Cost{RTT: rtt, PerByte: .1, Samples: 16}
}

func tinySizes() *Sizes {
	s := new(Sizes)
	for range 1_000_000 {
		s.Add(1)
	}
	return s
}

// Without any noise the thresholds alone decide.
func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		from, to time.Duration
		first    Cause // in the first round
		later    Cause // after the third
	}{
		{40 * time.Microsecond, 19 * time.Microsecond, CauseInitial, CauseBest},
		{40 * time.Microsecond, 26 * time.Microsecond, CauseInitial, CauseBest},
		{40 * time.Microsecond, 28 * time.Microsecond, CauseConfirming, CauseFaster},
		{40 * time.Microsecond, 31 * time.Microsecond, CauseConfirming, CauseFaster},
		{40 * time.Microsecond, 33 * time.Microsecond, CauseSmallGain, CauseSmallGain},
		{3 * time.Microsecond, 1200 * time.Nanosecond, CauseNoise, CauseNoise}, // 0.9 us gained
	} {
		l := newLab(t, offer(tcp, shm)...)
		l.sizes = tinySizes()
		l.fixed(tcp, quiet(c.from))
		l.fixed(shm, quiet(c.to))
		require.Equal(t, c.first, l.step().Cause, c)
		l.step()
		require.Equal(t, c.later, l.step().Cause, c)
	}
}

// On a machine that is busy, all figures go up and down together. Three rounds in which the other path took less than two thirds are
// enough, and for a connection that is young one that tells little between them does no harm. If they go up and down by themselves, a connection
// that isn't young waits for more than noise.
func TestFirstUpgradeInNoise(t *testing.T) {
	busy := []time.Duration{40 * time.Microsecond, 12 * time.Microsecond, 33 * time.Microsecond, 14 * time.Microsecond}
	own := []time.Duration{40 * time.Microsecond, 40 * time.Microsecond, 40 * time.Microsecond, 40 * time.Microsecond}
	run := func(age time.Duration, busy []time.Duration, parts ...float64) (causes []Cause) {
		l := newLab(t, offer(tcp, shm)...)
		l.sizes = tinySizes()
		round := 0
		measure := func(part func() float64) func() Measurement {
			return func() Measurement {
				c := quiet(time.Duration(part() * float64(busy[round])))
				c.Samples = initialSamples - 1 // no single round is enough
				return Measurement{Cost: c}
			}
		}
		l.paths[tcp] = measure(func() float64 { return 1 })
		l.paths[shm] = measure(func() float64 { return parts[round] })
		l.now = l.now.Add(age)
		for range parts {
			causes = append(causes, l.step().Cause)
			round++
		}
		return causes
	}
	require.Equal(t, []Cause{CauseConfirming, CauseConfirming, CauseFaster}, run(0, busy, .6, .6, .6))
	require.Equal(t, []Cause{CauseConfirming, CauseSmallGain, CauseConfirming, CauseFaster}, run(0, busy, .6, .9, .6, .6))
	require.Equal(t, []Cause{CauseConfirming, CauseBest, CauseConfirming, CauseConfirming}, run(0, busy, .6, 1.1, .6, .6))
	require.Equal(t, []Cause{CauseConfirming, CauseConfirming, CauseFaster}, run(initialWindow, busy, .6, .6, .6))
	require.Equal(t, []Cause{CauseConfirming, CauseSmallGain, CauseConfirming, CauseNoise}, run(initialWindow, own, .6, .95, .6, .78))
}

// Current is compared with current: figures of different rounds don't meet.
func TestDifferentRoundsDoNotCompare(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	r := l.table.Round(l.now)
	l.table.Record(tcp, Measurement{Round: r.ID, At: l.now, Cost: tcpCost})
	l.table.Record(shm, Measurement{Round: r.ID, At: l.now, Class: substrate.PathSuspect, Reason: "late"})
	l.now = l.now.Add(2 * time.Second)
	r = l.table.Round(l.now, tcp)
	l.table.Record(shm, Measurement{Round: r.ID, At: l.now, Cost: shmCost})
	d := l.decide(RoundDone)
	require.Equal(t, CauseRound, d.Cause, d.String())
	require.Equal(t, confirm, d.Again)
	l.table.Record(tcp, Measurement{Round: r.ID, At: l.now, Cost: tcpCost})
	require.Equal(t, CauseInitial, l.decide(RoundDone).Cause, "as soon as both are in")
}

// A probe that somebody makes by hand during a hold-down shows that the path works again, not that it will last.
func TestHoldDownOutlastsAProbe(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.table.Died(l.now, shm, "reset")
	l.table.Died(l.now, shm, "reset")
	r := l.table.Round(l.now)
	require.Equal(t, []Path{tcp}, r.Paths)
	l.table.Record(shm, Measurement{Round: r.ID, At: l.now, Cost: shmCost})
	c := l.table.Candidates(l.now, StartWeights, Policy{})[0]
	require.Equal(t, Suspect, c.Tier)
	require.Equal(t, "died 2 times; held down for 2s more", c.Reason)
}

func TestLastResortOrder(t *testing.T) {
	second, docker := Path{"tcp", "192.168.0.7:7000"}, Path{"tcp", "172.17.0.1:7000"}
	l := newLab(t, offer(docker, second, tcp, shm)...)
	l.fixed(second, tcpCost)
	l.fixed(shm, shmCost)
	l.gone(tcp, "silent")
	l.gone(docker, "silent")
	l.probe()
	l.b.Bound(l.now, shm)
	l.now = l.now.Add(2 * DefaultTTL)
	l.table.Died(l.now, shm, "reset")
	require.Equal(t, second, l.decide(LinkDied).To, "measured, if long ago")
	l.b.Bound(l.now, shm)
	l.table.Died(l.now, second, "reset")
	require.Equal(t, tcp, l.decide(LinkDied).To, "the one that the connection began on")
	l.b.Bound(l.now, shm)
	l.table.SetOffers(offer(docker, second, shm))
	require.Equal(t, second, l.decide(LinkDied).To, "measured at least once")
	l.b.Bound(l.now, shm)
	l.table.SetOffers(offer(docker, shm))
	require.Equal(t, docker, l.decide(LinkDied).To, "or any")
	require.Contains(t, l.log[len(l.log)-1].String(), "last resort, not measured")
}
