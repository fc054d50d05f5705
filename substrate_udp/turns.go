package udp

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// turns says whose turn it is to read a socket. Normally that is a goroutine of the socket, which wakes the users that wait in Recv. When
// all that comes is for one link whose user waits each time, it lends its place to him: he reads in his own goroutine, and what a
// wake-up costs (a quarter of a round trip on loopback) is saved. It takes its place back when something comes for another link, or
// when the user hasn't read for a while.
type turns struct {
	turn   chan struct{} // holds one token; who has it reads
	lent   atomic.Pointer[link]
	behind atomic.Bool   // more waited to be read, when last seen, than one read takes
	active atomic.Bool   // the borrower has read since the last look
	asleep atomic.Bool   // the owner waits for him to stop
	back   chan struct{} // the borrower stopped, or something came for somebody else

	// Of whoever has the turn.
	sole  *link // whom the last batches were for
	times int   // how many
	aimed *link // in whose user's memory the next datagram lands
	head  [maxHeader]byte

	stream *link         // that the last batch brought a part of a stream for
	pause  time.Duration // between two looks for more of it
	woken  func()        // giveWay
	yield  func()        // sys.Yield; in tests something else
	cpu    func() byte
}

const (
	lendAfter = 2                // batches for one user who waits
	lookEvery = time.Millisecond // while the place is lent
)

func (t *turns) init() {
	t.turn = make(chan struct{}, 1)
	t.turn <- struct{}{}
	t.back = make(chan struct{}, 1)
}

// try takes the turn if nobody has it.
func (t *turns) try() bool {
	select {
	case <-t.turn:
		return true
	default:
		return false
	}
}

func (t *turns) pass() { t.turn <- struct{}{} }

// callBack makes the owner look.
func (t *turns) callBack() {
	select {
	case t.back <- struct{}{}:
	default:
	}
}

// reclaim takes the place back at once if its borrower isn't reading: somebody waits for acknowledgements.
func (s *socket) reclaim() {
	if s.lent.Load() != nil && s.try() {
		s.lent.Store(nil)
		s.times = 0
		s.pass()
		s.callBack()
	}
}

// take lets the user of l, in Recv, read once if the place is lent to him. Under the mu of l, which it gives up meanwhile.
func (s *socket) take(l *link) bool {
	if s.lent.Load() != l || !s.try() {
		return false
	}
	w := &l.receiver.wake
	w.reading = s.tr
	s.aim(l)
	l.mu.Unlock()
	n, err := s.spin(l)
	if err == errNothing {
		n, err = s.fetch()
	}
	l.mu.Lock()
	w.reading = nil
	if w.kicked {
		w.kicked = false
		s.tr.unkick()
	}
	l.mu.Unlock()
	s.dispatch(n, err)
	s.active.Store(true)
	s.pass()
	if s.asleep.CompareAndSwap(true, false) || s.lent.Load() == nil {
		s.callBack()
	}
	l.mu.Lock()
	return true
}

// run reads until the socket is closed.
func (s *socket) run() {
	s.msgs = make([]sys.UDPMessage, readBatch)
	s.mem = make([]*block, readBatch)
	for i := range s.mem {
		s.mem[i] = newBlock()
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		<-s.turn
		n, err := s.fetch()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		s.dispatch(n, err)
		if s.times >= lendAfter {
			s.active.Store(true)
			s.lent.Store(s.sole)
		}
		s.pass()
		for s.lent.Load() != nil {
			timer.Reset(lookEvery)
			select {
			case <-timer.C:
			case <-s.back:
			}
			s.takeBack()
		}
	}
	for _, m := range s.mem {
		m.drop()
	}
	s.mem = nil
	s.pass()
}

// takeBack ends the lending if the borrower doesn't read any more. If he waits for something to come, it waits for him.
func (s *socket) takeBack() {
	if s.active.Swap(false) {
		return
	}
	if !s.try() {
		s.asleep.Store(true)
		if !s.try() { // he hasn't stopped in between
			<-s.back
			return
		}
		s.asleep.Store(false)
	}
	s.lent.Store(nil)
	s.times = 0
	s.pass()
}

// fetch reads once. Its caller has the turn.
func (s *socket) fetch() (int, error) {
	if s.mem == nil {
		return 0, net.ErrClosed
	}
	return s.tr.read(s.space(), s.woken)
}

// poll is fetch without waiting.
func (s *socket) poll() (int, error) {
	if s.mem == nil {
		return 0, net.ErrClosed
	}
	return s.tr.poll(s.space())
}

// space is where the next datagrams go.
func (s *socket) space() []sys.UDPMessage {
	for i, m := range s.mem {
		s.msgs[i].Buf = m.buf[:]
	}
	if s.msgs[0].Body != nil {
		return s.msgs[:1]
	}
	return s.msgs
}

// dispatch takes in what fetch brought. Its caller has the turn.
func (s *socket) dispatch(n int, err error) {
	defer s.unaim()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.reports()
		}
		return
	}
	if behind := n == readBatch; behind != s.behind.Load() {
		s.behind.Store(behind)
	}
	now := s.sub.now()
	for i := range s.msgs[:n] {
		if len(s.msgs[i].Body) > 0 {
			s.landed(&s.msgs[i], now)
		} else {
			s.datagrams(&s.msgs[i], s.mem[i], now)
		}
		if s.mem[i].refs.Load() > 1 { // chunks keep it
			s.mem[i].drop()
			s.mem[i] = newBlock()
		}
	}
	waits, stream := false, uint64(0)
	s.stream = nil
	for i, l := range s.touched {
		l.touched = false
		if waits, stream = l.afterBatch(now); stream > 0 {
			s.stream, s.pause = l, streamLook
			if stream >= longStream {
				s.pause = longLook
			}
		}
		if l != s.sole {
			s.sole, s.times = l, 0
		}
		if lent := s.lent.Load(); lent != nil && lent != l {
			s.lent.Store(nil)
		}
		s.touched[i] = nil
	}
	s.touched = s.touched[:0]
	if s.times++; !waits {
		s.times = 0
	}
}
