package selector

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// Probing backs off for what can't win, and not for what can.
func TestProbeSchedule(t *testing.T) {
	l := newLab(t, offer(tcp, udp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.gone(udp, "blocked")
	gaps := map[Path][]time.Duration{}
	last := map[Path]time.Time{}
	l.b.Bound(l.now, shm)
	for range 400 {
		next, ok := l.table.NextProbe(l.now)
		require.True(t, ok)
		l.now = next
		r := l.table.Round(l.now, shm)
		require.Contains(t, r.Paths, shm, "the path in use is measured in every round")
		for _, p := range r.Paths {
			if at, ok := last[p]; ok {
				gaps[p] = append(gaps[p], l.now.Sub(at))
			}
			last[p] = l.now
			m := Measurement{Class: substrate.PathDown, Reason: "blocked"}
			if f := l.paths[p]; f != nil {
				m = f()
			}
			m.Round, m.At = r.ID, l.now
			l.table.Record(p, m)
		}
	}
	for p, g := range gaps {
		for _, d := range g {
			require.LessOrEqual(t, d, time.Duration(1.2*float64(maxInterval)), p)
		}
	}
	settled := func(p Path) []time.Duration { return gaps[p][len(gaps[p])/2:] }
	require.NotEmpty(t, settled(tcp))
	for _, d := range append(settled(tcp), settled(udp)...) {
		require.Greater(t, d, maxInterval/2, "losers and failures are probed once a minute")
	}
	spread := map[time.Duration]bool{}
	for _, d := range gaps[shm] {
		require.LessOrEqual(t, d, time.Duration(1.2*float64(DefaultInterval)))
		spread[d] = true
	}
	require.Greater(t, len(spread), 100, "at random times")
}

func TestHasten(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.probe()
	soon := l.now.Add(time.Second)
	l.table.Hasten(soon, shm, Path{"no", "such"})
	next, _ := l.table.NextProbe(l.now)
	require.Equal(t, soon, next)
	l.table.Hasten(soon.Add(time.Hour), shm)
	next, _ = l.table.NextProbe(l.now)
	require.Equal(t, soon, next, "never later")
	l.table.Died(l.now, shm, "reset")
	l.table.Died(l.now, shm, "reset")
	l.table.Hasten(l.now, shm)
	next, _ = l.table.NextProbe(l.now)
	require.Equal(t, l.now.Add(2*time.Second), next, "a hold-down is a hold-down")
}

func TestInvalidate(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.probe()
	old := l.table.Round(l.now.Add(time.Minute))
	l.table.Invalidate(l.now, "route changed", shm)
	l.table.Record(shm, Measurement{Round: old.ID, At: l.now, Cost: shmCost})
	cs := l.table.Candidates(l.now, StartWeights, Policy{})
	require.Equal(t, tcp, cs[0].Path)
	require.True(t, cs[0].OK)
	require.Equal(t, "to be measured again: route changed", cs[1].Reason)
	next, _ := l.table.NextProbe(l.now)
	require.Equal(t, l.now, next)
	require.True(t, l.probe())
	require.True(t, l.table.Candidates(l.now, StartWeights, Policy{})[1].OK)
}

func TestSetOffers(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.probe()
	l.table.SetOffers(append(offer(udp, shm, shm), Offer{Path: tcp, Barred: "interface is down"}))
	cs := l.table.Candidates(l.now, StartWeights, Policy{})
	require.Len(t, cs, 3)
	require.Equal(t, shm, cs[0].Path)
	require.True(t, cs[0].OK, "what is known stays known")
	reasons := map[Path]string{cs[1].Path: cs[1].Reason, cs[2].Path: cs[2].Reason}
	require.Equal(t, map[Path]string{tcp: "interface is down", udp: "not probed yet"}, reasons)

	var many []Offer
	for i := range 1000 {
		many = append(many, Offer{Path: Path{"tcp", fmt.Sprint(i)}})
	}
	many[0] = Offer{Path: Path{"evil\n\x1b[31m", strings.Repeat("x", 1e6)}, Barred: "\x00"}
	l.table.SetOffers(many)
	cs = l.table.Candidates(l.now, StartWeights, Policy{})
	require.Len(t, cs, maxOffers)
	for _, c := range cs {
		require.LessOrEqual(t, len(c.Addr), maxText)
		require.NotContains(t, c.Substrate+c.Addr+c.Reason, "\x1b")
		require.NotContains(t, c.Substrate+c.Addr+c.Reason, "\n")
	}
}

func TestImplausibleFigures(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1} {
		c := plausible(substrate.Cost{RTT: -1, Jitter: -1, SendOverhead: -1, PerByte: bad, Loss: bad, Samples: -1})
		c.Loss = math.Floor(c.Loss) // infinite loss is all lost
		require.Contains(t, []float64{0, 1}, c.Loss)
		c.Loss = 0
		require.Equal(t, substrate.Cost{}, c)
	}
	s := score(plausible(substrate.Cost{RTT: math.MaxInt64, PerByte: math.MaxFloat64, Loss: 9}), StartWeights, 0, DefaultTTL)
	require.False(t, math.IsNaN(s))
}

// A round of pings without a train of packets keeps the bandwidth that is known, unless the network changed.
func TestPingsKeepTheBandwidth(t *testing.T) {
	l := newLab(t, offer(tcp)...)
	perByte := func() float64 { return l.table.Candidates(l.now, StartWeights, Policy{})[0].cost.PerByte }
	l.fixed(tcp, tcpCost)
	l.probe()
	ping := tcpCost
	ping.PerByte = 0
	l.fixed(tcp, ping)
	l.step()
	require.Equal(t, .4, perByte())
	l.table.Invalidate(l.now, "moved")
	l.step()
	require.Zero(t, perByte())
}

func TestScore(t *testing.T) {
	c := substrate.Cost{RTT: 20 * time.Microsecond, SendOverhead: time.Microsecond, PerByte: 1}
	only := Weights{1, 0, 0, 0}
	require.InDelta(t, 11_064, score(c, only, 0, DefaultTTL), 1e-6)
	require.InDelta(t, 2*11_064, score(c, only, DefaultTTL, DefaultTTL), 1e-6, "age makes dearer")
	c.Loss = .01
	require.InDelta(t, 2*11_064, score(c, only, 0, DefaultTTL), 1e-6, "one per cent of loss doubles")
	c.Jitter = time.Microsecond
	require.InDelta(t, 2*13_064, score(c, only, 0, DefaultTTL), 1e-6)
}

// Small messages want the low latency, large ones the high bandwidth, of the same two paths.
func TestSizesDecide(t *testing.T) {
	for size, want := range map[int]Path{64: udp, 1 << 20: verbs} {
		l := newLab(t, offer(tcp, udp, verbs)...)
		l.fixed(tcp, cost(200*time.Microsecond, 2))
		l.fixed(udp, cost(10*time.Microsecond, 1))
		l.fixed(verbs, cost(80*time.Microsecond, .1))
		l.sizes = new(Sizes)
		for range 10_000 {
			l.sizes.Add(size)
		}
		require.Equal(t, want, l.step().To)
	}
}

func TestTableIsSafeForConcurrentUse(t *testing.T) {
	table := NewTable("peer", Config{})
	table.SetOffers(offer(tcp, udp, shm))
	var sizes Sizes
	var wg sync.WaitGroup
	start := time.Unix(1e9, 0)
	for i := range 4 {
		wg.Go(func() {
			b, err := NewBinding(start, tcp, true, Policy{}, Policy{})
			if err != nil {
				panic(err)
			}
			for n := range 200 {
				now := start.Add(time.Duration(n) * time.Second)
				r := table.Round(now, b.Current())
				for _, p := range r.Paths {
					table.Record(p, Measurement{Round: r.ID, At: now, Cost: tcpCost})
				}
				if i == 0 { // Add is for one at a time
					sizes.Add(n)
				}
				if d := b.Decide(now, table, &sizes, RoundDone); d.Action == Switch {
					b.Bound(now, d.To)
				}
				switch n % 50 {
				case i:
					table.Died(now, udp, "reset")
				case 10 + i:
					table.Invalidate(now, "netlink")
				case 20 + i:
					table.SetOffers(offer(tcp, shm, udp))
				case 30 + i:
					table.Report(now, Policy{}, StartWeights, nil)
				case 40 + i:
					table.Hasten(now, tcp)
				}
				table.NextProbe(now)
			}
		})
	}
	wg.Wait()
	require.Len(t, table.Candidates(start, StartWeights, Policy{}), 3)
}

// RTT is what the last measurement says, as long as it holds.
func TestTableRTT(t *testing.T) {
	now := time.Unix(1e9, 0)
	table := NewTable("peer", Config{})
	require.Zero(t, table.RTT(now, tcp), "no candidate")
	table.SetOffers(offer(tcp))
	require.Zero(t, table.RTT(now, tcp), "not measured yet")
	r := table.Round(now)
	table.Record(tcp, Measurement{Round: r.ID, At: now, Cost: tcpCost})
	require.Equal(t, tcpCost.RTT, table.RTT(now, tcp))
	require.Zero(t, table.RTT(now, udp))
	require.Zero(t, table.RTT(now.Add(2*DefaultTTL), tcp), "too long ago")
	table.Died(now, tcp, "gone")
	require.Zero(t, table.RTT(now, tcp))
}

func TestRoundTrips(t *testing.T) {
	const us = time.Microsecond
	require.Equal(t, Measurement{}, RoundTrips(nil, nil))
	require.Equal(t, Measurement{}, RoundTrips([]time.Duration{us}, nil))
	m := RoundTrips([]time.Duration{90 * us, 10 * us, 20 * us, 12 * us, 14 * us}, []time.Duration{20 * us, 10 * us, 14 * us, 12 * us})
	require.Equal(t, 13*us, m.Cost.RTT)
	require.Equal(t, 2400*time.Nanosecond, m.Cost.Jitter, "1.2 times the median of 1, 1, 3 and 7")
	require.Equal(t, 10*us, m.RTTMin)
	require.Equal(t, 90*us, m.RTTP99)
	require.Equal(t, 5, m.Cost.Samples)
	require.True(t, m.OK())
}
