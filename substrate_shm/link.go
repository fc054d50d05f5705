package shm

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// What has happened to a link: the bits of link.ctl.
const (
	closed      uint32 = 1 << iota // by Close
	interrupted                    // by Interrupt
	broken                         // by the peer, which broke the protocol: link.failure
	hungUp                         // the peer's process or its end of the socket is gone
	sendTimed                      // there is a send deadline
	recvTimed                      // there is a receive deadline

	stopped = closed | interrupted | broken | hungUp
)

// A link is one end of two rings.
type link struct {
	sock          *net.UnixConn // tells of the peer's death
	event         *os.File      // is signalled by the peer when this end sleeps
	peerEvent     int           // the other way round
	sub           *Substrate
	id            int32 // in the substrate's set of hang-ups
	local, remote addr
	mem           *memory
	ours, theirs  *side

	ctl     atomic.Uint32 // 0 almost always: then the hot path looks at nothing else
	failure atomic.Pointer[substrate.Error]

	deadlines sync.Mutex // guards the setting of sendBy and recvBy
	sendBy    atomic.Int64
	recvBy    atomic.Int64

	_ [line]byte
	// Who works in the memory holds one of the three locks, Close takes them all before it unmaps. Each is free whenever it is
	// asked for, but then: the contract allows one Send and one Recv.
	sending sync.Mutex
	out     outRing
	forRoom waiter

	_         [line]byte
	receiving sync.Mutex
	in        inRing
	forData   waiter

	_       [line]byte
	keeping sync.Mutex
	taken   uint64
}

var (
	_ substrate.Keeper = (*link)(nil)
	_ substrate.Sole   = (*link)(nil)
)

// newLink makes a link of what the handshake brought. side is 0 for the end that dialled. On an error everything is freed.
func newLink(s *Substrate, sock *net.UnixConn, mem *memory, event, peerEvent, me int, local, remote addr) (*link, error) {
	l := &link{
		sock: sock, event: sys.PollEvent(event), peerEvent: peerEvent, sub: s, local: local, remote: remote,
		mem: mem, ours: &mem.sides[me], theirs: &mem.sides[1-me],
	}
	mine, other := &mem.lanes[me], &mem.lanes[1-me]
	l.out.shared, l.out.buf, l.out.reach = mine, mem.rings[me], uint64(len(mem.rings[me]))
	l.in.shared, l.in.buf = other, mem.rings[1-me]
	raw, err := l.event.SyscallConn()
	if err == nil {
		err = s.hangups.add(l)
	}
	if err != nil {
		l.free()
		return nil, err
	}
	l.forRoom.init(l, raw.Write, &mine.full.Uint32, &mine.head.Uint64)
	l.forData.init(l, raw.Read, &other.hungry.Uint32, &other.tail.Uint64)
	l.forRoom.courtesy.back, l.forData.courtesy.back = &other.head.Uint64, &l.out.sent
	return l, nil
}

func (l *link) Send(off uint64, bufs [][]byte) (n int, err error) {
	l.sending.Lock()
	defer l.sending.Unlock()
	return (*sole)(l).Send(off, bufs)
}

func (l *link) Recv(p []byte) (int, error) {
	l.receiving.Lock()
	defer l.receiving.Unlock()
	return (*sole)(l).Recv(p)
}

// Sole returns Send and Recv without the locks that Close waits for.
func (l *link) Sole() substrate.Mover { return (*sole)(l) }

// A sole is a link that is closed when nobody sends or receives any more. Its methods are those of the link without locks.
type sole link

func (s *sole) Send(_ uint64, bufs [][]byte) (n int, err error) {
	l := (*link)(s)
	if err := l.sendable(); err != nil {
		return 0, err
	}
	step := l.pace()
	put := 0 // since the last publish
	for _, b := range bufs {
		for len(b) > 0 {
			if put >= piece {
				l.publish(put)
				put = 0
				if err := l.sendable(); err != nil {
					return n, err
				}
			}
			want := min(len(b), piece)
			room, err := l.out.room(want)
			if err != nil {
				l.publish(put)
				return n, l.fail("send", err)
			}
			k := min(want, room)
			for p := b[:k]; ; {
				g := min(len(p), step)
				l.out.put(p[:g])
				if p = p[g:]; len(p) == 0 {
					break
				}
				l.out.show()
			}
			b, n, put = b[k:], n+k, put+k
			if k < want {
				l.publish(put)
				put = 0
				l.forRoom.mark = l.out.wakeAt()
				l.forRoom.wait(l.out.seen, l.out.missing(want-k))
				if err := l.sendable(); err != nil {
					return n, err
				}
				step = l.pace()
			}
		}
	}
	l.publish(put)
	return n, nil
}

// pace sees to how much of the ring is used, and returns how much is put before the peer can see it: on the same processor it can't
// look meanwhile anyway.
func (l *link) pace() (step int) {
	l.out.reach = uint64(len(l.out.buf))
	cpu := l.ours.cpu.Load()
	if cpu != l.theirs.cpu.Load() {
		return glance
	}
	if cpu != 0 {
		l.out.reach = min(snug, l.out.reach)
	}
	return piece
}

// publish shows the peer the last bytes that were put.
func (l *link) publish(put int) {
	if put > 0 && l.out.publish() {
		sys.Signal(l.peerEvent)
	}
}

// sendable tells why Send must stop.
func (l *link) sendable() error {
	if ctl := l.ctl.Load(); ctl != 0 {
		if err := l.stop(ctl, sendTimed, &l.sendBy); err != nil {
			return err
		}
		if ctl&hungUp != 0 {
			return l.newError("send", substrate.PathDown, errHungUp)
		}
	}
	if l.theirs.gone.Load() != 0 {
		return l.newError("send", substrate.PathDown, syscall.EPIPE)
	}
	return nil
}

