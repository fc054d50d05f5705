package verbs

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/internal/blocks"
	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// What has happened to a link: the bits of link.ctl.
const (
	closed      uint32 = 1 << iota // by Close
	interrupted                    // by Interrupt
	broken                         // with the path: link.failure
	ended                          // by the peer's Close
	sendLate                       // the send deadline has passed
	recvLate                       // the receive deadline has passed
)

// A link is one end of a link. Its locks are leaves but for sending and receiving, which are held through a call.
type link struct {
	p             *peer
	id            uint32 // in our table
	theirs        uint32 // in the peer's; known when opened
	local, remote net.Addr

	ctl     atomic.Uint32
	failure atomic.Pointer[substrate.Error]
	opened  chan uint64 // gets the peer's answer, at the end that dials

	// Under peer.mu.
	state   opening
	endSent bool
	endGot  bool

	due  atomic.Uint32 // what the peer is to be told of the link: bits of duties
	late atomic.Bool   // it is in the peer's list of links that took bytes

	sending  sync.Mutex
	head     [dataHead]byte
	views    [][]byte
	sendWait *activemsg.Waiter
	sendBy   deadline

	snd    sync.Mutex    // guards what follows
	out    blocks.List   // from what the peer's end has taken to sent; Send frees the last few bytes when it is next called
	sent   atomic.Uint64 // written under it
	window uint64        // bytes that may be sent and not taken; it never shrinks
	frozen bool          // Kept may be called: blocks stay

	taken atomic.Uint64 // the handlers'
	loose uint64        // theirs, too: bytes of out that were taken and perhaps not freed

	receiving sync.Mutex
	recvWait  *activemsg.Waiter
	room      atomic.Bool // dst isn't full
	hungry    func() bool // tells it
	recvBy    deadline

	rcv     sync.Mutex // guards what follows
	in      blocks.List
	dst     []byte // of a Recv that waits, or of one that is just woken
	filled  int    // bytes in dst
	arrived uint64
	grant   uint64 // bytes that the peer may send ahead of got
	grownAt uint64 // got when grant was last doubled
	over    bool   // nothing is taken from the path any more
	got     atomic.Uint64
	told    atomic.Uint64 // what the peer knows of got
}

var _ substrate.Gatherer = (*link)(nil)

// gatherMost is up to how many bytes a write costs more to post than to copy once more, where that isn't measured.
const gatherMost = 4 << 10

func newLink(p *peer, id uint32) *link {
	l := &link{
		p: p, id: id, local: p.local, remote: p.remote,
		opened: make(chan uint64, 1), sendWait: activemsg.NewWaiter(), recvWait: activemsg.NewWaiter(), grant: p.s.opts.firstWindow,
	}
	l.hungry = l.room.Load
	l.out, l.in = blocks.New(&p.store, 0), blocks.New(&p.s.store, 0)
	l.sendBy.late = func() { l.tell(sendLate) }
	l.recvBy.late = func() { l.tell(recvLate) }
	return l
}

// Send copies bufs into the memory of the queue pair and transmits them in segments, as far as the window and the credits allow.
func (l *link) Send(_ uint64, bufs [][]byte) (n int, err error) {
	l.sending.Lock()
	n, err = l.send(bufs)
	l.sending.Unlock()
	return n, err
}

func (l *link) send(bufs [][]byte) (n int, err error) {
	rest := cursor{bufs: bufs}
	for {
		if err := l.sendable(); err != nil {
			return n, err
		}
		off, k := l.fill(&rest)
		if k == 0 {
			if rest.done() {
				return n, nil
			}
			l.p.ep.Wait(l.sendWait, nil)
			continue
		}
		if err := l.transmit(); err != nil {
			l.unfill(off)
			return n, err
		}
		if n += k; rest.done() {
			return n, nil // whatever has become of the link meanwhile
		}
	}
}

// A cursor walks through a gather list.
type cursor struct {
	bufs [][]byte
	skip int
}

func (c *cursor) done() bool {
	for len(c.bufs) > 0 && c.skip == len(c.bufs[0]) {
		c.bufs, c.skip = c.bufs[1:], 0
	}
	return len(c.bufs) == 0
}

