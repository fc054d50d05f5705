package activemsg

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// Small messages that are sent while the carrier is busy with another go into the cork and their senders go on; the whole cork is
// handed to the carrier in one call by whoever keeps it busy. So nothing waits for company: a message that finds the carrier
// free goes at once, and those that don't cost one system call, or one doorbell, together.
const (
	corkMost    = 64       // segments that senders put there, besides those for control
	corkBytes   = 16 << 10 // and their bytes
	corkPayload = 1 << 10  // a longer payload is worth the wait for the carrier: it isn't copied then
	corkRounds  = 4        // corks that a sender hands over besides its own segment, before the keeper goes on
)

// A cork holds segments that wait for the carrier, in order.
type cork struct {
	mu      sync.Mutex
	busy    bool // somebody has tx, the right to call the carrier
	line    line // who waits for it
	data    int  // data segments in now
	control int  // and others
	now     corked
	refused bool // a try found it full
	later   bool // it is the keeper's to empty, if nobody sends before

	other corked    // under tx, what is being sent
	batch []Segment // under tx
}

type corked struct {
	heads []header
	bytes []byte // of all payloads, one after the other
}

// body is the payload of a segment: pieces, or numbers.
type body struct {
	pieces [][]byte
	args   [4]uint64
	isArgs bool
}

func numbers(args [4]uint64) body { return body{args: args, isArgs: true} }

const argsLen = 32

func (b *body) length() (n int) {
	if b.isArgs {
		return argsLen
	}
	for _, p := range b.pieces {
		n += len(p)
	}
	return n
}

func putArgs(b []byte, args *[4]uint64) {
	for i, a := range args {
		binary.LittleEndian.PutUint64(b[8*i:], a)
	}
}

