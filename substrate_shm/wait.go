package shm

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// How long it is worth to spin. A wake-up costs the waiting side some 4 us on the same processor and 20 to 40 us from another.
const (
	// blind is how many looks are taken before anything is asked that costs a system call: about a microsecond.
	blind = 1500
	// defaultSpin is how long one wait spins: a little longer than the peer needs to wake up on another processor and answer. With
	// less, two ends that have both come to park could not find back: each would always see the other too slow.
	defaultSpin = 50 * time.Microsecond
	// looks is how many looks are taken between two at the clock.
	looks = 64
	// yieldEvery is how often a spinning goroutine lets others run, and slowYield is how long that takes if there are none.
	yieldEvery = 4 * time.Microsecond
	slowYield  = 3 * time.Microsecond
	// yieldTime is how long a wait looks between the turns of other goroutines.
	yieldTime = 2 * time.Millisecond
	// together is how many waits long two ends on one processor don't spin before they look again where they are.
	together = 32
	// mostMisses bounds the time in which nobody spins after that did not pay: 2 to the power of it, in times of a spin. So a link
	// on which it never pays spends 3 % of its time at that, and one on which it pays again finds out soon.
	mostMisses = 5
)

// A waiter is one direction's way to wait for the peer. It belongs to the one Send or Recv that runs.
type waiter struct {
	link *link
	park func(func(fd uintptr) bool) error // parks until a signal for which the function has become true
	flag *atomic.Uint32                    // tells the peer that this end sleeps ...
	mark uint32                            // ... by this value

	// What is waited for: word has moved on from base by need. It is unsigned, so a word that moves back ends the wait, too.
	word       *atomic.Uint64
	base, need uint64

	skip    int           // waits that don't spin: the two ends are on one processor
	misses  int           // spins in a row that were in vain
	again   time.Duration // when to spin once more after those, since epoch
	crowded bool          // other goroutines wanted to run when last seen
	slept   bool          // in this wait

	courtesy courtesy

	ready func(fd uintptr) bool // w.check, made once
}

func (w *waiter) init(l *link, park func(func(fd uintptr) bool) error, flag *atomic.Uint32, word *atomic.Uint64) {
	w.link, w.park, w.flag, w.mark, w.word = l, park, flag, 1, word
	w.ready = w.check
}

func (w *waiter) moved() bool { return w.word.Load()-w.base >= w.need }

// wait returns when the peer's word has moved, or something has happened to the link or the deadline: the caller looks at all again.
func (w *waiter) wait(base, need uint64) {
	w.base, w.need, w.slept = base, need, false
	switch {
	case w.link.sub.opts.Spin < 0:
	case !w.promising():
		if w.crowded && w.yield() {
			return
		}
	case w.spin():
		return
	}
	w.park(w.ready) // its error is that of a deadline or a close: the caller sees that itself
	w.flag.Store(0)
	w.giveWay()
}

// promising reports whether to spin at all this time.
func (w *waiter) promising() bool {
	if w.skip > 0 {
		w.skip--
		return false
	}
	return w.misses == 0 || time.Since(epoch) >= w.again
}

// check tells the peer that this end sleeps, and that it need not if there is something to do. Both ends first write, then look: at
// least one of them sees the other's word.
func (w *waiter) check(uintptr) bool {
	if w.moved() {
		return true
	}
	w.flag.Store(w.mark)
	sys.Fence()
	if w.moved() || w.link.ctl.Load()&stopped != 0 || w.link.theirs.gone.Load() != 0 {
		return true
	}
	w.slept = true
	return false
}

// spin waits awake, if that is promising, and reports success.
func (w *waiter) spin() bool {
	for range blind {
		if w.moved() {
			w.misses = 0
			return true
		}
	}
	if w.yield() {
		return true
	}
	// This wait is long enough to ask where the two ends run. On one processor the peer can't do a thing while we spin.
	cpu := uint32(sys.CPU() + 1)
	w.link.ours.cpu.Store(cpu)
	if w.link.theirs.cpu.Load() == cpu {
		w.skip = together
		return false
	}
	start := time.Now()
	yielded := start
	for now := start; now.Sub(start) < w.link.sub.opts.Spin; now = time.Now() {
		for range looks {
			if w.moved() {
				w.misses = 0
				return true
			}
		}
		if now.Sub(yielded) >= yieldEvery {
			if w.yield() {
				return true
			}
			if w.crowded {
				break // others need the processor: goroutines of ours, or other processes
			}
			yielded = now
		}
	}
	w.misses = min(w.misses+1, mostMisses)
	w.again = time.Since(epoch) + w.link.sub.opts.Spin<<w.misses
	return w.moved()
}

// yield lets other goroutines run, and looks after each turn of theirs: that costs nothing while they have work to do, and a parked
// goroutine would wait long for Go's poller, which a busy scheduler asks every 10 ms (sysmon in runtime/proc.go). It reports
// whether the wait is over; crowded then says whether there were others.
func (w *waiter) yield() bool {
	w.crowded = false
	start := time.Now()
	for before := start; before.Sub(start) < yieldTime; {
		runtime.Gosched()
		if w.moved() || w.link.ctl.Load()&stopped != 0 {
			return true
		}
		now := time.Now()
		if now.Sub(before) < slowYield {
			return false
		}
		w.crowded = true
		before = now
	}
	return false
}
