package activemsg

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/activemsg/internal/look"
	"github.com/sockemu/sockemu/substrate"
)

// Over a carrier that is a Poller, whoever waits for a message looks for it himself, so that nobody must wake him. One goroutine at a time has
// the turn: it polls the carrier and runs the quick handlers. The endpoint's own receiving goroutine has it when nobody looks, and then sleeps until
// the carrier wakes it; it stands aside while others take turns.

// A turn is the right to receive, and what was received and is not handled yet.
type turn struct {
	mu     sync.Mutex // the turn; guards what follows
	batch  [16]Segment
	at, n  int        // batch[at:n] is not handled
	spent  [16]uint16 // what of batch[:at] was handled and is not released, nspent of them
	nspent int

	wanted atomic.Int32  // goroutines that look, or want to
	taken  atomic.Uint32 // turns that they took
	crowd  atomic.Int32  // turns after which it must go on at once: messages came for others than who looked

	recalled atomic.Bool   // the receiving goroutine must go on
	standing atomic.Bool   // it stands aside
	back     chan struct{} // until it gets a value
}

const (
	// asideTime is how long messages may stay unhandled when who looked for them has something else to do and nobody else is known to wait.
	// Where a dialogue is slower than that, coming back only disturbs it: whoever came in vain stays away twice as long, up to asideMost.
	asideTime = time.Millisecond
	asideMost = 4 * asideTime
	// crowdTurns is for how many turns it is remembered that others wait, too.
	crowdTurns = 64
	// spentMost is how many messages may have been handled and not released when a turn ends.
	spentMost = 2
)

// A Waiter is where one goroutine at a time waits for something that messages bring about. Make it with NewWaiter.
type Waiter struct {
	state  atomic.Uint32
	signal chan struct{} // gets one value for each sleep
	look   look.Looker
	asked  bool
}

// The states of a Waiter.
const (
	waiterIdle uint32 = iota
	waiterWoken
	waiterAsleep
)

// NewWaiter returns a Waiter.
func NewWaiter() *Waiter { return &Waiter{signal: make(chan struct{}, 1)} }

// Wake ends Wait, or the next one. It doesn't wait, so handlers may call it.
func (w *Waiter) Wake() {
	if w.state.Load() != waiterWoken && w.state.Swap(waiterWoken) == waiterAsleep {
		w.signal <- struct{}{}
	}
}

// woken takes the wake-up, if there was one.
func (w *Waiter) woken() bool { return w.state.CompareAndSwap(waiterWoken, waiterIdle) }

func (w *Waiter) sleep() {
	if w.state.CompareAndSwap(waiterIdle, waiterAsleep) {
		<-w.signal
	}
	w.state.Store(waiterIdle)
}

// epoch is where Wait counts from: one clock is read then, where time.Now reads two.
var epoch = time.Now()

// Wait waits for w.Wake. If the carrier can be polled, the goroutine looks for messages itself for as long as that pays, and quick handlers run
// in it: so they must take no lock that is held here. After Wake it goes on to handle what has arrived with that as long as more, if not nil,
// reports true. Wait doesn't end with the endpoint: who waits for Done must Wake.
func (e *Endpoint) Wait(w *Waiter, more func() bool) {
	if e.poller == nil || e.limits.Look <= 0 {
		w.sleep()
		return
	}
	if w.woken() {
		return
	}
	if !w.asked {
		w.asked, w.look = true, look.New(e.limits.Look)
	}
	began := time.Since(epoch)
	woken, took := e.lookFor(w, began, w.look.Limit(), more)
	if !woken {
		w.sleep()
		took = time.Since(epoch) - began
	}
	w.look.Took(took)
}

// lookFor takes turns until w was woken, and reports whether it was and how long that took, nearly: to look at the clock when the message is there
// would be time of the message. After limit it leaves it to others to receive.
func (e *Endpoint) lookFor(w *Waiter, began, limit time.Duration, more func() bool) (woken bool, took time.Duration) {
	t := &e.turn
	if t.wanted.Add(1) > 1 {
		limit = 0 // somebody else looks, for us, too
		t.crowd.Store(crowdTurns)
	}
	for left := limit / look.Burst; left > 0; left-- {
		if t.mu.TryLock() {
			var err error
			woken, err = e.handleFor(w, more)
			t.taken.Add(1)
			t.mu.Unlock()
			if err != nil {
				break
			}
		} else {
			woken = w.woken() // the receiving goroutine is about to go aside
		}
		if woken {
			took += look.Burst / 2
			break
		}
		if took = time.Since(epoch) - began; took >= limit {
			break
		}
		runtime.Gosched()
	}
	if t.wanted.Add(-1) == 0 && (!woken || t.crowd.Load() > 0) {
		t.crowd.Add(-1)
		e.recall()
	}
	return woken, took
}

