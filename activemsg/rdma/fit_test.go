package rdma

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

var fixed = Thresholds{Inline: 196, Keep: 1024, Gather: 4 << 10, Direct: 32 << 10}

// played makes trials of a model: what a message costs in each way, in us, and how much that varies.
func played(sizes []int, below, above func(n int) float64, noise float64) (all []trial) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range sizes {
		t := trial{size: n}
		for range fitRounds {
			vary := func(us float64) time.Duration { return time.Duration(us * 1e3 * (1 + noise*r.NormFloat64())) }
			t.below, t.above = append(t.below, vary(below(n))), append(t.above, vary(above(n)))
		}
		all = append(all, t)
	}
	return all
}

var keepSizes = []int{256, 512, 1024, 2048, 4096, 8192, 16384}

// crossing is a copy at 1 us a KiB against a fixed price.
func crossing(at int) (below, above func(n int) float64) {
	return func(n int) float64 { return 10 + float64(n)/1024 }, func(int) float64 { return 10 + float64(at)/1024 }
}

func TestBorderCrossing(t *testing.T) {
	for _, at := range []int{300, 1500, 3000, 6000, 12000} {
		below, above := crossing(at)
		from, ok := border(played(keepSizes, below, above, 0), 1024)
		want := 0
		for _, n := range keepSizes {
			if n >= at {
				want = n
				break
			}
		}
		switch {
		case at == 1500 || at == 300: // what is won between there and the constant is less than counts, or two sizes' worth
			if ok {
				require.Equal(t, want, from)
			}
		default:
			require.True(t, ok, at)
			require.Equal(t, want, from)
		}
	}
	// Never: beyond all sizes.
	below, above := crossing(1 << 20)
	from, ok := border(played(keepSizes, below, above, 0), 1024)
	require.True(t, ok)
	require.Equal(t, 16385, from)
}

// TestBorderNoise: what noise explains moves nothing; what it doesn't, does.
func TestBorderNoise(t *testing.T) {
	same := func(int) float64 { return 100 }
	for _, noise := range []float64{0, 0.05, 0.3} {
		_, ok := border(played(keepSizes, same, same, noise), 1024)
		require.False(t, ok, noise)
	}
	twice := func(int) float64 { return 200 }
	from, ok := border(played(keepSizes, same, twice, 0.2), 1024)
	require.True(t, ok)
	require.Equal(t, 16385, from)
	// One size against the others doesn't make two borders.
	odd := func(n int) float64 {
		if n == 4096 {
			return 120
		}
		return 80
	}
	from, ok = border(played(keepSizes, same, odd, 0.01), 1024)
	require.True(t, ok)
	require.Equal(t, 256, from)
}

func TestBorderTooFew(t *testing.T) {
	below, above := crossing(1 << 20)
	trials := played(keepSizes, below, above, 0)
	trials[3].below = trials[3].below[:leastSamples-1]
	_, ok := border(trials, 1024)
	require.False(t, ok)
	_, ok = border(nil, 1024)
	require.False(t, ok)
}

// TestFitBounds: whatever comes out of a measurement lies within what the device can do and what makes sense.
func TestFitBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cost := rapid.SliceOfN(rapid.Float64Range(0, 1e4), 2*(len(keepSizes)+3), -1).Draw(t, "costs")
		inlineSizes := []int{32, 96, 196}
		at := 0
		next := func(int) float64 { at++; return cost[at%len(cost)] }
		figures := Figures{
			Post:    time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "post")),
			PerByte: rapid.Float64Range(0, 1e3).Draw(t, "copy"), Samples: fitRounds,
		}
		f := fit(fixed, played(inlineSizes, next, next, 0.1), played(keepSizes, next, next, 0.1), figures)
		require.True(t, f.Inline >= 0 && f.Inline <= fixed.Inline, "%v", f)
		require.True(t, f.Keep >= leastKeep && f.Keep <= mostKeep, "%v", f)
		require.True(t, f.Gather >= leastGather && f.Gather <= mostGather, "%v", f)
		require.True(t, f.Direct >= leastDirect && f.Direct <= mostDirect, "%v", f)
		require.Equal(t, f.Thresholds != fixed, f.Moved)
	})
	require.Equal(t, fixed, fit(fixed, nil, nil, Figures{Post: 1, PerByte: 1, Samples: leastSamples - 1}).Thresholds)
}

