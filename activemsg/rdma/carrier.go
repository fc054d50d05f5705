package rdma

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/internal/look"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/substrate"
)

// A Carrier carries active messages over a queue pair. See activemsg.Carrier for who may call what.
//
// Locks: mu before reaping; neither is held while waiting.
type Carrier struct {
	adapter *Adapter
	peer    string
	limits  activemsg.Limits
	sge     int
	inline  int // most bytes that the device takes, with the header
	slotLen int
	strict  bool
	yield   bool

	qp           verbs.QP
	sends, recvs verbs.CQ
	chunk        *chunk
	exposed      *pool // what the peer may write into

	inlineTo, keepFrom, gatherTo, directFrom atomic.Int64 // Thresholds

	tx transmitter // Send's and Place's

	mu      sync.Mutex
	back    [verbs.MaxPost]verbs.RecvWR // slots that wait to be posted again, nback of them
	nback   int
	lent    int // segments that are not Done
	regions map[uint32]verbs.Region
	freed   bool // the memory of the slots

	recvMem  []byte
	wc       [verbs.MaxPost]verbs.Completion // Poll's
	waitRecv look.Looker                     // of Recv
	waitSend look.Looker

	err    atomic.Pointer[substrate.Error] // why the path broke
	users  atomic.Int64                    // calls under way, and closing
	idle   chan struct{}                   // the last has returned
	closed chan struct{}                   // Close is through
	counts counts
}

var (
	_ activemsg.Placer  = (*Carrier)(nil)
	_ activemsg.Batcher = (*Carrier)(nil)
	_ activemsg.Poller  = (*Carrier)(nil)
	_ activemsg.Patient = (*Carrier)(nil)

	_ activemsg.Forgetter = (*Carrier)(nil)
)

// closing in Carrier.users lets nobody in any more.
const closing = 1 << 62

// drainWait bounds how long Close waits for what was sent before it.
const drainWait = 100 * time.Millisecond

// Limits says what the path can take.
func (c *Carrier) Limits() activemsg.Limits { return c.limits }

// String names the path.
func (c *Carrier) String() string { return c.adapter.String() + ", peer " + c.peer }

// enter begins a call that uses the queue pair; leave ends it.
func (c *Carrier) enter() bool {
	if c.users.Add(1)&closing != 0 {
		c.leave()
		return false
	}
	return true
}

func (c *Carrier) leave() {
	if c.users.Add(-1) == closing {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
}

// ended says why a call must return, nil if it need not.
func (c *Carrier) ended() error {
	if c.users.Load()&closing != 0 {
		return net.ErrClosed
	}
	if err := c.err.Load(); err != nil {
		return err
	}
	return nil
}

func (c *Carrier) failure(op string, class substrate.Class, err error) *substrate.Error {
	return &substrate.Error{Op: op, Substrate: "verbs", Peer: c.peer, Class: class, Err: err}
}

// fail ends the path, unless it has ended before, and returns why it did.
func (c *Carrier) fail(op string, class substrate.Class, err error) error {
	e := c.failure(op, class, err)
	if !c.err.CompareAndSwap(nil, e) {
		return c.err.Load()
	}
	c.wake()
	return e
}

func (c *Carrier) wake() {
	c.sends.Wake()
	c.recvs.Wake()
}

// Close ends the carrier: what was sent before still goes out, if the path is good and no slower than 100 ms; then nothing that the peer sends
// or places arrives any more. Segments that are not Done stay as they are.
func (c *Carrier) Close() error {
	if c.users.Or(closing)&closing != 0 {
		<-c.closed
		return nil
	}
	c.wake()
	for c.users.Load() != closing {
		<-c.idle
	}
	if c.err.Load() == nil && c.limits.Slots > 0 {
		c.drain()
	}
	c.adapter.remove(c)
	c.free()
	close(c.closed)
	return nil
}

// drain waits for what was posted. A request of no bytes at the end tells when.
func (c *Carrier) drain() {
	c.tx.nwrs = 0 // what was not posted is not sent
	c.tx.wrs[0] = verbs.SendWR{ID: c.tx.made, Op: verbs.OpWrite, Flags: verbs.FlagSignaled}
	if c.tx.room() == 0 || c.add() != nil || c.flush() != nil {
		return
	}
	var over atomic.Bool
	timer := time.AfterFunc(drainWait, func() { over.Store(true); c.sends.Wake() })
	defer timer.Stop()
	for !over.Load() && c.err.Load() == nil && c.tx.done.Load() < c.tx.made {
		if c.sends.Arm() != nil || c.reap() != nil {
			return
		}
		if c.tx.done.Load() < c.tx.made && c.sends.Wait() != nil {
			return
		}
	}
}

// free frees what there is. The memory of the slots waits for segments that are lent.
func (c *Carrier) free() {
	if c.qp != nil {
		c.qp.Close()
	}
	if c.sends != nil {
		c.sends.Close()
	}
	if c.recvs != nil {
		c.recvs.Close()
	}
	if c.exposed != nil {
		c.exposed.close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.regions {
		r.Close()
	}
	clear(c.regions)
	c.freed = true
	c.freeSlots()
}

func (c *Carrier) freeSlots() {
	if c.freed && c.lent == 0 && c.chunk != nil {
		c.adapter.mem.remove(c.chunk)
		c.chunk = nil
	}
}

// status makes an error of a failed completion.
func status(op verbs.Op, c *verbs.Completion) error {
	return &verbs.StatusError{Status: c.Status, Op: op, Vendor: c.Vendor}
}

// counts are the carrier's statistics.
type counts struct {
	inline, copied, kept, placed, received, sleeps atomic.Uint64
}

// Stats count what a carrier has done.
type Stats struct {
	Inline   uint64 // segments sent in the request itself
	Copied   uint64 // by way of a send slot
	Kept     uint64 // from the caller's memory
	Placed   uint64 // RDMA writes
	Received uint64 // segments
	Sleeps   uint64 // times that Recv went to sleep
}

// Stats returns what the carrier has done so far.
func (c *Carrier) Stats() Stats {
	return Stats{
		Inline: c.counts.inline.Load(), Copied: c.counts.copied.Load(), Kept: c.counts.kept.Load(), Placed: c.counts.placed.Load(),
		Received: c.counts.received.Load(), Sleeps: c.counts.sleeps.Load(),
	}
}

var (
	errTooLong     = errors.New("a segment longer than the limit")
	errUnsupported = errors.ErrUnsupported
	errNoMemory    = errors.New("no registered memory to measure with")
	errNotThere    = errors.New("more bytes than the peer's buffer has room for")
)
