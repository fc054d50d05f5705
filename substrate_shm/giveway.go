package shm

import (
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

const (
	// A stream is what has gone one way for so many bytes, and so many between two waits, on average over so many waits. What is shorter may
	// be a message that is to be answered.
	streamStart = 3 << 19
	streamBytes = 2 << 10
	streamWaits = 8
	// longTurn is how long the processor may be away before giving it away counts as in vain: the peer fills the part of a ring that
	// is in use on one processor in a fraction of it, so somebody else has it, or the peer has other things to do.
	longTurn = time.Millisecond
	// mostVain bounds the time in which it isn't tried again: 2 to the power of it, in times of what it took. A process that only computes has
	// the processor for some 4 ms, and Linux takes as much off the turns of who has given it away.
	mostVain = 8
)

// A courtesy gives the processor back, once, to a peer on the same one that was interrupted by waking this end. In a stream the peer has
// more to put, or to take: without, it is interrupted again after a few messages, and a change from one process to the other costs as
// much as a hundred small ones, most of it in what the caches and the branch predictors forget. In a dialogue, and for what comes now
// and then, this end goes on at once.
//
// It belongs to a waiter.
type courtesy struct {
	back  *atomic.Uint64 // how much went the other way: by Send for a Recv, and the other way round
	went  uint64         // back at the last wait
	start uint64         // where the wait began before which something last went the other way

	waits  int    // since ...
	from   uint64 // ... the one that began here
	stream bool

	vain  int           // how often it was in vain of late
	again time.Duration // when to try once more after that, since epoch
}

// streams reports whether a wait that began at base is one of a stream.
func (c *courtesy) streams(base uint64) bool {
	if went := c.back.Load(); went != c.went {
		c.went, c.start, c.waits, c.from, c.stream = went, base, 0, base, false
	} else if c.waits++; c.waits == streamWaits {
		c.stream = base-c.start >= streamStart && base-c.from >= streamWaits*streamBytes
		c.waits, c.from = 0, base
	}
	return c.stream
}

// give gives the processor away, unless that was in vain lately.
func (c *courtesy) give(now func() time.Duration, yield func()) {
	start := now()
	if c.vain > 0 && start < c.again {
		return
	}
	yield()
	if took := now() - start; took > longTurn {
		c.vain = min(c.vain+2, mostVain)
		c.again = start + took + took<<c.vain
	} else if c.vain > 0 {
		c.vain--
	}
}

// giveWay is for a waiter that was woken.
func (w *waiter) giveWay() {
	if w.courtesy.streams(w.base) && w.skip > 0 && w.slept && w.moved() {
		w.courtesy.give(sinceEpoch, sys.Yield)
	}
}

func sinceEpoch() time.Duration { return time.Since(epoch) }