// fill copies the next segment to where it stays until it is taken, and returns its offset and length.
func (l *link) fill(c *cursor) (off uint64, n int) {
	l.snd.Lock()
	off = l.sent.Load()
	taken := l.taken.Load()
	if taken > off { // of what unfill has taken back
		l.snd.Unlock()
		l.p.protocol(errTakenTooMuch)
		return off, 0
	}
	if !l.frozen {
		l.out.Release(taken)
	}
	most := int(min(l.window-min(l.window, off-taken), uint64(l.p.most)))
	if len(c.bufs) == 1 && len(c.bufs[0]) <= min(most, blocks.Small) && c.skip == 0 { // as most are
		if at := l.out.AppendWhole(c.bufs[0]); at != nil {
			n = len(at)
			c.skip = n
			sys.StoreRelease(&l.sent, off+uint64(n))
			l.views = append(l.views[:0], nil, at)
			l.snd.Unlock()
			return off, n
		}
	}
	for n < most && !c.done() {
		b := c.bufs[0][c.skip:]
		b = b[:min(len(b), most-n)]
		l.out.Append(l.out.End(), b)
		c.skip += len(b)
		n += len(b)
	}
	sys.StoreRelease(&l.sent, off+uint64(n))
	l.views = l.out.View(append(l.views[:0], nil), off, n)
	l.snd.Unlock()
	return off, n
}

// unfill takes back a segment that wasn't sent.
func (l *link) unfill(off uint64) {
	l.snd.Lock()
	defer l.snd.Unlock()
	if l.taken.Load() > off {
		l.p.protocol(errTakenTooMuch)
		return
	}
	l.out.Cut(off)
	l.sent.Store(off)
}

// transmit sends what fill has put into views, and waits for a credit if there is none.
func (l *link) transmit() error {
	got := l.got.Load()
	l.told.Store(got)
	binary.LittleEndian.PutUint32(l.head[0:], l.theirs)
	binary.LittleEndian.PutUint32(l.head[4:], uint32(got))
	l.views[0] = l.head[:]
	for {
		err := l.p.ep.TrySend(msgData, l.views)
		if err == nil {
			return nil
		}
		if !errors.Is(err, activemsg.ErrNoCredit) {
			return l.p.cause("send", err)
		}
		if l.p.starve(l) {
			continue // it is in the list only now, a credit may have come before
		}
		l.p.ep.Wait(l.sendWait, nil)
		if err := l.sendable(); err != nil {
			return err
		}
	}
}

// sendable tells why Send must stop.
func (l *link) sendable() error {
	ctl := l.ctl.Load()
	if ctl&^recvLate == 0 {
		return nil
	}
	if err := l.stop(ctl, sendLate); err != nil {
		return err
	}
	switch {
	case ctl&ended != 0:
		return l.newError("send", substrate.PathDown, syscall.EPIPE)
	case ctl&broken != 0:
		return l.failure.Load()
	}
	return nil
}

