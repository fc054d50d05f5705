package bench

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		name                string
		values              []float64
		q1, median, q3, max float64
	}{
		{"one", []float64{7}, 7, 7, 7, 7},
		{"two", []float64{1, 2}, 1.25, 1.5, 1.75, 2},
		{"odd", []float64{1, 2, 3, 4, 5}, 2, 3, 4, 5},
		{"even", []float64{1, 2, 3, 4}, 1.75, 2.5, 3.25, 4},
		{"tail", []float64{1, 1, 1, 1, 1000}, 1, 1, 1, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.values[0], Quantile(c.values, 0))
			assert.Equal(t, c.q1, Quantile(c.values, 0.25))
			assert.Equal(t, c.median, Quantile(c.values, 0.5))
			assert.Equal(t, c.q3, Quantile(c.values, 0.75))
			assert.Equal(t, c.max, Quantile(c.values, 1))
		})
	}
}

func TestMedian(t *testing.T) {
	values := []float64{3, 1, 2}
	assert.Equal(t, 2.0, Median(values))
	assert.Equal(t, []float64{3, 1, 2}, values, "the argument is left alone")
	assert.True(t, math.IsNaN(Median(nil)))
}

func TestSummarizeEdges(t *testing.T) {
	assert.Equal(t, Summary{}, Summarize(nil, 8, 1))
	assert.Equal(t, Summary{N: 1, Median: 4, Q1: 4, Q3: 4, Lo: 4, Hi: 4}, Summarize([]float64{4}, 8, 1))
	assert.Equal(t, Summary{N: 3, Median: 4, Q1: 4, Q3: 4, Lo: 4, Hi: 4}, Summarize([]float64{4, 4, 4}, 0, 1))
}

// TestSummarizeSets: values that agree within each set and differ between the sets are worth one value per set.
func TestSummarizeSets(t *testing.T) {
	var values []float64
	for i := range 400 {
		values = append(values, float64(i%4))
	}
	alone, together := Summarize(values, len(values), 1), Summarize(values, 4, 1)
	assert.Equal(t, alone.Median, together.Median)
	assert.Greater(t, together.Hi-together.Lo, 1.5*(alone.Hi-alone.Lo))
}

// TestBootstrapCovers draws many samples of a known distribution: about 95 % of the intervals must hold its median.
func TestBootstrapCovers(t *testing.T) {
	const samples, size = 200, 40
	x := uint64(1)
	uniform := func() float64 { // of a fixed sequence: the test has one outcome
		x = x*6364136223846793005 + 1442695040888963407
		return float64(x>>11) / (1 << 53)
	}
	covered := 0
	for range samples {
		var values []float64
		for range size {
			values = append(values, math.Exp(2*uniform())) // median e
		}
		if lo, hi := bootstrapMedian(values, size, 1); lo <= math.E && math.E <= hi {
			covered++
		}
	}
	assert.InDelta(t, confidence, float64(covered)/samples, 0.045)
}

func TestSummaryProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(1e-3, 1e6), 1, 60).Draw(t, "values")
		sets := rapid.IntRange(1, 70).Draw(t, "sets")
		s := Summarize(values, sets, 1)
		require.Equal(t, len(values), s.N)
		order := []float64{slices.Min(values), s.Q1, s.Median, s.Q3, slices.Max(values)}
		require.True(t, slices.IsSorted(order), "%v", order)
		interval := []float64{slices.Min(values), s.Lo, s.Hi, slices.Max(values)}
		require.True(t, slices.IsSorted(interval), "%v", interval)
		require.Equal(t, s, Summarize(values, sets, 1), "the same seed gives the same interval")

		below, above := 0, 0
		for _, v := range values {
			if v < s.Median {
				below++
			}
			if v > s.Median {
				above++
			}
		}
		require.LessOrEqual(t, 2*below, len(values))
		require.LessOrEqual(t, 2*above, len(values))

		// Doubling is exact in floating point, so everything must double.
		var twice []float64
		for _, v := range values {
			twice = append(twice, 2*v)
		}
		d := Summarize(twice, sets, 1)
		require.Equal(t, Summary{s.N, 2 * s.Median, 2 * s.Q1, 2 * s.Q3, 2 * s.Lo, 2 * s.Hi}, d)
	})
}
