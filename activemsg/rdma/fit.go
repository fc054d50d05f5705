package rdma

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Thresholds decide in which of several ways a carrier sends. They are this end's own affair: a segment arrives in the same way however it was
// sent, so the two ends need not agree, and they may change between two segments.
type Thresholds struct {
	Inline int // payload of up to so many bytes goes in the request itself; no more than the device grants
	Keep   int // of so many and more is sent from where it lies, if that is memory of Adapter.Alloc; less is copied once more
	Gather int // writes of up to so many bytes that follow each other quickly are better gathered before they are sent
	Direct int // from so many bytes on a buffer of the peer and Place cost less than segments
}

// priors are what is used until a path was measured, and if the measurement says nothing clear.
func (c *Carrier) priors() Thresholds {
	return Thresholds{Inline: c.limits.Inline, Keep: 1024, Gather: 4 << 10, Direct: 32 << 10}
}

// The bounds of what is adopted, whatever was measured.
const (
	leastKeep, mostKeep     = 256, 16<<10 + 1 // what is longer than 16 KiB is always sent from where it lies
	leastGather, mostGather = 1 << 10, 8 << 10
	leastDirect, mostDirect = 16 << 10, 1 << 20
	leastSamples            = 5
	leastGain               = 0.02 // of a message's time, on average over the sizes that a border is moved across
)

// A trial is how long messages of a size took, sent in the way that is for smaller ones and in the one that is for larger ones.
type trial struct {
	size         int
	below, above []time.Duration
}

// Figures are what thresholds were fitted from. Zeros are unknown.
type Figures struct {
	Post    time.Duration // handing a small message to the adapter
	RTT     time.Duration // of a small message
	PerByte float64       // ns, of a copy within memory
	Samples int           // of each size, each way
}

// A Fit is what a measurement has led to.
type Fit struct {
	Thresholds
	Figures
	Moved bool // they are others than the constants
}

// String says which thresholds there are, and from what.
func (f Fit) String() string {
	t := fmt.Sprintf("inline to %d B, copied below %d B, gathered to %d B, direct from %d B", f.Inline, f.Keep, f.Gather, f.Direct)
	if f.Samples < leastSamples {
		return t + " (constants, not measured)"
	}
	how := "measured, nothing clearly better than the constants"
	if f.Moved {
		how = "fitted"
	}
	return fmt.Sprintf("%s (%s: post %v, round trip %v, copy %.2f ns/B, %d times each)", t, how, round(f.Post), round(f.RTT), f.PerByte, f.Samples)
}

func round(d time.Duration) time.Duration {
	if d > 10*time.Microsecond {
		return d.Round(100 * time.Nanosecond)
	}
	return d.Round(10 * time.Nanosecond)
}

// fit makes thresholds of measurements, within bounds; prior and, for Inline, most are the device's.
func fit(prior Thresholds, inline, keep []trial, figures Figures) Fit {
	f := Fit{Thresholds: prior, Figures: figures}
	if figures.Samples < leastSamples {
		return f
	}
	if from, ok := border(inline, prior.Inline+1); ok {
		f.Inline = min(from-1, prior.Inline) // prior.Inline is all that the device grants
	}
	if from, ok := border(keep, prior.Keep); ok {
		f.Keep = min(max(from, leastKeep), mostKeep)
	}
	if figures.Post > 0 && figures.PerByte > 0 {
		copied := float64(figures.Post) / figures.PerByte // so many bytes cost as much as one post
		f.Gather = clampPower(copied, leastGather, mostGather)
		f.Direct = clampPower(4*copied, leastDirect, mostDirect) // the advert and its answer are posted, and handled at the other end
	}
	f.Moved = f.Thresholds != prior
	return f
}

// clampPower is the power of two at or below x, between bounds that are some.
func clampPower(x float64, least, most int) int {
	n := least
	for n < most && float64(2*n) <= x {
		n *= 2
	}
	return n
}

// border finds from which size on the way for larger messages is the better one, of sizes that rise. Of all borders, of which each is a rule that
// a larger message never goes the smaller one's way, it takes the one with the least loss of time. It reports false, if that isn't better than
// prior by more than noise explains, or is no other.
func border(trials []trial, prior int) (from int, ok bool) {
	gains := make([]float64, len(trials)) // of the way for larger ones, as a part of the time
	noise := make([]float64, len(trials))
	for i, t := range trials {
		if len(t.below) < leastSamples || len(t.above) < leastSamples {
			return 0, false
		}
		a, da := middle(t.below)
		b, db := middle(t.above)
		least := max(min(a, b), 1)
		gains[i] = (a - b) / least
		noise[i] = math.Hypot(da, db) / least
	}
	old := len(trials)
	for i := len(trials) - 1; i >= 0 && trials[i].size >= prior; i-- {
		old = i
	}
	best, most, sum := old, 0.0, 0.0
	for i := old - 1; i >= 0; i-- { // moved down: more go the way for larger ones
		if sum += gains[i]; sum > most {
			best, most = i, sum
		}
	}
	sum = 0
	for i := old; i < len(trials); i++ { // moved up
		if sum -= gains[i]; sum > most {
			best, most = i+1, sum
		}
	}
	if best == old {
		return 0, false
	}
	doubt := 0.0
	for i := min(best, old); i < max(best, old); i++ {
		doubt = math.Hypot(doubt, noise[i])
	}
	if crossed := math.Abs(float64(best - old)); most < 2*doubt || most < leastGain*crossed {
		return 0, false
	}
	if best == len(trials) {
		return trials[best-1].size + 1, true
	}
	return trials[best].size, true
}

// middle is the median and how far it may be off: the deviations' median, as if they were normal, over the root of their number.
func middle(all []time.Duration) (median, off float64) {
	s := slices.Clone(all)
	slices.Sort(s)
	m := s[len(s)/2]
	for i := range s {
		s[i] = (s[i] - m).Abs()
	}
	slices.Sort(s)
	return float64(m), 1.4826 * 1.2533 * float64(s[len(s)/2]) / math.Sqrt(float64(len(s)))
}
