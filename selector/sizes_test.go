package selector

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSizesFollowTheConnection(t *testing.T) {
	var s Sizes
	var m mix
	require.InDeltaSlice(t, StartWeights[:], first(m.fold(nil)), 1e-9)
	require.InDeltaSlice(t, StartWeights[:], first(m.fold(&s)), 1e-9)
	for range 10_000 {
		s.Add(128)
	}
	require.Greater(t, m.fold(&s)[0], .99)
	require.Greater(t, WeightsOf(&s)[0], .99)
	for range 10_000 {
		s.Add(1 << 20)
	}
	require.Greater(t, m.fold(&s)[3], .9, "what it has become, not what it was")
	before := m.fold(&s)
	s.Add(1)
	require.InDelta(t, before[3], m.fold(&s)[3], .01, "one message changes little")
}

func TestBuckets(t *testing.T) {
	for size, bucket := range map[int]int{0: 0, 64: 0, 512: 0, 513: 1, 4096: 1, 16 << 10: 1, 32 << 10: 2, 64 << 10: 2, 256 << 10: 2, 256<<10 + 1: 3, 1 << 30: 3} {
		var s Sizes
		s.Add(size)
		require.Equal(t, uint32(1), s.counts[bucket].Load(), "%d", size)
	}
}

// TestSizesAreNearlyUpToDate: what Add has not put into the counts yet is little.
func TestSizesAreNearlyUpToDate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Sizes
		var want [len(Buckets)]uint32
		for _, b := range rapid.SliceOf(rapid.IntRange(0, len(Buckets)-1)).Draw(t, "messages") {
			s.Add(Buckets[b])
			want[b]++
			all, behind := uint32(0), uint32(0)
			for b := range want {
				have := s.counts[b].Load()
				require.LessOrEqual(t, have, want[b])
				all, behind = all+want[b], behind+want[b]-have
			}
			require.Less(t, behind, uint32(mostRun))
			require.LessOrEqual(t, behind, all/2)
		}
	})
}

func TestCountersWrapAround(t *testing.T) {
	var s Sizes
	var m mix
	s.counts[3].Store(^uint32(0) - 10)
	m.fold(&s)
	m.count = [len(Buckets)]float64{1, 1, 1, 1}
	for range 20 {
		s.Add(1 << 20)
	}
	s.flush(0)
	require.InDelta(t, 21./24, m.fold(&s)[3], 1e-9)
}

func TestWeightsSumToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Sizes
		var m mix
		for range rapid.IntRange(1, 20).Draw(t, "folds") {
			for b := range s.counts {
				s.counts[b].Add(rapid.Uint32().Draw(t, "messages"))
			}
			w := m.fold(&s)
			sum := 0.0
			for _, x := range w {
				require.GreaterOrEqual(t, x, 0.0)
				sum += x
			}
			require.InDelta(t, 1, sum, 1e-6)
		}
	})
}

func first(w Weights) []float64 { return w[:] }