func getArgs(args *[4]uint64, b []byte) {
	for i := range args {
		if len(b) < 8*i+8 {
			return
		}
		args[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
}

func (c *corked) add(h header, b body) {
	c.heads = append(c.heads, h)
	if b.isArgs {
		var args [argsLen]byte
		putArgs(args[:], &b.args)
		c.bytes = append(c.bytes, args[:]...)
		return
	}
	for _, p := range b.pieces {
		c.bytes = append(c.bytes, p...)
	}
}

// lock takes tx.
func (e *Endpoint) lock() {
	e.cork.mu.Lock()
	e.lockSlow()
}

// lockSlow is lock with cork.mu held, which it gives away.
func (e *Endpoint) lockSlow() {
	c := &e.cork
	if !c.busy {
		c.busy = true
		c.mu.Unlock()
		return
	}
	place := c.line.join()
	c.mu.Unlock()
	<-place.granted
	c.line.unused.Put(place)
}

// unlock gives tx away, after it has handed over so many times what was corked meanwhile. The rest is left to the keeper.
func (e *Endpoint) unlock(rounds int) {
	c := &e.cork
	for {
		c.mu.Lock()
		left := len(c.now.heads) > 0
		if !left || rounds == 0 || e.Err() != nil {
			if c.line.empty() {
				c.busy = false
				if left {
					e.leave()
				}
			} else {
				c.line.serve() // and it looks at the cork
			}
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		e.flush()
		rounds--
	}
}

// leave has the keeper empty the cork. cork.mu is held.
func (e *Endpoint) leave() {
	if !e.cork.later {
		e.cork.later = true
		e.owed.nudge()
	}
}

// rounds is what to call unlock with where nothing may wait for the peer to receive.
func (e *Endpoint) rounds() int {
	if e.limits.Waits != 0 {
		return 0
	}
	return corkRounds
}

// submit sends a segment, for which there is a credit if it is one of data, or corks it. It may wait for the carrier.
func (e *Endpoint) submit(h header, b body) error {
	if err := e.Err(); err != nil {
		return err
	}
	h.length = uint32(b.length())
	c := &e.cork
	c.mu.Lock()
	if c.busy && h.length <= corkPayload && c.data < corkMost && len(c.now.bytes)+int(h.length) <= corkBytes {
		c.data++
		c.now.add(h, b)
		c.mu.Unlock()
		return nil
	}
	if err := e.sendInTurn(h, b); err != nil {
		<-e.done // it may end for a better reason: see checked
		return e.Err()
	}
	return nil
}

// sendInTurn waits for tx and sends. cork.mu is held, and given away.
func (e *Endpoint) sendInTurn(h header, b body) error {
	c := &e.cork
	var err error
	if !c.busy && len(c.now.heads) == 0 {
		c.busy = true
		c.mu.Unlock()
	} else {
		e.lockSlow()
		err = e.flush()
	}
	if err == nil {
		err = e.send(h, b)
	}
	e.unlock(corkRounds)
	return err
}

// submitNow is submit that never waits for the peer to receive: else two ends whose receiving goroutines send could wait for each other. It
// reports false if that means that it can't be sent now.
func (e *Endpoint) submitNow(h header, b body) (bool, error) {
	if err := e.Err(); err != nil {
		return true, err
	}
	h.length = uint32(b.length())
	c := &e.cork
	c.mu.Lock()
	if !c.busy && len(c.now.heads) == 0 && e.free(int(h.length)) {
		c.busy = true
		c.mu.Unlock()
		err := e.send(h, b)
		e.unlock(e.rounds())
		return true, err
	}
	if e.limits.Waits == 0 && h.length > corkPayload {
		return true, e.sendInTurn(h, b)
	}
	defer c.mu.Unlock()
	if c.data >= corkMost || len(c.now.bytes) > 0 && len(c.now.bytes)+int(h.length) > corkBytes {
		c.refused = true
		return false, nil
	}
	c.data++
	c.now.add(h, b)
	if !c.busy {
		e.leave()
	}
	return true, nil
}

var errFlood = errors.New("the peer asks for more answers than it has slots for")

// note corks a control segment. There always is room, as no more of them can be under way than the peer has slots for. Then push, which finds
// out if that isn't so.
func (e *Endpoint) note(h header, b body) {
	h.flags = flagControl
	h.length = uint32(b.length())
	e.cork.mu.Lock()
	e.cork.control++
	e.cork.now.add(h, b)
	e.cork.mu.Unlock()
}

// push has the cork emptied, without waiting.
func (e *Endpoint) push() error {
	c := &e.cork
	c.mu.Lock()
	switch {
	case c.control > ControlSlots:
		c.mu.Unlock()
		return e.failed(&substrate.Error{Op: "message", Substrate: "activemsg", Class: substrate.Protocol, Err: errFlood})
	case c.busy || len(c.now.heads) == 0:
		c.mu.Unlock()
	case !e.free(len(c.now.bytes) + len(c.now.heads)*HeaderLen):
		e.leave()
		c.mu.Unlock()
	default:
		c.busy = true
		c.mu.Unlock()
		e.flush()
		e.unlock(e.rounds())
	}
	return e.Err()
}

// free reports that a segment of n bytes can be sent without waiting for the peer.
func (e *Endpoint) free(n int) bool {
	return e.limits.Waits == 0 || e.flight.Load()+int64(HeaderLen+n) <= int64(e.limits.Waits)
}

// flush hands the cork to the carrier. It needs tx.
func (e *Endpoint) flush() error {
	c := &e.cork
	c.mu.Lock()
	if len(c.now.heads) == 0 && !c.refused {
		c.mu.Unlock()
		return nil
	}
	c.now, c.other = c.other, c.now
	c.data, c.control, c.later = 0, 0, false
	refused := c.refused
	c.refused = false
	c.mu.Unlock()
	if refused {
		e.owed.tellCredit()
	}
	if len(c.other.heads) == 0 {
		return nil
	}
	defer func() { c.other.heads, c.other.bytes = c.other.heads[:0], c.other.bytes[:0] }()
	if err := e.sendable(); err != nil {
		return err
	}
	rest := c.other.bytes
	c.batch = c.batch[:0]
	for _, h := range c.other.heads {
		e.seal(&h)
		s := Segment{Payload: rest[:h.length:h.length]}
		rest = rest[h.length:]
		h.put(&s.Head)
		c.batch = append(c.batch, s)
	}
	if e.batcher != nil && len(c.batch) > 1 {
		e.calling()
		return e.called(e.batcher.SendBatch(c.batch))
	}
	for i := range c.batch {
		e.head = c.batch[i].Head
		e.vec[0] = c.batch[i].Payload
		e.calling()
		if err := e.called(e.carrier.Send(&e.head, e.vec[:])); err != nil {
			return err
		}
	}
	return nil
}

// send hands one segment to the carrier. It needs tx, and the cork is empty.
func (e *Endpoint) send(h header, b body) error {
	if err := e.sendable(); err != nil {
		return err
	}
	e.seal(&h)
	h.put(&e.head)
	if b.isArgs {
		putArgs(e.args[:], &b.args)
		e.vec[0] = e.args[:]
		b.pieces = e.vec[:]
	}
	e.calling()
	return e.called(e.carrier.Send(&e.head, b.pieces))
}

// calling notes that a call of the carrier begins that may have to wait for the peer; called, that it is over, and what checked does.
func (e *Endpoint) calling() {
	if e.limits.Waits != 0 {
		e.sends.Add(1)
	}
}

func (e *Endpoint) called(err error) error {
	e.calling()
	return e.checked(err)
}

// seal fills in what depends on the order in which segments are sent. It needs tx.
func (e *Endpoint) seal(h *header) {
	if h.flags&flagControl == 0 {
		h.seq = e.out.sent.Load()
		e.out.sent.Store(h.seq + 1)
		if e.limits.Waits != 0 {
			e.lengths[h.seq%e.out.size].Store(HeaderLen + h.length)
			e.flight.Add(int64(HeaderLen + h.length))
		}
	}
	h.released = e.in.tell()
}

// sendable tells why nothing can be sent any more. It needs tx.
func (e *Endpoint) sendable() error {
	if err := e.Err(); err != nil {
		return err
	}
	return e.lost
}

// checked ends the endpoint if the carrier failed to send: not at once, as a peer that has closed its end in good order has said so, and that may
// have arrived and not be handled. It doesn't wait for that, as it may be the receiving goroutine. It needs tx.
func (e *Endpoint) checked(err error) error {
	if err == nil {
		return nil
	}
	s := asError(substrate.PathDown, err)
	if s.Class != substrate.PathDown || e.ending.Load() {
		return e.failed(s)
	}
	e.lost = s
	time.AfterFunc(byeWait, func() { e.fail(s) })
	e.recall()
	return s
}

// failed ends the endpoint and returns why it has ended.
func (e *Endpoint) failed(err *substrate.Error) error {
	e.fail(err)
	<-e.done // somebody else may be ending it
	return e.Err()
}

// Short sends a message of four numbers. It waits for a credit until ctx ends. For a Stream handler they are 32 bytes,
// little-endian.
func (e *Endpoint) Short(ctx context.Context, id uint8, args [4]uint64) error {
	if err := e.out.take(ctx, e); err != nil {
		return err
	}
	return e.submit(whole(id, argsLen), numbers(args))
}

// TryShort is Short that doesn't wait: it fails with ErrNoCredit.
func (e *Endpoint) TryShort(id uint8, args [4]uint64) error {
	return e.try(whole(id, argsLen), numbers(args))
}

// TrySend sends a message of one segment, at most Payload bytes, gathered from pieces. It doesn't wait for a credit: it fails with
// ErrNoCredit. The pieces are the caller's again when it returns.
func (e *Endpoint) TrySend(id uint8, pieces [][]byte) error {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	if n > e.limits.Payload {
		return ErrTooLong
	}
	c := &e.cork
	c.mu.Lock()
	if c.busy || len(c.now.heads) > 0 || e.limits.Waits != 0 || e.ending.Load() || !e.out.try() {
		c.mu.Unlock()
		return e.try(whole(id, n), body{pieces: pieces})
	}
	// Nobody else sends, as mostly: what try would do, without its detours.
	c.busy = true
	c.mu.Unlock()
	err := e.lost
	if err == nil {
		h := whole(id, n)
		h.length = uint32(n)
		e.seal(&h)
		h.put(&e.head)
		err = e.checked(e.carrier.Send(&e.head, pieces))
	}
	c.mu.Lock()
	if len(c.now.heads) == 0 && c.line.empty() {
		c.busy = false
		c.mu.Unlock()
		return err
	}
	c.mu.Unlock()
	e.unlock(corkRounds)
	return err
}

// whole is the header of a message of one segment.
func whole(id uint8, n int) header {
	return header{id: id, flags: flagFirst | flagLast, arg: uint64(n)}
}

func (e *Endpoint) try(h header, b body) error {
	e.cork.mu.Lock()
	ok := e.out.try()
	e.cork.mu.Unlock()
	if !ok {
		if err := e.Err(); err != nil {
			return err
		}
		return ErrNoCredit
	}
	ok, err := e.submitNow(h, b)
	if !ok {
		if e.out.giveBack() {
			e.owed.tellCredit()
		}
		return ErrNoCredit
	}
	return err
}
