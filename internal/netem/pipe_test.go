package netem

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var epoch = time.Unix(1_000_000, 0)

// send admits n packets of size bytes, one each interval, and returns the deliveries of each.
func send(p *Pipe, n, size int, interval time.Duration) [][]Delivery {
	all := make([][]Delivery, n)
	for i := range all {
		all[i] = slices.Clone(p.Admit(epoch.Add(time.Duration(i)*interval), size))
	}
	return all
}

// within fails if k of n is further from the fraction p than five standard deviations of independent trials, times spread for those
// that hang together.
func within(t *testing.T, p float64, k, n int, spread float64, what string) {
	t.Helper()
	sigma := math.Sqrt(p*(1-p)*float64(n)) * spread
	require.InDelta(t, p*float64(n), k, 5*sigma, "%s: %d of %d", what, k, n)
}

func TestZeroImpairmentPassesAtOnce(t *testing.T) {
	p := NewPipe(Impairment{}, 1)
	require.Equal(t, []Delivery{{At: epoch, Flip: -1}}, p.Admit(epoch, 1500))
	require.Equal(t, Stats{Admitted: 1, Bytes: 1500, Delivered: 1}, p.Stats())
}

func TestFractions(t *testing.T) {
	const n = 200_000
	for seed := range uint64(4) {
		p := NewPipe(MustParse("loss=1%,dup=5%,corrupt=0.2%,reorder=2%,delay=5ms"), seed)
		send(p, n, 1000, 10*time.Microsecond)
		s := p.Stats()
		within(t, 0.01, int(s.Lost), n, 1, "lost")
		within(t, 0.05*0.99, int(s.Duplicated), n, 1, "duplicated")
		within(t, 0.002*0.99, int(s.Corrupted), n, 1, "corrupted")
		within(t, 0.02*0.99, int(s.Reordered), n, 1, "reordered")
	}
}

// TestBursts: the losses are as many as asked for and come in runs of the length asked for; without bursts, in those of chance.
func TestBursts(t *testing.T) {
	const n = 500_000
	for _, c := range []struct {
		spec        string
		loss, burst float64
	}{
		{"loss=2%", 0.02, 1 / 0.98},
		{"loss=2%,burst=5", 0.02, 5},
		{"loss=20%,burst=20", 0.2, 20},
		{"loss=50%,burst=1.5", 0.5, 1.5}, // fewer in a row than chance has (2)
	} {
		p := NewPipe(MustParse(c.spec), 7)
		lost, runs, before := 0, 0, false
		for _, ds := range send(p, n, 100, time.Microsecond) {
			now := len(ds) == 0
			if now {
				lost++
				if !before {
					runs++
				}
			}
			before = now
		}
		// The variance of a sum of such losses is that of independent ones times about 2*burst.
		within(t, c.loss, lost, n, math.Sqrt(2*c.burst), c.spec)
		// A run's length is geometric: its deviation is at most its mean.
		require.InDelta(t, c.burst, float64(lost)/float64(runs), 5*c.burst/math.Sqrt(float64(runs)), c.spec)
	}
}

func TestEverythingLost(t *testing.T) {
	for _, spec := range []string{"loss=100%", "loss=1,burst=4"} {
		p := NewPipe(MustParse(spec), 1)
		send(p, 1000, 100, 0)
		require.EqualValues(t, 1000, p.Stats().Lost, spec)
	}
}

func TestDeterminism(t *testing.T) {
	im := MustParse("rate=10mbit,delay=10ms,jitter=3ms,loss=3%,burst=4,dup=5%,reorder=2%,corrupt=1%")
	a := send(NewPipe(im, 42), 5000, 1200, 800*time.Microsecond)
	require.Equal(t, a, send(NewPipe(im, 42), 5000, 1200, 800*time.Microsecond))
	require.NotEqual(t, a, send(NewPipe(im, 43), 5000, 1200, 800*time.Microsecond))
}

