package activemsg

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// An In is a message that is being received, read by its handler alone.
type In struct {
	ep    *Endpoint
	f     func(*In)
	max   uint64
	total uint64 // bytes that have arrived, for the goroutine that handles segments

	wake chan struct{}

	mu       sync.Mutex
	queue    []piece // arrived, not read, from head on
	head     int
	reading  bool // the handler waits for more
	waiting  bool // the handler doesn't run yet
	stalled  bool // it has not read for a while, with others waiting
	ended    bool // nothing more comes
	aborted  bool
	returned bool // the handler has returned
}

// A piece is what was not read of one segment.
type piece struct {
	seg   Segment
	seq   uint32
	rest  []byte
	moved bool // to ordinary memory, the slot is free already
	cost  int  // what that takes of Config.Buffer
}

// pieceCost is what a moved piece takes besides its bytes: with it goes a part of an In.
const pieceCost = 256

// Endpoint returns where the message came from.
func (in *In) Endpoint() *Endpoint { return in.ep }

// MaxLen is the length that the sender announced; the message may be shorter.
func (in *In) MaxLen() int { return int(min(in.max, 1<<62)) }

// Read fills p with the next bytes of the message as far as they have come and waits until there is at least one. At the
// end it returns io.EOF, io.ErrUnexpectedEOF for a message whose sender gave up, or the error of the endpoint.
func (in *In) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	last := false // nothing more can come
	for {
		in.mu.Lock()
		n := in.take(p)
		in.reading = n == 0
		in.stalled = false
		ended, aborted := in.ended, in.aborted
		in.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case aborted:
			return 0, io.ErrUnexpectedEOF
		case ended:
			return 0, io.EOF
		case last:
			return 0, in.ep.Err()
		}
		select {
		case <-in.wake:
		case <-in.ep.done:
			last = true
		}
	}
}

// take moves bytes to p. mu is held.
func (in *In) take(p []byte) (n int) {
	for n < len(p) && in.head < len(in.queue) {
		at := &in.queue[in.head]
		k := copy(p[n:], at.rest)
		at.rest = at.rest[k:]
		n += k
		if len(at.rest) == 0 {
			in.drop()
		}
	}
	return n
}

// drop gives the first piece back. mu is held.
func (in *In) drop() {
	at := &in.queue[in.head]
	if at.moved {
		in.ep.arrives.unbuffer(at.cost)
	} else {
		in.ep.release(at.seq, &at.seg)
	}
	*at = piece{}
	if in.head++; in.head == len(in.queue) {
		in.queue, in.head = in.queue[:0], 0
	}
}

// finish is called when the handler has returned, and reports whether the sender is through with the message, too.
func (in *In) finish() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.head < len(in.queue) {
		in.drop()
	}
	in.returned = true
	return in.ended
}

// add appends a segment to the message and reports whether it is finished at both sides. The goroutine that handles segments calls it.
func (in *In) add(h *header, seg *Segment) (finished bool, err error) {
	if in.total += uint64(h.length); in.total > in.max {
		return false, fmt.Errorf("a message of %d bytes is longer than the %d announced", in.total, in.max)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = h.flags&flagLast != 0
	in.aborted = h.flags&flagAbort != 0
	switch {
	case in.returned || len(seg.Payload) == 0 && !in.waiting:
		in.ep.release(h.seq, seg)
	default:
		in.append(h, seg)
	}
	if in.reading {
		in.reading = false
		select {
		case in.wake <- struct{}{}:
		default:
		}
	}
	return in.ended && in.returned, nil
}

func (in *In) append(h *header, seg *Segment) {
	if in.head > 0 && len(in.queue) == cap(in.queue) {
		n := copy(in.queue, in.queue[in.head:])
		clear(in.queue[n:])
		in.queue, in.head = in.queue[:n], 0
	}
	in.queue = append(in.queue, piece{seg: *seg, seq: h.seq, rest: seg.Payload})
	if in.ep.own(h.seq, in) && in.stalled {
		in.move()
	}
}

// move moves unread pieces out of their slots as far as Config.Buffer allows. mu is held.
func (in *In) move() {
	for i := in.head; i < len(in.queue); i++ {
		at := &in.queue[i]
		if at.moved {
			continue
		}
		cost := len(at.rest) + pieceCost
		if !in.ep.arrives.buffer(cost, in.ep.cfg.Buffer) {
			return
		}
		seg := at.seg
		at.seg, at.rest = Segment{}, append(make([]byte, 0, len(at.rest)), at.rest...)
		at.moved, at.cost = true, cost
		in.ep.release(at.seq, &seg)
	}
}

// stallTime is for how long the oldest unread segment may keep others waiting before it is moved: long enough that a handler which is just
// slower than the sender causes no copies.
const stallTime = time.Millisecond

// own notes who holds the slot of a segment, and reports whether slots are scarce.
func (e *Endpoint) own(seq uint32, in *In) bool {
	e.rx.Lock()
	defer e.rx.Unlock()
	e.in.places[seq%e.in.size].owner = in
	return e.watchSlots()
}

// watchSlots starts unstall if slots are scarce, and reports whether they are. rx is held.
func (e *Endpoint) watchSlots() bool {
	if !e.in.crowded() {
		return false
	}
	if !e.watching {
		e.watching, e.mark = true, e.in.prefix.Load()
		e.stall.Reset(stallTime)
	}
	return true
}

// unstall runs while slots are scarce: a message that holds the oldest slot, on which all others wait, must leave it.
func (e *Endpoint) unstall() {
	e.unstalling.Lock()
	defer e.unstalling.Unlock()
	wait := stallTime
	for e.Err() == nil {
		e.rx.Lock()
		prefix := e.in.prefix.Load()
		oldest := e.in.places[prefix%e.in.size].owner
		stuck := prefix == e.mark
		switch {
		case !e.in.crowded() || oldest == nil:
			// Or the oldest isn't handled yet; handling it will start this again.
			e.watching = false
			e.rx.Unlock()
			return
		case !stuck || wait > stallTime:
			e.mark = prefix
			e.stall.Reset(wait)
			e.rx.Unlock()
			return
		}
		e.rx.Unlock()
		oldest.mu.Lock()
		oldest.stalled = true
		oldest.move()
		oldest.mu.Unlock()
		e.rx.Lock()
		prefix = e.in.prefix.Load()
		if prefix == e.mark {
			wait = 10 * stallTime // no room: there is no hurry to look again
		}
		e.mark = prefix
		e.rx.Unlock()
	}
}

// stream handles a segment of a message that has a Stream handler.
func (e *Endpoint) stream(h *header, seg *Segment, f func(*In)) error {
	a := &e.arrives
	in := a.open[h.message]
	first, last := h.flags&flagFirst != 0, h.flags&flagLast != 0
	switch {
	case first && in != nil:
		return fmt.Errorf("message %d begins twice", h.message)
	case !first && in == nil:
		return fmt.Errorf("message %d has no beginning", h.message)
	case first:
		in = a.get(e)
		in.f, in.max = f, h.arg
		w := a.worker(e, in)
		if !last {
			a.open[h.message] = in
		}
		if _, err := in.add(h, seg); err != nil {
			return err
		}
		if w != nil {
			w.job <- in
		}
		return nil
	}
	if last {
		a.open[h.message] = nil
	}
	finished, err := in.add(h, seg)
	if finished {
		a.put(in)
	}
	return err
}