// stop says why a call of this end must not go on, if that is so.
func (l *link) stop(ctl, late uint32) error {
	switch {
	case ctl&closed != 0:
		return net.ErrClosed
	case ctl&interrupted != 0:
		return substrate.ErrInterrupted
	case ctl&late != 0:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Release has nothing to give back: what the link keeps is its own.
func (l *link) Release(uint64) {}

// Recv takes what has arrived, or lets what comes next be put into p.
func (l *link) Recv(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	l.receiving.Lock()
	n, err = l.recv(p)
	l.receiving.Unlock()
	return n, err
}

func (l *link) recv(p []byte) (n int, err error) {
	for {
		ctl := l.ctl.Load()
		if ctl != 0 {
			if err := l.stop(ctl, recvLate); err != nil {
				return 0, err
			}
		}
		l.rcv.Lock()
		if n = l.in.Read(p); n == 0 && ctl&(ended|broken) == 0 {
			l.dst = p
			l.room.Store(true)
			l.rcv.Unlock()
			l.p.ep.Wait(l.recvWait, l.hungry)
			l.rcv.Lock()
			n = l.filled
			l.dst, l.filled = nil, 0
		}
		due := l.took(n)
		l.rcv.Unlock()
		if n > 0 {
			l.tellTaken(due)
			return n, nil
		}
		if ctl&(ended|broken) != 0 {
			return 0, l.end(ctl)
		}
	}
}

// end is what follows the last byte.
func (l *link) end(ctl uint32) error {
	if ctl&ended != 0 {
		return io.EOF
	}
	return l.failure.Load()
}

// Drain takes what has arrived.
func (l *link) Drain(p []byte) (int, error) {
	l.receiving.Lock()
	defer l.receiving.Unlock()
	ctl := l.ctl.Load()
	if ctl&closed != 0 {
		return 0, net.ErrClosed
	}
	l.rcv.Lock()
	n := l.in.Read(p)
	due := l.took(n)
	l.rcv.Unlock()
	if n > 0 {
		l.tellTaken(due)
		return n, nil
	}
	if len(p) > 0 && ctl&(ended|broken) != 0 {
		return 0, l.end(ctl)
	}
	return 0, nil
}

// took notes that the user has n more bytes, and reports whether the peer is to hear of it at once, because it is much. Under rcv.
func (l *link) took(n int) (due bool) {
	got := l.got.Load() + uint64(n)
	sys.StoreRelease(&l.got, got)
	due = got-l.told.Load() >= l.grant/4
	if due && !l.over && got-l.grownAt >= 2*l.grant && l.p.s.more(l.grant) {
		l.grant *= 2
		l.grownAt = got
	}
	return due
}

// tellTaken tells the peer of bytes that were taken: now, or soon unless a segment that goes there says it.
func (l *link) tellTaken(now bool) {
	if !now {
		l.p.later(l)
		return
	}
	if err := l.sayTaken(l.p.ep.TryShort); errors.Is(err, activemsg.ErrNoCredit) {
		l.p.owe(l, dueTaken)
	}
}

// sayTaken tells the peer how far it may send.
func (l *link) sayTaken(say func(id uint8, args [4]uint64) error) error {
	l.rcv.Lock()
	grant := l.grant
	l.rcv.Unlock()
	got := l.got.Load()
	l.told.Store(got)
	return say(msgTaken, [4]uint64{uint64(l.theirs), got, grant})
}

// Taken is what the peer has said last.
func (l *link) Taken() uint64 { return l.taken.Load() }

// Gather has small writes gathered: each segment is a request to the adapter.
func (l *link) Gather() int {
	if f, ok := l.p.carrier.(fitted); ok {
		return f.Thresholds().Gather
	}
	return gatherMost
}

// Kept returns what was sent from position from on.
func (l *link) Kept(from uint64) [][]byte {
	l.snd.Lock()
	defer l.snd.Unlock()
	sent := l.sent.Load()
	if from < l.out.Start() || from >= sent {
		return nil
	}
	return l.out.View(nil, from, int(sent-from))
}

// tell raises a bit of ctl and wakes whoever waits. It returns the bits from before.
func (l *link) tell(bit uint32) uint32 {
	before := l.ctl.Or(bit)
	l.sendWait.Wake()
	l.recvWait.Wake()
	return before
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Interrupt also keeps what Kept will be asked for.
func (l *link) Interrupt() {
	l.snd.Lock()
	l.frozen = true
	l.snd.Unlock()
	l.tell(interrupted)
}

// Close wakes everybody; the peer is told in the background.
func (l *link) Close() error {
	if l.tell(closed)&closed != 0 {
		return nil
	}
	l.sendBy.stop()
	l.recvBy.stop()
	l.rcv.Lock()
	l.over = true
	l.in.Clear()
	given := l.grant - l.p.s.opts.firstWindow
	l.rcv.Unlock()
	l.p.s.less(given)
	if l.p.owe(l, dueEnd) {
		l.forget()
	}
	return nil
}

func (l *link) SetSendDeadline(t time.Time) error {
	return l.setDeadline(&l.sendBy, t, sendLate)
}

func (l *link) SetRecvDeadline(t time.Time) error {
	return l.setDeadline(&l.recvBy, t, recvLate)
}

func (l *link) setDeadline(d *deadline, t time.Time, late uint32) error {
	if l.ctl.Load()&closed != 0 {
		return net.ErrClosed
	}
	d.set(t, func(passed bool) {
		if passed {
			l.tell(late)
		} else {
			l.ctl.And(^late)
		}
	})
	return nil
}

// Cost is unknown: nothing is measured here.
func (l *link) Cost() substrate.Cost { return substrate.Cost{} }

func (l *link) LocalAddr() net.Addr { return l.local }

func (l *link) RemoteAddr() net.Addr { return l.remote }

func (l *link) newError(op string, class substrate.Class, err error) *substrate.Error {
	return &substrate.Error{Op: op, Substrate: name, Peer: l.remote.String(), Class: class, Err: err}
}

// forget gives back what the link keeps. Nothing is sent from there any more.
func (l *link) forget() {
	l.sending.Lock()
	defer l.sending.Unlock()
	l.snd.Lock()
	defer l.snd.Unlock()
	l.out.Drop(l.p.store.keep)
}

// fail ends the link with the path.
func (l *link) fail(err *substrate.Error) {
	l.rcv.Lock()
	l.over = true
	l.rcv.Unlock()
	l.failure.CompareAndSwap(nil, err)
	l.tell(broken)
}
