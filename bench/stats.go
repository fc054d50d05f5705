package bench

import (
	"math"
	"math/rand/v2"
	"slices"
)

const (
	resamples  = 2000 // of the bootstrap: the ends of a 95 % interval then stand on about 50 each
	confidence = 0.95
)

// A Summary describes a sample by its order: means and deviations say little about ratios of timings, whose tail is heavy.
type Summary struct {
	N      int // sample size; 0: the rest is meaningless
	Median float64
	Q1, Q3 float64 // quartiles: where single values lie
	Lo, Hi float64 // 95 % confidence interval of the median, by bootstrap: how well the median is known
}

// Summarize describes values, which were taken in turn from a number of sets: values[i] belongs to set i % sets. Values of
// one set may have something in common (here: the connections they were measured on), so the bootstrap draws whole sets.
// The same values and seed give the same interval.
func Summarize(values []float64, sets int, seed uint64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	v := slices.Sorted(slices.Values(values))
	s := Summary{N: len(v), Median: Quantile(v, 0.5), Q1: Quantile(v, 0.25), Q3: Quantile(v, 0.75)}
	s.Lo, s.Hi = bootstrapMedian(values, min(max(sets, 1), len(values)), seed)
	return s
}

// Median returns the median of values, NaN if there are none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return Quantile(slices.Sorted(slices.Values(values)), 0.5)
}

// Quantile returns the q-quantile, 0 <= q <= 1, of sorted values, of which there must be some: it interpolates linearly
// between the two nearest (type 7 of Hyndman and Fan, the usual one).
func Quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	// Not a+f*(b-a): that can leave [a, b] by rounding.
	f := at - float64(i)
	return min(max(sorted[i]*(1-f)+sorted[i+1]*f, sorted[i]), sorted[i+1])
}

// bootstrapMedian returns the percentile bootstrap interval of the median: what 95 % of the medians of samples lie in that
// are drawn, set by set and with replacement, from the sample.
func bootstrapMedian(values []float64, sets int, seed uint64) (lo, hi float64) {
	rnd := rand.New(rand.NewPCG(seed, uint64(len(values))))
	medians := make([]float64, resamples)
	draw := make([]float64, 0, len(values)+sets) // the sets may differ in length by one
	for i := range medians {
		draw = draw[:0]
		for range sets {
			for j := rnd.IntN(sets); j < len(values); j += sets {
				draw = append(draw, values[j])
			}
		}
		slices.Sort(draw)
		medians[i] = Quantile(draw, 0.5)
	}
	slices.Sort(medians)
	return Quantile(medians, (1-confidence)/2), Quantile(medians, (1+confidence)/2)
}
