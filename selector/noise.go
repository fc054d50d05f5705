package selector

import (
	"math"
	"slices"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// How much a score varies decides how large a gain must be to be believed. Two paths of one machine mostly vary together, with what else it
// does: what a busy machine adds to both cancels in the difference of their scores, what it multiplies in the ratio. So it is these that are
// looked at, from turn to turn within a round and from round to round, and what varies less counts. They are looked at by medians, so that a moment
// in which only one path was hit doesn't.

// What is assumed until there were enough rounds to know how much they vary: a tenth of the time per byte, which the best train gives without
// a deviation; and of a round's n pings, with mean deviation J (0.8 sigma), the standard error of latency: half that of a median, 1.25 * 1.25
// J / sqrt(n), with twice that of a mean deviation, 0.75 J / sqrt(n).
const (
	settledRounds = 4
	latencySigma  = 1.7
	perByteSigma  = 0.1
)

// pastRounds are remembered of each path.
const pastRounds = 8

// A past is what one round has measured.
type past struct {
	round        uint64
	lat, perByte float64 // of its cost, nanoseconds; without the jitter
	jitter       time.Duration
	least        time.Duration // the fastest round trip
}

// A record is what the last rounds have measured, oldest first. The zero record is ready.
type record struct {
	list [pastRounds]past
	n    int
}

func (r *record) add(p past) {
	if r.n > 0 && r.list[r.n-1].round == p.round {
		r.n-- // more of the same round
	}
	if r.n == pastRounds {
		copy(r.list[:], r.list[1:])
		r.n--
	}
	r.list[r.n] = p
	r.n++
}

func (r *record) rounds() []past { return r.list[:r.n] }

// jitter is the median of the rounds', or the lower of the two in the middle: one round alone can say much or nothing at all, as it falls.
func (r *record) jitter() time.Duration {
	list := make([]time.Duration, 0, pastRounds)
	for _, p := range r.rounds() {
		list = append(list, p.jitter)
	}
	slices.Sort(list)
	return list[(len(list)-1)/2]
}

// jitterNoise is the standard error of twice jitter, in nanoseconds. turns is how many of them one round's was taken from.
func (r *record) jitterNoise(turns int) float64 {
	if r.n < settledRounds {
		return 1.5 * float64(r.jitter()) / math.Sqrt(float64(turns))
	}
	list := make([]float64, 0, pastRounds)
	for _, p := range r.rounds() {
		list = append(list, float64(p.jitter))
	}
	return 2 * ofMedian(list)
}

// least is the fastest round trip of all.
func (r *record) least() time.Duration {
	least := time.Duration(math.MaxInt64)
	for _, p := range r.rounds() {
		least = min(least, p.least)
	}
	return least
}

// normalMedian: the median absolute deviation of a normal variable, 0.6745 sigma, times this is sigma.
const normalMedian = 1.4826

func median[T ~int64 | ~float64](list []T) T {
	list = slices.Clone(list)
	slices.Sort(list)
	if n := len(list); n%2 == 0 {
		return (list[n/2-1] + list[n/2]) / 2
	}
	return list[len(list)/2]
}

// between is the standard deviation, from one round to the next, of a series of figures: of the differences between successive ones, so that a
// lasting change shows once and doesn't hold back just the switch that it calls for.
func between(series []float64) float64 {
	diffs := make([]float64, 0, len(series))
	for i := 1; i < len(series); i++ {
		diffs = append(diffs, math.Abs(series[i]-series[i-1]))
	}
	return normalMedian / math.Sqrt2 * median(diffs)
}

// noise is the standard deviation of a path's score from one round to the next, in nanoseconds.
func noise(c substrate.Cost, r *record, w Weights) float64 {
	scale, mean := 1+lossPenalty*c.Loss, w.Mean()
	if r.n < settledRounds {
		return scale * math.Hypot(latencySigma*float64(c.Jitter)/math.Sqrt(float64(max(c.Samples, 1))), perByteSigma*c.PerByte*mean)
	}
	series := make([]float64, 0, pastRounds)
	for _, p := range r.rounds() {
		series = append(series, p.lat+mean*p.perByte)
	}
	return scale * between(series)
}

// paired reports that two paths were measured in turns.
func paired(a, b *Candidate) bool {
	return a.round == b.round && min(len(a.turns), len(b.turns)) >= 2
}

// compare returns by how much less a message costs over b than over a, and the standard deviation of that. What both have been through at the
// same time cancels. A difference in jitter counts as far as it is beyond its own noise: it is little known after a few turns.
func compare(a, b *Candidate, w Weights) (gain, sigma float64) {
	scale, mean := 1+lossPenalty*max(a.cost.Loss, b.cost.Loss), w.Mean()
	var as, bs []float64
	for _, p := range a.record.rounds() {
		for _, q := range b.record.rounds() {
			if p.round == q.round {
				as, bs = append(as, p.lat+mean*p.perByte), append(bs, q.lat+mean*q.perByte)
			}
		}
	}
	gain = a.score - b.score
	if len(as) < settledRounds && !paired(a, b) {
		return gain, math.Hypot(a.sigma, b.sigma)
	}
	n := min(len(a.turns), len(b.turns))
	jitter := 2 * float64(a.cost.Jitter-b.cost.Jitter)
	unsure := sigmas * math.Hypot(a.record.jitterNoise(max(n, 1)), b.record.jitterNoise(max(n, 1)))
	gain -= scale * max(-unsure, min(jitter, unsure))
	if len(as) >= settledRounds {
		return gain, scale * apart(as, bs, between)
	}
	inTurn := func(c *Candidate) (list []float64) {
		rest := fixed(c.cost) - float64(c.cost.RTT)/2 + mean*c.cost.PerByte
		for _, d := range c.turns[:n] {
			list = append(list, rest+float64(d)/2)
		}
		return list
	}
	bytes := perByteSigma * mean * math.Hypot(a.cost.PerByte, b.cost.PerByte)
	return gain, scale * math.Hypot(apart(inTurn(a), inTurn(b), ofMedian), bytes)
}

// alone is what a message would cost over path a if the machine did nothing else, going by the fastest round trip; 0 if that can't be told. What a
// busy machine adds to all paths that are measured in turns says nothing of them, so the gain is no smaller part of the cost for it.
func alone(a, b *Candidate, w Weights) float64 {
	least := a.record.least()
	if !paired(a, b) || least <= 0 {
		return 0
	}
	return (float64(a.cost.SendOverhead) + float64(least)/2 + w.Mean()*a.cost.PerByte) * (1 + lossPenalty*a.cost.Loss)
}

// apart is the deviation, by the given measure, of the difference between two series of positive figures that belong together: measured at the
// differences themselves, or at the logarithms of the ratios, if those deviate less.
func apart(as, bs []float64, deviation func([]float64) float64) float64 {
	diffs, logs := make([]float64, len(as)), make([]float64, len(as))
	for i := range as {
		diffs[i], logs[i] = as[i]-bs[i], math.Log(max(as[i], 1)/max(bs[i], 1))
	}
	d, l := deviation(diffs), deviation(logs)
	return min(d, l*logMean(median(as), median(bs)))
}

// logMean is the logarithmic mean of two figures: what the logarithm of their ratio must be multiplied by to get their difference.
func logMean(a, b float64) float64 {
	a, b = max(a, 1), max(b, 1)
	if l := math.Log(a / b); math.Abs(l) > 1e-6 {
		return (a - b) / l
	}
	return a
}

// ofMedian is the standard error of a series' median. Few figures may agree by chance.
func ofMedian(series []float64) float64 {
	mid, n := median(series), float64(len(series))
	off := make([]float64, len(series))
	for i, x := range series {
		off[i] = math.Abs(x - mid)
	}
	return 1.25 * normalMedian * median(off) / math.Sqrt(n) * (1 + 2/n)
}
