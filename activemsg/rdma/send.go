package rdma

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/internal/look"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/substrate"
)

// A transmitter is the sending half of a carrier. Requests have numbers; the device works them off in order, so the completion of one
// frees all before it.
type transmitter struct {
	depth  uint64
	every  uint64                      // one request of so many has a completion
	slots  uint64                      // to send from
	wrs    [verbs.MaxPost]verbs.SendWR // made and not posted yet, nwrs of them
	nwrs   int
	made   uint64 // number of the next request
	signal uint64 // below it lies the last one that has a completion
	taken  uint64 // slots taken since the beginning
	told   uint64 // of them before the last request with a completion
	notes  []note // of each request, by number modulo depth

	mem     []byte   // the slots
	heads   []byte   // headers, by number of the request modulo depth
	scratch []byte   // what goes inline, by place in wrs
	views   [][]byte // of Place
	one     [1][]byte

	reaping sync.Mutex // for the completion queue and wc
	wc      [verbs.MaxPost]verbs.Completion
	done    atomic.Uint64 // requests before it are finished
	free    atomic.Uint64 // slots taken before it are free again
	barren  atomic.Int32  // waits for a completion, of wait each, that ended without one
	wait    time.Duration //
	tick    *time.Timer   // ends such a wait
}

// A Send waits for the device, which gives up a request that isn't acknowledged. If it doesn't, nothing else may end the wait: an interrupted link
// can't, nor does the heartbeat, which takes a receiver that waits here for busy. It is counted in waits, so that a pause of this process isn't taken
// for one of the device; a device that is told to repeat packets for longer than this was told too much.
const (
	barrenTick = time.Second // unless Patience says more or less
	barrenMost = 12
)

// Patience bounds a Send that waits for a device that finishes no request.
func (c *Carrier) Patience(d time.Duration) { c.tx.wait = max(d/barrenMost, time.Millisecond) }

var errBarren = errors.New("the device finishes no request")

// A note is what must be known when a request is finished.
type note struct {
	taken uint64 // slots, when it was made
	op    verbs.Op
}

func (t *transmitter) init(depth, slots int) {
	t.depth, t.slots = uint64(depth), uint64(slots)
	t.every = min(t.depth/4, 32)
	t.notes = make([]note, depth)
	t.wait = barrenTick
}

func (t *transmitter) room() uint64 { return t.depth - (t.made - t.done.Load()) }

// Send transmits a segment. Payload that lies in memory of Adapter.Alloc may be sent from there: all of it, or all but a first piece
// of at most LeadLen bytes.
func (c *Carrier) Send(head *[activemsg.HeaderLen]byte, payload [][]byte) error {
	if !c.enter() {
		return net.ErrClosed
	}
	defer c.leave()
	if err := c.segment(head, payload); err != nil {
		return err
	}
	return c.flush()
}

// SendBatch transmits segments with one doorbell.
func (c *Carrier) SendBatch(batch []activemsg.Segment) error {
	if !c.enter() {
		return net.ErrClosed
	}
	defer c.leave()
	for i := range batch {
		c.tx.one[0] = batch[i].Payload
		if err := c.segment(&batch[i].Head, c.tx.one[:]); err != nil {
			return err
		}
	}
	c.tx.one[0] = nil
	return c.flush()
}

// LeadLen is the longest first piece that is copied by itself: what is left beside a header.
const LeadLen = headerStep - activemsg.HeaderLen

// segment makes the request that sends a segment.
func (c *Carrier) segment(head *[activemsg.HeaderLen]byte, payload [][]byte) error {
	n := 0
	for _, b := range payload {
		n += len(b)
	}
	if n > c.limits.Payload {
		return c.failure("send", substrate.Config, errTooLong)
	}
	wr, err := c.request(verbs.OpSend)
	if err != nil {
		return err
	}
	t := &c.tx
	total := activemsg.HeaderLen + n
	switch {
	case n <= int(c.inlineTo.Load()) && total <= c.inline:
		b := t.scratch[t.nwrs*inlineWish:]
		gather(b, head, payload)
		wr.Flags, wr.NumSGE = verbs.FlagInline, 1
		wr.SGE[0] = c.at(b, total)
		c.counts.inline.Add(1)
	case n >= int(c.keepFrom.Load()) && c.point(wr, 1, payload[c.lead(payload):]):
		h := t.heads[t.made%t.depth*headerStep:][:headerStep]
		k := copy(h, head[:])
		if c.lead(payload) == 1 {
			k += copy(h[k:], payload[0])
		}
		wr.SGE[0] = c.at(h, k)
		c.counts.kept.Add(1)
	default:
		slot, err := c.takeSlot(&wr)
		if err != nil {
			return err
		}
		gather(slot, head, payload)
		wr.NumSGE = 1
		wr.SGE[0] = c.at(slot, total)
		c.counts.copied.Add(1)
	}
	return c.add()
}

