package activemsg

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

// ControlSlots is how many of a receiver's slots are set apart for control segments, which are dealt with when they arrive, never after a handler, and
// whose slots are free again before anything follows from them. There can't be more of them unprocessed at the peer:
//
//   - 2 grants. One is sent when half of the slots have been released since the peer was last told, or when it has used all credits it knows
//     of. Beyond the grants that it has processed the peer can fill all slots once, which is two halves; and once it is out of
//     credits, one grant must have been processed before it can run out again.
//   - 1 ping, as the next waits for the pong; 1 pong, for the peer's only ping; 1 bye.
//   - for each of maxPosts adverts of ours a post and a cancel, as its place in the table is free again only when the peer has
//     answered, and the cancel of the one before, which may have crossed the answer; and for each of the peer's one answer.
const ControlSlots = 2 + 2 + 1 + 3*maxPosts + maxPosts

// dataSlots is how many of a receiver's slots are for data: a power of two, so that numbers of segments wrap well.
func dataSlots(l Limits) uint32 {
	return 1 << (bits.Len(uint(min(l.Slots-ControlSlots, maxSlots))) - 1)
}

const maxSlots = 1 << 16

// A window counts the credits of a sender. Who waits for one gets it in turn.
type window struct {
	size     uint32
	sent     atomic.Uint32 // numbers given to segments, under tx
	released atomic.Uint32 // by the peer; only the receiving goroutine writes it
	hungry   atomic.Bool   // somebody waits, or a try failed: who releases must look. Written under mu

	mu      *sync.Mutex // the cork's: who sends needs both. It guards what follows
	taken   uint32      // credits ever taken: by segments that were sent and by those that will be
	line    line
	starved bool // a try failed
}

// A line is where goroutines wait, first come, first served. It needs its owner's lock.
type line struct {
	first, last *claim
	unused      sync.Pool // claims
}

// A claim is somebody's place in a line.
type claim struct {
	granted    chan struct{}
	prev, next *claim
}

func (l *line) empty() bool { return l.first == nil }

func (l *line) join() *claim {
	c, _ := l.unused.Get().(*claim)
	if c == nil {
		c = &claim{granted: make(chan struct{}, 1)}
	}
	c.prev, c.next = l.last, nil
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
	return c
}

func (l *line) leave(c *claim) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.prev, c.next = nil, nil
}

// serve lets the first go on.
func (l *line) serve() {
	c := l.first
	l.leave(c)
	c.granted <- struct{}{}
}

// free reports whether there is a credit that nobody waits for. mu is held.
func (w *window) free() bool { return w.line.empty() && w.taken-w.released.Load() < w.size }

// try takes a credit if there is one that nobody waits for. If there is none, advance reports the next. mu is held.
func (w *window) try() bool {
	if !w.free() {
		w.hungry.Store(true) // first: what advance releases from now on it looks whether to report
		if !w.free() {
			w.starved = true
			return false
		}
	}
	w.taken++
	return true
}

// take waits for a credit.
func (w *window) take(ctx context.Context, e *Endpoint) error {
	w.mu.Lock()
	if w.free() {
		w.taken++
		w.mu.Unlock()
		return nil
	}
	c := w.line.join()
	w.hungry.Store(true)
	w.hand() // what was released just before
	w.mu.Unlock()
	e.recall()
	var err error
	select {
	case <-c.granted:
		w.line.unused.Put(c)
		return nil
	case <-e.done:
		err = e.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-c.granted: // meanwhile: somebody else can have it
		w.taken--
		if w.freed() {
			e.owed.tellCredit()
		}
	default:
		w.line.leave(c)
	}
	w.line.unused.Put(c)
	return err
}

// hand gives free credits to those who wait. mu is held.
func (w *window) hand() {
	for !w.line.empty() && w.taken-w.released.Load() < w.size {
		w.taken++
		w.line.serve()
	}
}

// freed gives credits that have become free to those who wait, and reports whether somebody who tried is to be told of one. mu is held.
func (w *window) freed() (tell bool) {
	w.hand()
	tell = w.starved && w.taken-w.released.Load() < w.size // once for all who failed to get one
	w.starved = w.starved && !tell
	w.hungry.Store(w.starved || !w.line.empty())
	return tell
}

// giveBack returns a credit that wasn't used. It reports what freed does.
func (w *window) giveBack() (tell bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken--
	return w.freed()
}

var errOverRelease = errors.New("more segments released than were sent")

// advance notes that the peer has released so many segments in all. It reports how many are new, and whether somebody who tried is to be told
// of credits.
func (w *window) advance(released uint32) (n uint32, tell bool, err error) {
	before := w.released.Load()
	n = released - before
	switch {
	case n == 0:
		return 0, false, nil
	case n > w.sent.Load()-before:
		return 0, false, errOverRelease
	}
	w.released.Store(released)
	if !w.hungry.Load() {
		return n, false, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return n, w.freed(), nil
}

// slots counts what a receiver owes: segments that have arrived, of which a prefix is released. As only the prefix counts,
// segment seq may live at place seq modulo size of a ring in the receiver's memory, whoever wrote it there.
type slots struct {
	size    uint32
	arrived atomic.Uint32 // number of the next to arrive; the receiving goroutine's
	prefix  atomic.Uint32 // all before it are released; under rx
	told    atomic.Uint32 // what the peer knows of prefix; under tx
	places  []place       // under rx
}

type place struct {
	done  bool // released, while one before it is not
	owner *In  // the message that holds it unread
}

func (s *slots) init(size uint32) { s.size, s.places = size, make([]place, size) }

// held is the number of slots that the peer can't use yet.
func (s *slots) held() uint32 { return s.arrived.Load() - s.prefix.Load() }

// crowded reports that more than half of them are.
func (s *slots) crowded() bool { return s.held() > s.size/2 }

func (s *slots) arrive(seq uint32) error {
	due := s.arrived.Load()
	switch {
	case seq != due:
		return fmt.Errorf("segment %d where %d was due", seq, due)
	case due-s.told.Load() == s.size:
		return fmt.Errorf("more than the %d segments that were granted", s.size)
	}
	s.arrived.Store(due + 1)
	return nil
}

// release gives a slot back. Under rx.
func (s *slots) release(seq uint32) {
	s.places[seq%s.size] = place{done: true}
	prefix, arrived := s.prefix.Load(), s.arrived.Load()
	for prefix != arrived && s.places[prefix%s.size].done {
		s.places[prefix%s.size].done = false
		prefix++
	}
	s.prefix.Store(prefix)
}

// due reports that the peer should be told without waiting for a segment that goes there anyway: half of its credits would come
// back, or it has used all it knows of. It may say so too often to who doesn't hold tx: the peer may just be told.
func (s *slots) due() bool {
	told := s.told.Load()
	back := s.prefix.Load() - told
	return back > 0 && (back >= s.size/2 || s.arrived.Load()-told >= s.size)
}

// tell returns the count to put into a header. Under tx.
func (s *slots) tell() uint32 {
	prefix := s.prefix.Load()
	s.told.Store(prefix)
	return prefix
}
