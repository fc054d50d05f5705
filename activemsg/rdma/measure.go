package rdma

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/sockemu/sockemu/activemsg"
)

// An Exchange sends payload to the peer, behind a head of its own in the same message, and waits for the answer. It returns how long the sending
// alone took, and all of it.
type Exchange func(ctx context.Context, payload []byte) (sent, answered time.Duration, err error)

// The size of a measurement: little enough to disturb nobody.
const (
	fitRounds = 15
	fitPause  = time.Millisecond // between rounds, for whoever else uses the path
	fitTime   = 2 * time.Second  // it takes some 20 ms, or 200 where the processor is emulated, but the machine may be busy
	fitCopy   = 64 << 10
)

// Thresholds returns what is in force.
func (c *Carrier) Thresholds() Thresholds {
	return Thresholds{
		Inline: int(c.inlineTo.Load()), Keep: int(c.keepFrom.Load()), Gather: int(c.gatherTo.Load()), Direct: int(c.directFrom.Load()),
	}
}

// Adopt puts thresholds in force, within what the device can do. It may be called at any time, by anybody.
func (c *Carrier) Adopt(t Thresholds) {
	c.inlineTo.Store(int64(min(t.Inline, c.limits.Inline)))
	c.keepFrom.Store(int64(t.Keep))
	c.gatherTo.Store(int64(t.Gather))
	c.directFrom.Store(int64(t.Direct))
}

// Direct is the number of bytes from which on Place pays, as far as is known.
func (c *Carrier) Direct() int { return int(c.directFrom.Load()) }

// Measure sends messages of several sizes to the peer in each of the ways that there are, in turn, and returns the thresholds that follow. Adopt puts them
// in force. Others may use the carrier meanwhile; the ways of sending change for them, too, for moments. head is what exchange sends before
// the payload, in bytes. It takes two seconds at most, mostly waiting, and fails if that or ctx ends before there are enough figures.
func (c *Carrier) Measure(ctx context.Context, head int, exchange Exchange) (Fit, error) {
	ctx, cancel := context.WithTimeout(ctx, fitTime)
	defer cancel()
	before := c.Thresholds()
	defer c.Adopt(before)
	prior := c.priors()
	mem := c.Lend(mostKeep - 1)
	if mem == nil {
		return Fit{Thresholds: prior}, errNoMemory
	}
	defer c.Return(mem) // whoever is behind the peer's answer has it all
	var inline, keep []trial
	for _, n := range []int{32, 96, prior.Inline} {
		if n <= prior.Inline && n > head {
			inline = append(inline, trial{size: n})
		}
	}
	for n := 256; n < mostKeep; n *= 2 {
		if n <= c.limits.Payload {
			keep = append(keep, trial{size: n})
		}
	}
	var figures Figures
	var posts, rtts []time.Duration
	// try times n bytes of payload, sent under other thresholds.
	try := func(n int, inlineTo, keepFrom int) (time.Duration, error) {
		c.inlineTo.Store(int64(inlineTo))
		c.keepFrom.Store(int64(keepFrom))
		sent, all, err := exchange(ctx, mem[:n-head])
		if err == nil && inlineTo > 0 {
			posts, rtts = append(posts, sent), append(rtts, all)
		}
		return all, err
	}
	const never = math.MaxInt32
	pair := func(t *trial, flip, first bool, below, above [2]int) error {
		for i := range 2 {
			into, way := &t.below, below
			if (i == 1) != flip { // each goes first every other time
				into, way = &t.above, above
			}
			d, err := try(t.size, way[0], way[1])
			if err != nil {
				return err
			}
			if !first { // which warms up
				*into = append(*into, d)
			}
		}
		return nil
	}
	err := func() error {
		pause := time.NewTimer(0)
		defer pause.Stop()
		for round := range fitRounds + 1 {
			select {
			case <-pause.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			flip, first := round%2 == 1, round == 0
			for i := range inline {
				if err := pair(&inline[i], flip, first, [2]int{prior.Inline, never}, [2]int{0, never}); err != nil {
					return err
				}
			}
			for i := range keep {
				if err := pair(&keep[i], flip, first, [2]int{0, never}, [2]int{0, 1}); err != nil {
					return err
				}
			}
			figures.Samples = round
			c.Adopt(before)
			pause.Reset(fitPause)
		}
		return nil
	}()
	if err != nil && figures.Samples < leastSamples {
		return Fit{Thresholds: prior}, err
	}
	if len(posts) > 0 {
		m, _ := middle(posts)
		figures.Post = time.Duration(m)
		m, _ = middle(rtts)
		figures.RTT = time.Duration(m)
	}
	figures.PerByte = copyTime()
	return fit(prior, inline, keep, figures), nil
}

// copyTime is the least time of a copy, per byte.
func copyTime() float64 {
	from, to := make([]byte, fitCopy), make([]byte, fitCopy)
	var all []time.Duration
	for range 9 {
		began := time.Now()
		copy(to, from)
		all = append(all, time.Since(began))
	}
	return float64(max(slices.Min(all), 1)) / fitCopy
}

var _ activemsg.Tuner = (*Carrier)(nil)
