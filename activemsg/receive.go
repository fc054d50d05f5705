package activemsg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// receive takes segments from the carrier until it ends.
func (e *Endpoint) receive() {
	var batch [16]Segment
	for {
		n, err := e.carrier.Recv(batch[:])
		e.heard.Add(1)
		for i := range batch[:n] {
			spent, err := e.arrived(&batch[i])
			if err != nil {
				e.failWith(substrate.Protocol, err)
				return
			}
			if spent {
				e.release(batch[i].seq(), &batch[i])
			}
		}
		if err != nil {
			e.failWith(substrate.PathDown, err)
			return
		}
		e.heard.Add(1)
	}
}

// arrived deals with what concerns the endpoint itself, at once, and hands data on. It reports whether that is done with, and the slot to be released.
func (e *Endpoint) arrived(seg *Segment) (spent bool, err error) {
	if quick := e.plain(seg); quick != nil {
		if released := binary.LittleEndian.Uint32(seg.Head[12:]); released != e.out.released.Load() {
			if err := e.credited(released); err != nil {
				return false, err
			}
		}
		if err := e.came(seg.seq()); err != nil {
			return false, err
		}
		e.msg.Endpoint, e.msg.Payload = e, seg.Payload
		quick(&e.msg)
		return true, nil
	}
	var h header
	if err := h.parse(&seg.Head, len(seg.Payload)); err != nil {
		return false, err
	}
	control := h.flags&flagControl != 0
	var args [4]uint64
	if control {
		getArgs(&args, seg.Payload)
		e.carrier.Done(seg) // before anything follows from it: see ControlSlots
	}
	if err := e.credited(h.released); err != nil {
		return false, err
	}
	if control {
		return false, e.controlled(&h, args)
	}
	if err := e.came(h.seq); err != nil {
		return false, err
	}
	if e.cfg.Manual {
		e.extract.push(h, seg)
		return false, nil
	}
	return e.handle(&h, seg)
}

// plain returns the handler of a segment that is a whole message for a quick one, as most are, and may run now. What parse would check is checked.
func (e *Endpoint) plain(seg *Segment) func(*Msg) {
	if e.cfg.Manual || binary.LittleEndian.Uint32(seg.Head[:])>>8 != flagFirst|flagLast ||
		uint64(binary.LittleEndian.Uint32(seg.Head[4:])) != uint64(len(seg.Payload)) {
		return nil
	}
	return e.handlers.table[seg.Head[0]].quick
}

// came counts a data segment.
func (e *Endpoint) came(seq uint32) error {
	if err := e.in.arrive(seq); err != nil {
		return err
	}
	if e.in.crowded() {
		e.rx.Lock()
		e.watchSlots()
		e.rx.Unlock()
	}
	return nil
}

// credited notes what the peer has released.
func (e *Endpoint) credited(released uint32) error {
	n, tell, err := e.out.advance(released)
	if err != nil {
		return err
	}
	if e.limits.Waits != 0 {
		for seq := released - n; seq != released; seq++ {
			e.flight.Add(-int64(e.lengths[seq%e.out.size].Load()))
		}
	}
	if tell {
		e.owed.tellCredit()
	}
	return nil
}

// controlled deals with a control segment.
func (e *Endpoint) controlled(h *header, args [4]uint64) error {
	switch h.id {
	case controlPing:
		e.owed.Lock()
		defer e.owed.Unlock()
		if e.owed.pong {
			return errors.New("a second ping before the first was answered")
		}
		e.owed.pong, e.owed.pongArg = true, h.arg
		e.owed.nudge()
	case controlPong:
		e.owed.Lock()
		defer e.owed.Unlock()
		if !e.owed.pinging || h.arg != e.owed.number {
			return errors.New("a pong that nobody asked for")
		}
		e.rtt.Store(max(int64(time.Since(e.owed.pinged)), 1))
		e.owed.pinging = false
	case controlBye:
		e.fail(&substrate.Error{
			Op: "message", Substrate: "activemsg", Class: substrate.PeerGone, Err: errors.New("the peer closed its endpoint"),
		})
	case controlPost:
		return e.posts.advertised(h.arg, args)
	case controlCancel:
		if err := e.posts.cancelled(h.arg); err != nil {
			return err
		}
		e.owed.nudge()
	case controlPlaced:
		id, n, err := e.posts.placed(h.arg, e.carrier)
		if err == nil && e.cfg.OnPlaced != nil {
			e.cfg.OnPlaced(id, n)
		}
		return err
	}
	return nil
}

// handle runs the handler of a data segment or gives it to the one that runs. It reports whether nobody needs the segment any more: then it is the
// caller's to release. On an error the slot is lost, with the endpoint.
func (e *Endpoint) handle(h *header, seg *Segment) (spent bool, err error) {
	at := &e.handlers.table[h.id]
	switch {
	case at.quick != nil:
		if h.flags != flagFirst|flagLast {
			return false, fmt.Errorf("a message in pieces for quick handler %d", h.id)
		}
		e.msg.Endpoint, e.msg.Payload = e, seg.Payload
		at.quick(&e.msg)
		return true, nil
	case at.stream != nil:
		return false, e.stream(h, seg, at.stream)
	}
	return false, fmt.Errorf("no handler %d", h.id)
}

// release gives the slot of a data segment back to the peer.
func (e *Endpoint) release(seq uint32, seg *Segment) {
	e.carrier.Done(seg)
	e.rx.Lock()
	e.in.release(seq)
	due := e.in.due()
	e.rx.Unlock()
	if due {
		e.owed.nudge()
	}
}

// A queue holds segments that wait for Extract. It is never longer than there are slots.
type queue struct {
	extracting sync.Mutex // one Extract at a time

	mu      sync.Mutex
	waiting []waiting
	head    int
	signal  chan struct{}
}

type waiting struct {
	head header
	seg  Segment
}

func (q *queue) push(h header, seg *Segment) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head > 0 && len(q.waiting) == cap(q.waiting) {
		n := copy(q.waiting, q.waiting[q.head:])
		q.waiting, q.head = q.waiting[:n], 0
	}
	q.waiting = append(q.waiting, waiting{h, *seg})
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

func (q *queue) pop() (w waiting, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.waiting) {
		return w, false
	}
	w, q.waiting[q.head] = q.waiting[q.head], waiting{}
	if q.head++; q.head == len(q.waiting) {
		q.waiting, q.head = q.waiting[:0], 0
	}
	return w, true
}

func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting, q.head = nil, 0
}

// Extract handles segments that have arrived, with Config.Manual, until it has handled maxBytes of payload or there are no more.
// Segments are handled whole, so it may be one segment more; a message of no bytes counts as one. It returns how much it
// handled and whether more waits. Quick handlers have returned when it returns, Stream handlers have started.
func (e *Endpoint) Extract(maxBytes int) (n int, more bool) {
	e.extract.extracting.Lock()
	defer e.extract.extracting.Unlock()
	for n < maxBytes {
		w, ok := e.extract.pop()
		if !ok {
			return n, false
		}
		spent, err := e.handle(&w.head, &w.seg)
		if err != nil {
			e.failWith(substrate.Protocol, err)
			return n, false
		}
		if spent {
			e.release(w.head.seq, &w.seg)
		}
		n += max(len(w.seg.Payload), 1)
	}
	e.extract.mu.Lock()
	defer e.extract.mu.Unlock()
	return n, e.extract.head < len(e.extract.waiting)
}

// Arrived receives a value after segments have come for Extract; one value may stand for many.
func (e *Endpoint) Arrived() <-chan struct{} { return e.extract.signal }
