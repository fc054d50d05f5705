package selector

import (
	"math"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// lossPenalty: one per cent of loss doubles a score. A lost packet costs at least a round trip more, mostly several.
const lossPenalty = 100

// latency is the part of a path's cost, in nanoseconds, that doesn't depend on size: overhead, half a round trip, and twice
// the jitter, because what is usually fast and sometimes slow is slow to whoever waits for the slowest.
func latency(c substrate.Cost) float64 {
	return float64(c.SendOverhead) + float64(c.RTT)/2 + 2*float64(c.Jitter)
}

// score is the expected cost of one message, in nanoseconds, for the mix of sizes w. age/ttl makes it dearer with time, up to
// twice.
func score(c substrate.Cost, w Weights, age, ttl time.Duration) float64 {
	s := 2 * float64(c.Jitter)
	for b, n := range Buckets {
		s += w[b] * (float64(c.SendOverhead) + float64(c.RTT)/2 + float64(n)*c.PerByte)
	}
	return s * (1 + lossPenalty*c.Loss) * (1 + float64(max(age, 0))/float64(ttl))
}

// A spread estimates how much a figure varies from round to round: the decayed mean of the difference between successive
// rounds. A lasting change of the path shows in it once; a deviation from a running mean would show it for many rounds,
// and hold back just the switch that the change calls for.
type spread struct {
	last float64
	diff float64
	n    int
}

func (s *spread) add(x float64) {
	switch d := math.Abs(x - s.last); {
	case s.n == 1:
		s.diff = d
	case s.n > 1:
		s.diff += (d - s.diff) / 4
	}
	s.last = x
	s.n++
}

// sigma: the mean difference of two normal variables is 2/sqrt(pi) times their standard deviation.
func (s *spread) sigma() float64 { return s.diff * math.SqrtPi / 2 }

// What is assumed until a path has been measured often enough to know how much it varies: a tenth of the time per byte, which
// one train of packets gives without a deviation; and of a round's n pings, with mean deviation J (0.8 sigma), the standard error
// of latency: half that of a median, 1.25 * 1.25 J / sqrt(n), with twice that of a mean deviation, 0.75 J / sqrt(n).
const (
	settledRounds = 4
	latencySigma  = 1.7
	perByteSigma  = 0.1
)

// noise is the standard deviation of a path's score from one round to the next, in nanoseconds.
func noise(c substrate.Cost, lat, perByte *spread, w Weights) float64 {
	l, b := lat.sigma(), perByte.sigma()
	if lat.n < settledRounds {
		l = max(l, latencySigma*float64(c.Jitter)/math.Sqrt(float64(max(c.Samples, 1))))
		b = max(b, perByteSigma*c.PerByte)
	}
	return math.Hypot(l, b*w.Mean()) * (1 + lossPenalty*c.Loss)
}

// A Point is the expected one-way time of a message of a certain size.
type Point struct {
	Size int    `json:"size"`
	Time Micros `json:"us"`
}

// Curve evaluates the cost model of c at the given sizes.
func Curve(c substrate.Cost, sizes []int) []Point {
	points := make([]Point, len(sizes))
	for i, n := range sizes {
		points[i] = Point{Size: n, Time: Micros(c.OneWay(n))}
	}
	return points
}

// A Stretch says that from size From on, up to the next stretch, Path is the fastest.
type Stretch struct {
	From int `json:"from"`
	Path
}

// Envelope returns which of the healthy candidates is the fastest from which size on: the lower envelope of their cost
// curves (as UCX does with the constants of its protocols; here the figures are measured). Candidates whose time per byte is
// unknown take part with the worst that is known.
func Envelope(cs []Candidate) []Stretch {
	worst := 0.0
	for _, c := range cs {
		worst = max(worst, c.cost.PerByte)
	}
	line := func(c Candidate) (fixed, slope float64) {
		slope = c.cost.PerByte
		if slope == 0 {
			slope = worst
		}
		return float64(c.cost.SendOverhead) + float64(c.cost.RTT)/2, slope
	}
	best := -1
	for i, c := range cs {
		if c.Tier < Healthy {
			continue
		}
		f, s := line(c)
		if best >= 0 {
			if bf, bs := line(cs[best]); f > bf || f == bf && s >= bs {
				continue
			}
		}
		best = i
	}
	if best < 0 {
		return nil
	}
	out := []Stretch{{Path: cs[best].Path}}
	for {
		bf, bs := line(cs[best])
		next, at, slope := -1, math.Inf(1), 0.0
		for i, c := range cs {
			if c.Tier < Healthy {
				continue
			}
			f, s := line(c)
			if s >= bs {
				continue // never overtakes
			}
			if x := (f - bf) / (bs - s); x < at || x == at && s < slope {
				next, at, slope = i, x, s
			}
		}
		if next < 0 || at > math.MaxInt32 {
			return out // beyond 2 GiB no message is
		}
		best = next
		from := int(at) + 1
		if last := &out[len(out)-1]; last.From >= from {
			last.Path = cs[best].Path
			continue
		}
		out = append(out, Stretch{From: from, Path: cs[best].Path})
	}
}
