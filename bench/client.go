package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	dialTime = 20 * time.Second // a device may have to be opened first, on an emulated processor
	// warmTime bounds the warm-up of one connection: a transport that hangs is named instead of waited for.
	warmTime   = 10 * time.Second
	warmBlocks = 2
)

// client is the side that measures.
type client struct {
	*worker
	load  workload
	block time.Duration
	lanes []lane
}

// A lane is what takes turns with the others: a number of connections of one transport.
type lane struct {
	id     laneID
	conns  []net.Conn // round i uses one of them, i modulo their number
	n      int        // operations per block; 0: as many as fit
	ops    int        // timed
	blocks []float64  // see laneResult
	means  []float64
	times  *hdrhistogram.Histogram // ns per operation
}

// longest is where the histogram of times ends: whatever took longer counts as this.
const longest = int64(10 * time.Second)

func (c *client) setup(ctx context.Context, s setup) (_ ready, err error) {
	if len(s.Addresses) != len(s.Lanes) || s.Conns < 1 {
		return ready{}, fmt.Errorf("%d addresses for %d lanes of %d connections", len(s.Addresses), len(s.Lanes), s.Conns)
	}
	if c.load, err = newWorkload(s.Op, s.Size, s.Cold); err != nil {
		return ready{}, err
	}
	c.block = time.Duration(s.Block)
	for _, id := range s.Lanes {
		c.lanes = append(c.lanes, lane{id: id, times: hdrhistogram.New(1, longest, 3)})
	}
	for range s.Conns { // lane by lane within, so that connections that are compared are of one age
		for i := range c.lanes {
			l := &c.lanes[i]
			conn, err := c.dial(ctx, l.id, s.Addresses[i])
			if err != nil {
				return ready{}, fmt.Errorf("%s: dial %s: %w", l.id, s.Addresses[i], err)
			}
			l.conns = append(l.conns, conn)
		}
	}
	return ready{}, c.warmUp()
}

func (c *client) dial(ctx context.Context, id laneID, address string) (net.Conn, error) {
	t, err := c.transport(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := t.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return conn, c.own(conn)
}

// warmUp warms up every connection, and decides how much makes a block.
func (c *client) warmUp() error {
	per := make([][]float64, len(c.lanes))
	for i := range c.lanes {
		l := &c.lanes[i]
		for _, conn := range l.conns {
			times, err := c.warmUpConn(l, conn)
			if err != nil {
				return fmt.Errorf("%s: warm-up: %w", l.id, err)
			}
			per[i] = append(per[i], times...)
		}
	}
	c.settle(per)
	return nil
}

// warmUpConn warms up one connection and returns the time per operation of a few blocks. The first connection of a lane
// finds out how much makes a block.
func (c *client) warmUpConn(l *lane, conn net.Conn) (per []float64, err error) {
	if err := conn.SetDeadline(time.Now().Add(warmTime)); err != nil {
		return nil, err
	}
	if conn == l.conns[0] {
		if l.n, err = c.load.warmUp(conn, c.block); err != nil {
			return nil, err
		}
	}
	for range warmBlocks {
		ops, took, err := c.load.block(conn, c.block, l.n)
		if err != nil {
			return nil, err
		}
		per = append(per, float64(took)/float64(ops))
	}
	return per, conn.SetDeadline(time.Time{})
}

// settle fixes how many operations make a block, unless the clock ends it. Lanes that are about as fast get the very same
// number: how much is sent before the other side answers decides which buffers fill and who sleeps when, so blocks of
// different length don't compare. A lane that is much faster or slower gets a power of two times that.
func (c *client) settle(per [][]float64) {
	last := len(c.lanes) - 1 // the control, of the same kind as the first
	if c.lanes[0].n == 0 {
		return
	}
	raw := float64(c.block) / Median(append(per[0], per[last]...))
	for i := range c.lanes {
		steps := math.Round(math.Log2(float64(c.block) / Median(per[i]) / raw))
		if i == last {
			steps = 0
		}
		c.lanes[i].n = min(max(int(raw*math.Exp2(steps)), 1), maxWrites)
	}
}

// run makes the timed rounds. In each one every lane has one block, in random order: neither drift nor the neighbour a
// block comes after favours a lane. The round before the first isn't counted.
func (c *client) run(r run) (runResult, error) {
	rnd := rand.New(rand.NewPCG(r.Seed, uint64(len(c.lanes))))
	order := make([]int, len(c.lanes))
	for i := range order {
		order[i] = i
		c.lanes[i].blocks = make([]float64, 0, r.Rounds)
		c.lanes[i].means = make([]float64, 0, r.Rounds)
	}
	runtime.GC() // none of the harness's making during the rounds
	start := time.Now()
	rounds := -1
	for rounds < r.Rounds {
		if r.Budget > 0 && rounds >= minRounds && time.Since(start) >= time.Duration(r.Budget) {
			break
		}
		rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, i := range order {
			if err := c.measure(&c.lanes[i], rounds); err != nil {
				return runResult{}, fmt.Errorf("%s: %w", c.lanes[i].id, err)
			}
		}
		rounds++
	}
	res := runResult{Rounds: rounds}
	for _, l := range c.lanes {
		res.Lanes = append(res.Lanes, laneResult{
			Ops: l.ops, Blocks: l.blocks, Means: l.means,
			P50: float64(l.times.ValueAtQuantile(50)), P99: float64(l.times.ValueAtQuantile(99)),
		})
	}
	return res, nil
}

// measure gives l its block of a round. Rounds before 0 don't count.
func (c *client) measure(l *lane, round int) error {
	ops, took, err := c.load.block(l.conns[max(round, 0)%len(l.conns)], c.block, l.n)
	if err != nil || round < 0 {
		return err
	}
	mean := float64(took) / float64(ops)
	middle := mean
	if samples := c.load.samples(); len(samples) > 0 {
		slices.Sort(samples)
		middle = float64(samples[len(samples)/2])
		for _, t := range samples {
			l.record(t)
		}
	} else {
		l.record(int64(mean))
	}
	l.ops += ops
	l.blocks = append(l.blocks, middle)
	l.means = append(l.means, mean)
	return nil
}

// record can't fail: t is put within the histogram's bounds.
func (l *lane) record(t int64) { _ = l.times.RecordValue(min(max(t, 1), longest)) }

// count runs operations on one lane and counts what this process allocated meanwhile.
func (c *client) count(a allocs) (allocsResult, error) {
	if a.Lane < 0 || a.Lane >= len(c.lanes) {
		return allocsResult{}, fmt.Errorf("there is no lane %d", a.Lane)
	}
	l := &c.lanes[a.Lane]
	before := readCounters()
	ops, _, err := c.load.block(l.conns[0], 0, c.load.countOps())
	after := readCounters()
	if err != nil {
		return allocsResult{}, fmt.Errorf("%s: %w", l.id, err)
	}
	return allocsResult{Ops: ops, counters: after.sub(before)}, nil
}