// TestFatesAreIndependent: which packets are lost doesn't change with what else happens to them or when they come.
func TestFatesAreIndependent(t *testing.T) {
	fates := func(spec string, interval time.Duration) (lost []int) {
		for i, ds := range send(NewPipe(MustParse(spec), 9), 10_000, 100, interval) {
			if len(ds) == 0 {
				lost = append(lost, i)
			}
		}
		return lost
	}
	want := fates("loss=2%,burst=3", time.Millisecond)
	require.NotEmpty(t, want)
	require.Equal(t, want, fates("loss=2%,burst=3,dup=10%,jitter=5ms,shape=pareto,reorder=4%,corrupt=3%", 3*time.Microsecond))
	require.Equal(t, want, fates("loss=2%,burst=3,rate=1gbit,delay=1s", time.Second))
}

// TestRateIsExact: a saturated path carries exactly its rate, to the nanosecond, whatever doesn't divide evenly.
func TestRateIsExact(t *testing.T) {
	const n, size = 10_000, 1447
	for _, rate := range []int64{1_000_003, 200_000_000, 999_999_937} {
		p := NewPipe(Impairment{Rate: rate, Queue: n * size}, 1)
		for i, ds := range send(p, n, size, 0) {
			require.Len(t, ds, 1)
			bits := float64(i+1) * size * 8
			want := time.Duration(bits / float64(rate) * 1e9)
			require.InDelta(t, want, ds[0].At.Sub(epoch), 2)
		}
		require.Equal(t, n*size, p.Stats().MaxQueue)
	}
}

func TestIdleTimeIsNotSaved(t *testing.T) {
	p := NewPipe(MustParse("rate=8mbit"), 1) // a byte each microsecond
	at := func(d time.Duration) time.Duration { return p.Admit(epoch.Add(d), 1000)[0].At.Sub(epoch) }
	require.Equal(t, time.Millisecond, at(0))
	require.Equal(t, 2*time.Millisecond, at(0))
	require.Equal(t, 3*time.Millisecond, at(1500*time.Microsecond))
	require.Equal(t, 11*time.Millisecond, at(10*time.Millisecond), "a burst isn't allowed for idling")
}

func TestQueueLimit(t *testing.T) {
	p := NewPipe(MustParse("rate=8mbit,queue=5000"), 1)
	ds := send(p, 8, 1000, 0)
	for i, d := range ds {
		require.Equal(t, i < 5, len(d) == 1, i)
	}
	require.EqualValues(t, 3, p.Stats().QueueFull)
	require.Empty(t, p.Admit(epoch.Add(999*time.Microsecond), 1000), "the first is still being sent")
	got := p.Admit(epoch.Add(time.Millisecond), 1000)
	require.Len(t, got, 1)
	require.Equal(t, 6*time.Millisecond, got[0].At.Sub(epoch))
	require.Empty(t, p.Admit(epoch.Add(time.Millisecond), 1))
	require.Empty(t, p.Admit(epoch.Add(time.Millisecond), 0), "an empty packet takes room, too")
	require.Equal(t, 5000, p.Stats().MaxQueue)
	require.Equal(t, 64<<10, DefaultQueue(1_000_000))
	require.Equal(t, 1_250_000, DefaultQueue(200_000_000))
}

func TestMTUHole(t *testing.T) {
	p := NewPipe(MustParse("mtu=1400"), 1)
	require.Len(t, p.Admit(epoch, 1400), 1)
	require.Empty(t, p.Admit(epoch, 1401))
	require.EqualValues(t, 1, p.Stats().TooLarge)
}

func TestSetChangesWhatFollows(t *testing.T) {
	p := NewPipe(MustParse("rate=8mbit,delay=5ms"), 1)
	require.Len(t, p.Admit(epoch, 1000), 1)
	p.Set(MustParse("blackhole"))
	require.Empty(t, p.Admit(epoch, 1000))
	require.EqualValues(t, 1, p.Stats().Blackholed)
	p.Set(Impairment{})
	require.Equal(t, 6*time.Millisecond, p.Admit(epoch, 1000)[0].At.Sub(epoch), "no overtaking")
}