// handleFor polls and handles what has come, until w was woken. It needs the turn.
func (e *Endpoint) handleFor(w *Waiter, more func() bool) (woken bool, err error) {
	t := &e.turn
	if err := e.poll(look.Burst); err != nil {
		return false, err
	}
	woken = w.woken()
	for t.at < t.n && !(woken && (more == nil || !more())) {
		if err := e.handleNext(); err != nil {
			return woken, err
		}
		if !woken {
			if woken = w.woken(); !woken {
				t.crowd.Store(crowdTurns)
			}
		}
	}
	if t.nspent > 0 && (t.nspent > spentMost || !t.standing.Load() || e.ending.Load()) {
		e.settle()
	}
	return woken, nil
}

// settle releases what was handled. Who has waited for a message has it before that: he does so when he looks for the next one, or the receiving
// goroutine when it is back from standing aside. It needs the turn.
func (e *Endpoint) settle() {
	t := &e.turn
	for _, i := range t.spent[:t.nspent] {
		seg := &t.batch[i]
		e.release(seg.seq(), seg)
	}
	t.nspent = 0
}

// poll fills the batch if all of it was handled. It needs the turn. On an error the endpoint has ended.
func (e *Endpoint) poll(d time.Duration) error {
	t := &e.turn
	e.settle()
	if t.at < t.n {
		return nil
	}
	n, err := e.poller.Poll(t.batch[:], d)
	t.at, t.n = 0, n
	if err != nil {
		e.failWith(substrate.PathDown, err)
	}
	return err
}

// handleNext handles one segment. It needs the turn.
func (e *Endpoint) handleNext() error {
	t := &e.turn
	i := t.at
	t.at++
	e.heard.Add(1)
	spent, err := e.arrived(&t.batch[i])
	if err != nil {
		e.failWith(substrate.Protocol, err)
		return err
	}
	if spent {
		t.spent[t.nspent] = uint16(i)
		t.nspent++
	}
	e.heard.Add(1)
	return nil
}

// receivePolling is receive over a Poller.
func (e *Endpoint) receivePolling() {
	l := look.New(e.limits.Look)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var seen uint32
	pause := asideTime
	for {
		back := e.aside(timer, &seen, pause)
		began, limit := time.Now(), l.Limit()
		for left, first := limit/look.Burst, true; ; left, first = left-1, false {
			sleepy := left <= 0 || time.Since(began) >= limit
			n, err := e.takeTurn(sleepy)
			if err == nil && n == 0 && sleepy {
				if err = e.poller.Sleep(); err != nil {
					e.failWith(substrate.PathDown, err)
				}
			}
			switch {
			case err != nil:
				return
			case n > 0:
				l.Took(time.Since(began))
			}
			resumed := e.turn.wanted.Load() > 0 || e.turn.taken.Load() != seen
			if back {
				pause = nextPause(pause, first && n > 0, resumed)
			}
			if n > 0 || resumed {
				break
			}
			runtime.Gosched()
		}
	}
}

// takeTurn handles what has arrived, or looks for a moment, or arms the carrier. It returns how much it handled.
func (e *Endpoint) takeTurn(arm bool) (n int, err error) {
	t := &e.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recalled.Store(false)
	d := look.Burst
	if arm {
		d = 0
		if err := e.poller.Arm(); err != nil {
			e.failWith(substrate.PathDown, err)
			return 0, err
		}
	}
	if err := e.poll(d); err != nil {
		return 0, err
	}
	for ; t.at < t.n; n++ {
		if err := e.handleNext(); err != nil {
			return n, err
		}
	}
	e.settle()
	return n, nil
}

// nextPause is how long the receiving goroutine stays away next, when it came back by itself after pause: it found messages that had waited
// for it, or others have taken up receiving again.
func nextPause(pause time.Duration, found, resumed bool) time.Duration {
	switch {
	case found:
		return asideTime
	case resumed:
		return min(2*pause, asideMost)
	}
	return pause
}

// aside waits as long as others take turns, with looks after each pause whether they still do. It reports whether it returns because they don't.
func (e *Endpoint) aside(timer *time.Timer, seen *uint32, pause time.Duration) (back bool) {
	t := &e.turn
	t.standing.Store(true)
	defer t.standing.Store(false)
	for {
		taken := t.taken.Load()
		if t.recalled.Load() {
			return false
		}
		if t.wanted.Load() == 0 && taken == *seen {
			return back
		}
		*seen = taken
		back = true
		timer.Reset(pause)
		select {
		case <-t.back: // maybe an old one
		case <-timer.C:
		case <-e.done:
			return false
		}
	}
}

// recall has the receiving goroutine receive again.
func (e *Endpoint) recall() {
	e.turn.recalled.Store(true)
	if e.turn.standing.Load() {
		select {
		case e.turn.back <- struct{}{}:
		default:
		}
	}
}