func TestFitSays(t *testing.T) {
	f := fit(fixed, nil, nil, Figures{})
	require.Contains(t, f.String(), "constants, not measured")
	f = fit(fixed, nil, nil, Figures{Post: 400 * time.Nanosecond, RTT: 3 * time.Microsecond, PerByte: 0.1, Samples: 15})
	require.True(t, f.Moved)
	require.Equal(t, 2<<10, f.Gather) // 4000 bytes cost a post
	require.Equal(t, 16<<10, f.Direct)
	require.Contains(t, f.String(), "fitted: post 400ns")
}

// A mirror answers what is tried over two carriers of a simulated network, and can make the ways of sending cost what a test says.
type mirror struct {
	mu    sync.Mutex
	x     *Carrier
	y     *Carrier
	asked int
	cost  func(before, after Stats, n int) time.Duration
	fails error
}

func (m *mirror) try(_ context.Context, payload []byte) (sent, answered time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil && m.asked > 100 {
		return 0, 0, m.fails
	}
	m.asked++
	var lead [8]byte
	binary.LittleEndian.PutUint64(lead[:], uint64(m.asked))
	before := m.x.Stats()
	if err := m.x.Send(head(1), [][]byte{lead[:], payload}); err != nil {
		return 0, 0, err
	}
	var batch [1]activemsg.Segment
	if _, err := m.y.Recv(batch[:]); err != nil {
		return 0, 0, err
	}
	if len(batch[0].Payload) != len(lead)+len(payload) {
		return 0, 0, errors.New("another message")
	}
	m.y.Done(&batch[0])
	if err := m.y.Send(head(2), nil); err != nil {
		return 0, 0, err
	}
	if _, err := m.x.Recv(batch[:]); err != nil {
		return 0, 0, err
	}
	m.x.Done(&batch[0])
	return time.Microsecond, m.cost(before, m.x.Stats(), len(lead)+len(payload)), nil
}

// TestMeasure: each way is really taken, what it costs decides, and afterwards messages go the way that was found.
func TestMeasure(t *testing.T) {
	s := simulated(t, sim.Config{})
	x, y := s.connect(t, ConnConfig{Payload: 16<<10 + 8}, ConnConfig{Payload: 16<<10 + 8})
	var inline, copied, kept int
	m := &mirror{x: x, y: y}
	m.cost = func(before, after Stats, n int) time.Duration {
		d := 100 * time.Microsecond
		switch {
		case after.Inline > before.Inline:
			inline++
			return d * 3 / 2 // worse than a copy, always
		case after.Kept > before.Kept:
			kept++
			return d
		}
		copied++
		return d - 20*time.Microsecond + time.Duration(n)*time.Microsecond/200 // worse from 4000 bytes on
	}
	prior := x.Thresholds()
	f, err := x.Measure(t.Context(), 8, m.try)
	require.NoError(t, err)
	require.Equal(t, prior, x.Thresholds(), "nothing is in force before Adopt")
	require.Equal(t, 0, inline-3*(fitRounds+1))
	require.Equal(t, kept, 7*(fitRounds+1))
	require.Equal(t, copied, 10*(fitRounds+1))
	require.Equal(t, fitRounds, f.Samples)
	require.Less(t, f.Inline, 32)
	require.Equal(t, 4096, f.Keep)
	require.True(t, f.Moved)

	x.Adopt(f.Thresholds)
	require.Equal(t, f.Thresholds, x.Thresholds())
	mem := x.Lend(4096)
	defer x.Return(mem)
	for n, way := range map[int]*int{64: &copied, 2048: &copied, 4096: &kept} {
		before := *way
		_, _, err := m.try(t.Context(), mem[:n-8])
		require.NoError(t, err)
		require.Equal(t, before+1, *way, "%d bytes", n)
	}
	// More than the device grants is never in force.
	x.Adopt(Thresholds{Inline: 1 << 20, Keep: 1024})
	require.Equal(t, x.Limits().Inline, x.Thresholds().Inline)
}

// TestMeasureFails: a measurement that breaks off leaves everything as it was.
func TestMeasureFails(t *testing.T) {
	s := simulated(t, sim.Config{})
	x, y := s.connect(t, ConnConfig{}, ConnConfig{})
	prior := x.Thresholds()
	m := &mirror{x: x, y: y, fails: errors.New("broken"), cost: func(Stats, Stats, int) time.Duration { return 1 }}
	_, err := x.Measure(t.Context(), 8, m.try)
	if err != nil { // enough may have been there
		require.ErrorIs(t, err, m.fails)
	}
	require.Equal(t, prior, x.Thresholds())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = x.Measure(ended, 8, m.try)
	require.Error(t, err)
	require.Equal(t, prior, x.Thresholds())
}
