//go:build linux

package host

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	distanceTime  = 4 * time.Millisecond // how long CoreDistance measures
	distanceBatch = 64                   // round trips per reading of the clock
	// distanceGiveUp bounds the wait for the other thread, which a busy machine may not run at all.
	distanceGiveUp = 200 * time.Millisecond
)

// errNotScheduled is returned when one of the two threads got no CPU time.
var errNotScheduled = errors.New("the CPUs were too busy to run both threads")

// CoreDistance measures how long one word takes from CPU a to CPU b and back through shared memory: the median of many
// batches in 4 ms. Virtual CPUs change their distance (same core, same socket, neither) from one minute to the next, and
// everything that moves between them changes with it.
func CoreDistance(a, b int) (time.Duration, error) {
	if runtime.GOMAXPROCS(0) < 2 {
		return 0, errors.New("GOMAXPROCS is 1: two threads can't spin at the same time")
	}
	var table struct {
		_    [64]byte
		ball atomic.Int64 // odd: b's turn; even: a's turn; negative: the end
		_    [64]byte
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer table.ball.Store(-1)
	wg.Go(func() {
		_ = Place{CPUs: []int{b}}.In(func() error {
			for want := int64(1); ; want += 2 {
				for v := table.ball.Load(); v != want; v = table.ball.Load() {
					if v < 0 {
						return nil
					}
				}
				if !table.ball.CompareAndSwap(want, want+1) {
					return nil
				}
			}
		})
	})
	var batches []time.Duration
	err := Place{CPUs: []int{a}}.In(func() error {
		last := time.Now()
		first := last
		for turn := int64(1); ; turn += 2 {
			table.ball.Store(turn)
			for spins := 0; table.ball.Load() != turn+1; spins++ {
				if spins&0xffff == 0xffff && time.Since(last) > distanceGiveUp {
					return errNotScheduled
				}
			}
			if turn == 1 {
				last = time.Now() // both are there
				first = last
			} else if turn%(2*distanceBatch) == 1 {
				now := time.Now()
				batches = append(batches, now.Sub(last)/distanceBatch)
				last = now
				if now.Sub(first) >= distanceTime {
					return nil
				}
			}
		}
	})
	if err != nil {
		return 0, fmt.Errorf("distance of CPUs %d and %d: %w", a, b, err)
	}
	slices.Sort(batches)
	return batches[len(batches)/2], nil
}