// TestJitter: the delays have the mean and the spread of their shape when they are free, and never swap packets when they aren't.
func TestJitter(t *testing.T) {
	const n = 100_000
	for shape, want := range map[string]struct{ mean, deviation float64 }{ // in ms
		"uniform": {20, 4 / math.Sqrt(3)},
		"normal":  {20, 4},
		"pareto":  {24, 4 * math.Sqrt(3)}, // Lomax of alpha 3, scaled to the mean 4
	} {
		p := NewPipe(MustParse("delay=20ms,jitter=4ms,unordered,shape="+shape), 3)
		var sum, squares float64
		for i, ds := range send(p, n, 100, time.Microsecond) {
			ms := float64(ds[0].At.Sub(epoch)-time.Duration(i)*time.Microsecond) / 1e6
			require.GreaterOrEqual(t, ms, 0.0)
			sum, squares = sum+ms, squares+ms*ms
		}
		mean := sum / n
		require.InDelta(t, want.mean, mean, 0.1, shape)
		// The Pareto shape has no fourth moment: its sampled deviation converges slowly.
		require.InEpsilon(t, want.deviation, math.Sqrt(squares/n-mean*mean), 0.15, shape)
	}
	var last time.Time
	for _, ds := range send(NewPipe(MustParse("delay=20ms,jitter=4ms"), 3), 1000, 100, time.Microsecond) {
		require.False(t, ds[0].At.Before(last))
		last = ds[0].At
	}
}

func TestReorderHoldsBackByTheGap(t *testing.T) {
	p := NewPipe(MustParse("delay=10ms,reorder=10%,gap=5ms"), 3)
	late := 0
	for i, ds := range send(p, 1000, 100, time.Millisecond) {
		switch took := ds[0].At.Sub(epoch) - time.Duration(i)*time.Millisecond; took {
		case 10 * time.Millisecond:
		case 15 * time.Millisecond:
			late++
		default:
			require.Fail(t, "another delay", took)
		}
	}
	require.EqualValues(t, late, p.Stats().Reordered)
	require.NotZero(t, late)
}

func TestFlippedBitsAreEverywhere(t *testing.T) {
	p := NewPipe(MustParse("corrupt=100%"), 3)
	var hits [10 * 8]int
	for _, ds := range send(p, 80_000, 10, 0) {
		hits[ds[0].Flip]++
	}
	for _, n := range hits {
		within(t, 1.0/80, n, 80_000, 1, "hits of one bit")
	}
}

// TestConservation: whatever the impairments, sizes and times, each packet is accounted for, and none arrives before it was sent.
func TestConservation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewPipe(anyImpairment(t), rapid.Uint64().Draw(t, "seed"))
		now, delivered, admitted := epoch, 0, 0
		for range rapid.IntRange(1, 5).Draw(t, "phases") {
			for range rapid.IntRange(0, 50).Draw(t, "packets") {
				now = now.Add(time.Duration(rapid.Int64Range(0, 1e7).Draw(t, "wait")))
				ds := p.Admit(now, rapid.IntRange(0, 1<<16).Draw(t, "size"))
				admitted++
				delivered += len(ds)
				for _, d := range ds {
					require.False(t, d.At.Before(now))
				}
			}
			p.Set(anyImpairment(t))
		}
		s := p.Stats()
		require.EqualValues(t, admitted, s.Admitted)
		require.EqualValues(t, delivered, s.Delivered)
		require.Equal(t, s.Admitted+s.Duplicated, s.Delivered+s.Dropped())
	})
}

func BenchmarkAdmit(b *testing.B) {
	p := NewPipe(MustParse("rate=10gbit,delay=25ms,jitter=1ms,loss=1%,burst=4,dup=1%,reorder=1%,corrupt=1%"), 1)
	now := epoch
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Microsecond)
		p.Admit(now, 1500)
	}
}