// Release has nothing to give back: the bytes were copied.
func (l *link) Release(uint64) {}

func (s *sole) Recv(p []byte) (int, error) {
	l := (*link)(s)
	for {
		ctl := l.ctl.Load()
		if ctl != 0 {
			if err := l.stop(ctl, recvTimed, &l.recvBy); err != nil {
				return 0, err
			}
		}
		if n, err := l.take(p, ctl); n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		l.forData.wait(l.in.head, 1)
	}
}

func (l *link) Drain(p []byte) (int, error) {
	l.receiving.Lock()
	defer l.receiving.Unlock()
	ctl := l.ctl.Load()
	if ctl&(closed|broken) != 0 {
		return 0, l.stop(ctl, 0, nil)
	}
	return l.take(p, ctl)
}

// take moves what is there into p. It returns 0, nil if there is nothing yet. ctl was loaded before, so that bytes that came before
// an end are seen before it.
func (l *link) take(p []byte, ctl uint32) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	have, err := l.in.there(1)
	if err != nil {
		return 0, l.fail("recv", err)
	}
	if have == 0 {
		gone := l.theirs.gone.Load() != 0
		if !gone && ctl&hungUp == 0 {
			return 0, nil
		}
		if have, err = l.in.there(1); err != nil {
			return 0, l.fail("recv", err)
		}
		switch {
		case have == 0 && gone:
			return 0, io.EOF
		case have == 0:
			return 0, l.newError("recv", substrate.PathDown, errHungUp)
		}
	}
	if have < len(p) {
		if have, err = l.in.there(len(p)); err != nil {
			return 0, l.fail("recv", err)
		}
	}
	p = p[:min(len(p), have)]
	for n < len(p) {
		k := min(len(p)-n, piece)
		l.in.get(p[n : n+k])
		n += k
		if l.in.release() {
			sys.Signal(l.peerEvent)
		}
	}
	return n, nil
}

// errHungUp: the socket that the link began on has lost its other end, and the peer said no word of closing.
var errHungUp = errors.New("the peer's process is gone")

// stop says why a call must not go on, if that is so.
func (l *link) stop(ctl, timed uint32, by *atomic.Int64) error {
	switch {
	case ctl&closed != 0:
		return net.ErrClosed
	case ctl&interrupted != 0:
		return substrate.ErrInterrupted
	case ctl&broken != 0:
		return l.failure.Load()
	case ctl&timed != 0 && int64(time.Since(epoch)) >= by.Load():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// fail ends the link because the peer broke the protocol.
func (l *link) fail(op string, err error) error {
	l.failure.CompareAndSwap(nil, l.newError(op, substrate.Protocol, err))
	l.tell(broken)
	l.sock.CloseWrite() // the peer's end hears of it
	return l.failure.Load()
}

func (l *link) newError(op string, class substrate.Class, err error) *substrate.Error {
	return &substrate.Error{Op: op, Substrate: name, Peer: l.remote.String(), Class: class, Err: err}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// epoch is where the times of deadlines count from.
var epoch = time.Now()

// tell raises a bit of ctl and wakes whoever is parked. It returns the bits from before.
func (l *link) tell(bit uint32) uint32 {
	before := l.ctl.Or(bit)
	l.event.SetDeadline(longAgo)
	return before
}

func (l *link) SetSendDeadline(t time.Time) error {
	return l.setDeadline(t, sendTimed, &l.sendBy, l.event.SetWriteDeadline)
}

func (l *link) SetRecvDeadline(t time.Time) error {
	return l.setDeadline(t, recvTimed, &l.recvBy, l.event.SetReadDeadline)
}

func (l *link) setDeadline(t time.Time, timed uint32, by *atomic.Int64, set func(time.Time) error) error {
	l.deadlines.Lock()
	defer l.deadlines.Unlock()
	if t.IsZero() {
		l.ctl.And(^timed)
	} else {
		// The poller, too, turns t into a time from now.
		now, left := int64(time.Since(epoch)), int64(time.Until(t))
		if left > math.MaxInt64-now {
			left = math.MaxInt64 - now
		}
		by.Store(now + left)
		l.ctl.Or(timed)
	}
	err := set(t)
	// tell raises its bit before it sets its deadline: whichever order the two run in, the deadline in the past is the last one.
	if ctl := l.ctl.Load(); ctl&closed != 0 {
		err = net.ErrClosed
	}
	if l.ctl.Load()&stopped != 0 {
		l.event.SetDeadline(longAgo)
	}
	return err
}

func (l *link) Interrupt() { l.tell(interrupted) }

// Close says good-bye, wakes everybody, and frees the memory when the last call has left it.
func (l *link) Close() error {
	if l.tell(closed)&closed != 0 {
		return nil
	}
	l.sending.Lock() // what a Send was just putting it has published
	l.ours.gone.Store(1)
	if mine, other := l.out.shared, l.in.shared; mine.hungry.Swap(0)|other.full.Swap(0) != 0 {
		sys.Signal(l.peerEvent)
	}
	l.sending.Unlock()
	l.free()
	return nil
}

// free gives back all that the link holds.
func (l *link) free() {
	l.sending.Lock()
	defer l.sending.Unlock()
	l.receiving.Lock()
	defer l.receiving.Unlock()
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.sub.hangups.remove(l)
	l.sock.Close()
	l.event.Close()
	sys.CloseFD(l.peerEvent)
	sys.Unmap(l.mem.bytes)
	l.mem = nil
}

// Cost is unknown: nothing is measured here.
func (l *link) Cost() substrate.Cost { return substrate.Cost{} }

func (l *link) LocalAddr() net.Addr { return l.local }

func (l *link) RemoteAddr() net.Addr { return l.remote }
