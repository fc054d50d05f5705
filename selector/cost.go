package selector

import (
	"math"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// lossPenalty: one per cent of loss doubles a score. A lost packet costs at least a round trip more, mostly several.
const lossPenalty = 100

// fixed is the part of a path's cost, in nanoseconds, that doesn't depend on size: overhead and half a round trip.
func fixed(c substrate.Cost) float64 { return float64(c.SendOverhead) + float64(c.RTT)/2 }

// score is the expected cost of one message, in nanoseconds, for the mix of sizes w, and twice the jitter, because what is usually fast and
// sometimes slow is slow to whoever waits for the slowest. age/ttl makes it dearer with time, up to twice.
func score(c substrate.Cost, w Weights, age, ttl time.Duration) float64 {
	s := 2 * float64(c.Jitter)
	for b, n := range Buckets {
		s += w[b] * (fixed(c) + float64(n)*c.PerByte)
	}
	return s * (1 + lossPenalty*c.Loss) * (1 + float64(max(age, 0))/float64(ttl))
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
	line := func(c Candidate) (start, slope float64) {
		slope = c.cost.PerByte
		if slope == 0 {
			slope = worst
		}
		return fixed(c.cost), slope
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
