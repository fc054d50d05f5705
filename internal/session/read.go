package session

import (
	"errors"
	"os"
	"time"

	"github.com/sockemu/sockemu/internal/blocks"
	"github.com/sockemu/sockemu/internal/sys"
)

// Read takes the next bytes: from the link straight into p when the link is bare. It returns io.EOF after the peer's last
// byte, os.ErrDeadlineExceeded, net.ErrClosed or an *EndError.
func (s *Session) Read(p []byte) (int, error) {
	if s.mu.rx.Load() != nil && s.in.tryBoth() {
		b := s.mu.rx.Load() // once more: from now on nobody else uses the link
		if b != nil && len(p) > 0 {
			n, err := s.receive(b, p)
			if n > 0 && s.got.Load() <= s.finAt.Load() && !s.ackDue() {
				s.in.unlockBoth(&s.rd, &s.rx)
				return n, nil
			}
			if s.rx.unlock(); s.received(b, n, err) {
				s.rd.unlock()
				return n, nil
			}
		} else {
			s.rx.unlock()
		}
	} else {
		s.rd.lock()
	}
	n, err := s.read(p)
	s.rd.unlock()
	return n, err
}

// receive takes the next bytes from a bare link. received must follow, after rx is free: unless bytes came and no acknowledgement
// is due. The caller holds rd and rx.
func (s *Session) receive(b *binding, p []byte) (int, error) {
	n, err := b.mover.Recv(p)
	if n > 0 {
		sys.StoreRelease(&s.got, s.got.Load()+uint64(n))
	}
	return n, err
}

// received acts on what receive returned, and reports whether the caller can have the bytes.
func (s *Session) received(b *binding, n int, err error) bool {
	switch {
	case n > 0 && s.got.Load() > s.finAt.Load(): // the end became known while we waited; read sees it, too
		return false
	case n > 0:
		s.acknowledge()
		return true
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		s.lost(b, err)
	}
	return false
}

func (s *Session) read(p []byte) (int, error) {
	for {
		s.mu.LockRx()
		if err := s.readErr(); err != nil {
			s.mu.Unlock()
			return 0, err
		}
		if s.finKnown && s.got.Load() > s.fin && s.err == nil && !s.ended {
			s.mu.Unlock()
			s.fail(ErrProtocol, "the peer sends beyond the end of its stream")
			continue
		}
		if len(p) == 0 {
			s.mu.Unlock()
			return 0, nil
		}
		if s.pend.Len() > 0 {
			n := s.pend.Read(p)
			more := s.limit()-s.limitTold >= uint64(s.cfg.RecvBuffer)/4
			s.mu.Unlock()
			if more {
				s.say(0) // the peer may wait for the window
			}
			return n, nil
		}
		b, rdl := s.cur, s.rdl
		if b == nil || !b.rxBare || !s.rx.tryLock() {
			s.mu.Unlock()
			wait(s.canRx, rdl)
			continue
		}
		q := p
		if s.finKnown {
			q = p[:min(uint64(len(p)), s.fin-s.got.Load())]
		}
		b.setRecvDeadline(rdl)
		if !s.finKnown {
			s.mu.rx.Store(b)
		}
		s.mu.Unlock()
		n, err := s.receive(b, q)
		s.rx.unlock()
		if s.received(b, n, err) {
			return n, nil
		}
	}
}

// pull reads the rest of a finished stream into pend, so that the peer's Close needn't wait for our application: at most
// RecvBuffer bytes ahead of it.
func (s *Session) pull() {
	scratch := s.pool.Get(true)
	defer s.pool.Put(scratch)
	for {
		s.rx.lock()
		s.mu.Lock()
		b := s.cur
		left := s.fin - s.got.Load()
		if b == nil || !b.rxBare || left == 0 || s.closed || s.err != nil || s.pend.Len() >= s.cfg.RecvBuffer {
			s.pulling = false
			s.canRx.raise()
			s.mu.Unlock()
			s.rx.unlock()
			return
		}
		b.setRecvDeadline(time.Time{})
		s.mu.Unlock()
		n, err := b.mover.Recv(scratch.Buf[:min(left, uint64(len(scratch.Buf)))])
		if n > 0 {
			s.keep(scratch.Buf[:n])
		}
		s.rx.unlock()
		if n > 0 {
			s.acknowledge()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.lost(b, err)
		}
	}
}

// startPull starts pull if the rest of a finished stream may lie in a bare link. Under mu.
func (s *Session) startPull() {
	if s.pulling || !s.finKnown || s.cur == nil || !s.cur.rxBare || s.got.Load() >= s.fin || s.closed {
		return
	}
	s.pulling = true
	go s.pull()
}

// limit is the stream offset up to which the peer may send in record mode. Under mu.
func (s *Session) limit() uint64 {
	read := s.got.Load() - uint64(s.pend.Len())
	return max(read+uint64(s.window()), s.limitTold)
}

// window is how much may have arrived and not been read.
func (s *Session) window() int {
	if s.pool.full() {
		return minShare
	}
	return s.cfg.RecvBuffer
}

// showEvery is how many bytes arrive before the shared page is written again. The peer looks there when it keeps as much; a
// smaller rest it asks for, see onProbe.
const showEvery = blocks.Small

// ackDue reports whether acknowledge has something to do.
func (s *Session) ackDue() bool {
	got := s.got.Load()
	if s.slot.Load() != nil {
		return got-s.shown.Load() >= showEvery
	}
	return !s.lateAck.Load() || got-s.told.Load() >= uint64(s.cfg.AckEvery)
}

// acknowledge sees to it that the peer learns what has arrived: now if it is much, else together with other news.
func (s *Session) acknowledge() {
	got := s.got.Load()
	if sl := s.slot.Load(); sl != nil {
		if got-s.shown.Load() < showEvery {
			return
		}
		s.shown.Store(got)
		if sl.Publish(got) && s.told.Load() < got {
			s.say(0) // the peer sleeps until it hears of it
		}
		return
	}
	if got-s.told.Load() >= uint64(s.cfg.AckEvery) {
		s.say(0)
		return
	}
	if s.lateAck.Load() || !s.lateAck.CompareAndSwap(false, true) {
		return
	}
	s.mu.Peek()
	defer s.mu.Unlock()
	switch {
	case s.ended:
	case s.ch != nil:
		s.ch.PostLater(s)
	case s.late == nil:
		s.late = time.AfterFunc(s.cfg.AckDelay, s.Flush)
	default:
		s.late.Reset(s.cfg.AckDelay)
	}
}

// Flush sends a delayed acknowledgement. The control channel calls it for many sessions together.
func (s *Session) Flush() {
	s.lateAck.Store(false)
	s.mu.Lock()
	news := s.got.Load() != s.told.Load() && !s.ended
	s.mu.Unlock()
	if news {
		s.say(0)
	}
}