// lead is the number of pieces, 0 or 1, that are copied beside the header.
func (c *Carrier) lead(payload [][]byte) int {
	if len(payload) > 0 && len(payload[0]) <= LeadLen && c.adapter.mem.find(payload[0]) == nil {
		return 1
	}
	return 0
}

func gather(to []byte, head *[activemsg.HeaderLen]byte, payload [][]byte) {
	to = to[copy(to, head[:]):]
	for _, b := range payload {
		to = to[copy(to, b):]
	}
}

// at names the first n bytes of memory in the carrier's chunk.
func (c *Carrier) at(b []byte, n int) verbs.SGE {
	return verbs.SGE{Addr: address(b), Len: uint32(n), LKey: c.chunk.lkey}
}

// point makes wr point to payload, behind its first pieces, if all of it lies in memory of Adapter.Alloc and there are few enough pieces.
func (c *Carrier) point(wr *verbs.SendWR, first int, payload [][]byte) bool {
	n := first
	for _, b := range payload {
		if len(b) == 0 {
			continue
		}
		chunk := c.adapter.mem.find(b)
		if chunk == nil || chunk.owner != c.adapter.local || n == c.sge {
			return false
		}
		wr.SGE[n] = verbs.SGE{Addr: address(b), Len: uint32(len(b)), LKey: chunk.lkey}
		n++
	}
	wr.NumSGE = uint8(n)
	return true
}

// request returns the next request to fill in, and waits until there is room for it. Then comes add.
func (c *Carrier) request(op verbs.Op) (*verbs.SendWR, error) {
	t := &c.tx
	if err := c.ended(); err != nil {
		return nil, err
	}
	if t.room() <= t.depth/2 {
		if err := c.reap(); err != nil {
			return nil, err
		}
	}
	for t.room() <= markerRoom {
		if err := c.await(); err != nil {
			return nil, err
		}
	}
	wr := &t.wrs[t.nwrs]
	wr.ID, wr.Op, wr.Flags, wr.NumSGE = t.made, op, 0, 0
	return wr, nil
}

// takeSlot returns a slot to send from, and waits for one. As that may have posted what was made before, it corrects wr.
func (c *Carrier) takeSlot(wr **verbs.SendWR) ([]byte, error) {
	t := &c.tx
	for t.taken-t.free.Load() == t.slots {
		if err := c.reap(); err != nil {
			return nil, err
		}
		if t.taken-t.free.Load() < t.slots {
			break
		}
		made := **wr
		if err := c.await(); err != nil {
			return nil, err
		}
		*wr = &t.wrs[t.nwrs]
		**wr = made
	}
	at := int(t.taken%t.slots) * c.slotLen
	t.taken++
	return t.mem[at : at+c.slotLen], nil
}

// add puts the request that has been filled in behind the others.
func (c *Carrier) add() error {
	t := &c.tx
	wr := &t.wrs[t.nwrs]
	t.notes[t.made%t.depth] = note{t.taken, wr.Op}
	// Enough completions that neither the queue nor the slots can fill up with requests that have none.
	if t.made+1-t.signal >= t.every || t.taken-t.told >= t.slots/2 {
		wr.Flags |= verbs.FlagSignaled
	}
	t.made++
	if wr.Flags&verbs.FlagSignaled != 0 {
		t.signal, t.told = t.made, t.taken
	}
	if t.nwrs++; t.nwrs == len(t.wrs) {
		return c.flush()
	}
	return nil
}

// flush posts what was made, and slots that have come back: before the peer can hear of them.
func (c *Carrier) flush() error {
	t := &c.tx
	if t.nwrs == 0 {
		return nil
	}
	c.mu.Lock()
	err := c.qp.Post(c.back[:c.nback], t.wrs[:t.nwrs])
	c.nback = 0
	c.mu.Unlock()
	t.nwrs = 0
	if err != nil {
		return c.fail("send", substrate.PathDown, err)
	}
	return nil
}

// reap takes the completions that are there.
func (c *Carrier) reap() error {
	c.tx.reaping.Lock()
	defer c.tx.reaping.Unlock()
	n, err := c.sends.Poll(c.tx.wc[:])
	return c.reaped(n, err)
}

func (c *Carrier) reaped(n int, err error) error {
	t := &c.tx
	if err != nil {
		return c.fail("send", substrate.PathDown, err)
	}
	if n > 0 {
		t.barren.Store(0)
	}
	for i := range t.wc[:n] {
		wc := &t.wc[i]
		n := t.notes[wc.ID%t.depth]
		if wc.Status != verbs.StatusOK {
			return c.fail("send", substrate.PathDown, status(n.op, wc))
		}
		t.done.Store(wc.ID + 1)
		t.free.Store(n.taken)
	}
	return nil
}

// await posts what was made and waits for a completion of a request.
func (c *Carrier) await() error {
	if err := c.flush(); err != nil {
		return err
	}
	began := time.Now()
	defer func() { c.waitSend.Took(time.Since(began)) }()
	limit := c.waitSend.Limit()
	for left := limit / look.Burst; left > 0 && time.Since(began) < limit; left-- {
		if n, err := c.spinSends(); n > 0 || err != nil {
			return err
		}
		runtime.Gosched()
	}
	c.tx.reaping.Lock()
	err := c.sends.Arm()
	n := 0
	if err == nil {
		n, err = c.sends.Poll(c.tx.wc[:])
	}
	err = c.reaped(n, err)
	c.tx.reaping.Unlock()
	if err != nil || n > 0 {
		return err
	}
	if err := c.ended(); err != nil {
		return err
	}
	c.tx.tick.Reset(c.tx.wait)
	err = c.sends.Wait()
	c.tx.tick.Stop()
	if err != nil {
		return c.fail("send", substrate.PathDown, err)
	}
	if time.Since(began) >= c.tx.wait && c.tx.barren.Add(1) >= barrenMost {
		return c.fail("send", substrate.PathDown, errBarren)
	}
	return c.ended()
}

// spinSends looks for completions for a moment.
func (c *Carrier) spinSends() (int, error) {
	c.tx.reaping.Lock()
	defer c.tx.reaping.Unlock()
	n, err := c.sends.Spin(c.tx.wc[:], look.Burst, c.yield)
	return n, c.reaped(n, err)
}

// Place writes payload into the peer's buffer. Payload that lies in memory of Adapter.Alloc may be sent from there.
func (c *Carrier) Place(k activemsg.Key, payload [][]byte) error {
	if !c.enter() {
		return net.ErrClosed
	}
	defer c.leave()
	n := 0
	for _, b := range payload {
		n += len(b)
	}
	if uint64(n) > uint64(k.Len) {
		return c.failure("place", substrate.Config, fmt.Errorf("%w: %d and %d", errNotThere, n, k.Len))
	}
	to := k.Addr
	for length := 0; n > 0; n -= length {
		wr, err := c.request(verbs.OpWrite)
		if err != nil {
			return err
		}
		group := payload[:min(len(payload), c.sge)]
		length = 0
		if c.point(wr, 0, group) && wr.NumSGE > 0 {
			for _, b := range group {
				length += len(b)
			}
			wr.Flags = verbs.FlagSignaled
			payload = payload[len(group):]
		} else {
			slot, err := c.takeSlot(&wr)
			if err != nil {
				return err
			}
			length, payload = fill(slot, payload, &c.tx.views)
			wr.NumSGE = 1
			wr.SGE[0] = c.at(slot, length)
		}
		wr.RemoteAddr, wr.RKey = to, k.RKey
		if err := c.add(); err != nil {
			return err
		}
		to += uint64(length)
		c.counts.placed.Add(1)
	}
	clear(c.tx.views)
	return c.flush()
}

// fill copies from payload what fits into slot, and returns what is left: slices of views if a piece was cut.
func fill(slot []byte, payload [][]byte, views *[][]byte) (n int, rest [][]byte) {
	for len(payload) > 0 {
		k := copy(slot[n:], payload[0])
		n += k
		if k < len(payload[0]) {
			if len(*views) == 0 || &(*views)[len(*views)-1] != &payload[len(payload)-1] {
				*views = append((*views)[:0], payload...) // the caller's list stays as it is
				payload = *views
			}
			payload[0] = payload[0][k:]
			return n, payload
		}
		payload = payload[1:]
	}
	return n, nil
}
