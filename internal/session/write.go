package session

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// minShare is what a connection may always keep for replay, whatever the process's budget says: back-pressure must never
// become a dead-lock.
const minShare = 64 << 10

// sendPiece bounds one Send from the send buffer, so that a pump never keeps the link for long.
const sendPiece = 256 << 10

// Corking: small writes that follow each other without a Read in between are gathered in the send buffer, and the pump sends
// what has come together while its last system call ran. The first writes of a burst, and those of a dialogue, go at once. A
// link that keeps what it took, in memory, has no system calls to save, unless it says so (substrate.Gatherer).
const (
	corkMost  = 64 << 10              // longer writes go straight from the caller's slice
	corkAfter = 8                     // writes without a Read before it begins
	corkGap   = 50 * time.Microsecond // a longer pause ends it
	corkAhead = 256 << 10             // bytes gathered at most: they should stay in the cache

	// A link that retransmits from the send buffer joins what it is given by itself. Only very small writes are gathered before that. Nothing
	// gets further ahead of it than corkAhead: then what it sends is still in the cache.
	corkRetained = 16 << 10
)

// Write sends p, or keeps what it can't send now. It blocks while the send buffer is full: that is back-pressure and never
// taken for a dead peer. It returns os.ErrDeadlineExceeded, net.ErrClosed, ErrWriteClosed, ErrPeerClosed or an *EndError.
func (s *Session) Write(p []byte) (int, error) {
	if s.mu.tx.Load() == nil || !s.out.tryBoth() {
		s.wr.lock()
		s.sizes.Add(len(p))
		return s.writeOn(p, 0, len(p) <= s.corkLen() && s.bursting())
	}
	s.sizes.Add(len(p))
	n, cork := 0, len(p) <= s.corkLen() && s.bursting()
	var err error
	b := s.mu.tx.Load() // once more: from now on nobody else uses the link
	if b != nil && !cork && len(p) > 0 && len(p) <= s.room() {
		n, err = s.sendDirect(b, p)
		if n == len(p) && err == nil && !s.timed() {
			s.out.unlockBoth(&s.wr, &s.tx)
			return n, nil
		}
	}
	s.tx.unlock()
	if err != nil {
		s.sendFailed(b, err)
	}
	return s.writeOn(p, n, cork)
}

// writeOn ends a Write of which n bytes are written. The caller holds wr, which it gives back.
func (s *Session) writeOn(p []byte, n int, cork bool) (int, error) {
	var err error
	if n == 0 || n < len(p) {
		var m int
		m, err = s.write(p[n:], cork)
		n += m
	}
	if s.timed() {
		s.wroteAt = time.Since(epoch) // the pause begins now: such a link may take longer for a small Send than a pause may last
	}
	s.wr.unlock()
	return n, err
}

// timed: see corkGap. The caller holds wr.
func (s *Session) timed() bool { return s.streak == corkAfter && s.kept.Load() != nil }

// write is Write when the state must be looked at, or more than one Send is needed. The caller holds wr.
func (s *Session) write(p []byte, cork bool) (int, error) {
	done := 0
	for {
		s.mu.LockTx()
		err := s.writeErr()
		if err != nil || done == len(p) {
			s.mu.Unlock()
			return done, err
		}
		room := s.room()
		b := s.cur
		direct := false
		if b != nil && b.retains && len(p) >= corkRetained {
			cork = false
		}
		if room > 0 && b != nil && b.txBare {
			direct = !cork && (!b.retains || b.borrows(len(p)-done)) && s.tryDirect(b)
			if !direct && (cork || b.retains) {
				room = min(room, corkAhead-min(corkAhead, int(s.sent.Load()-s.next.Load())))
			}
		}
		wdl := s.wdl
		s.mu.Unlock()
		switch {
		case room == 0:
			s.awaitRoom(wdl)
			continue
		case direct:
			send := s.sendDirect
			if b.retains {
				send = s.sendBorrowed
			}
			n, err := send(b, p[done:min(len(p), done+room)])
			s.tx.unlock()
			done += n
			if err != nil {
				s.sendFailed(b, err)
			}
		default:
			n := min(len(p)-done, room, sendPiece)
			s.bmu.Lock()
			if s.over {
				s.bmu.Unlock()
				continue // writeErr knows why
			}
			end := s.sent.Load()
			s.unack.Append(end, p[done:done+n])
			s.sent.Store(end + uint64(n))
			s.bmu.Unlock()
			done += n
			if b == nil || !b.retains || cork || !s.sendInline(b) {
				s.kickPump()
			}
		}
		if done == len(p) {
			return done, nil
		}
	}
}

// tryDirect takes tx for a Write that goes to the link without a copy: if nobody is sending and nothing waits to be sent. Under mu.
func (s *Session) tryDirect(b *binding) bool {
	if !s.tx.tryLock() {
		return false
	}
	if s.next.Load() < s.sent.Load() || len(b.rest) > 0 {
		s.tx.unlock()
		return false
	}
	b.appSending = true
	b.setSendDeadline(s.wdl)
	if !b.retains {
		s.mu.tx.Store(b)
	}
	return true
}

// corkLen is the length up to which writes are gathered.
func (s *Session) corkLen() int {
	if k := s.kept.Load(); k != nil {
		return k.gather
	}
	return corkMost
}

// sendInline does the pump's work for a link that sends from the send buffer, without a goroutine, if nobody is at it. It
// reports whether nothing is left to do.
func (s *Session) sendInline(b *binding) bool {
	if !s.tx.tryLock() {
		return false
	}
	s.mu.LockTx()
	if s.cur != b || !b.txBare || s.err != nil {
		s.mu.Unlock()
		s.tx.unlock()
		return false
	}
	b.appSending = true
	b.setSendDeadline(s.wdl)
	s.mu.Unlock()
	err := s.sendSome(b)
	done := err == nil && s.next.Load() == s.sent.Load()
	s.tx.unlock()
	if err != nil {
		s.sendFailed(b, err)
	}
	return done
}

// sendFailed acts on an error of Send. The caller holds no lane but wr.
func (s *Session) sendFailed(b *binding, err error) {
	if lied, ok := err.(*liedError); ok {
		s.fail(ErrProtocol, lied.Error())
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		s.lost(b, err)
	}
}

// epoch is where heard, saidAt and wroteAt count from: by the monotonic clock alone, which doesn't jump; and time.Now reads two.
var epoch = time.Now()

// bursting reports whether this Write is one of many in quick succession. The caller holds wr.
func (s *Session) bursting() bool {
	if got := s.got.Load(); got != s.gotThen { // the application has read: a dialogue
		s.gotThen, s.streak = got, 0
		return false
	}
	if s.streak < corkAfter {
		if s.streak++; s.streak == corkAfter {
			s.wroteAt = time.Since(epoch)
		}
		return false
	}
	now := time.Since(epoch)
	gap := now - s.wroteAt
	s.wroteAt = now
	if gap > corkGap {
		s.streak = 0
		return false
	}
	return true
}

// pollAck takes over what the peer has published on the shared page, or taken from a link that keeps what it hasn't.
func (s *Session) pollAck() {
	if k := s.kept.Load(); k != nil {
		if ack := k.acked(); ack > s.acked.Load() && ack <= s.hi.Load() {
			s.advance(ack)
		}
	}
	if sl := s.slot.Load(); sl != nil {
		if ack := sl.Acked(); ack > s.acked.Load() && ack <= s.hi.Load() {
			s.advance(ack)
		}
	}
}

// awaitRoom waits until the send buffer has room, at least for a quarter of itself, or the deadline.
func (s *Session) awaitRoom(deadline time.Time) {
	s.pollAck()
	if sl := s.slot.Load(); sl != nil && s.next.Load() == s.sent.Load() {
		acked := s.acked.Load()
		sl.Want(acked + (s.sent.Load()-acked)/4 + 1)
		defer sl.Want(0)
		if sl.Acked() > acked {
			return
		}
	}
	wait(s.canTx, deadline)
}

// room says how many bytes may be written now. Under mu, by the holder of wr.
func (s *Session) room() int {
	used := int(s.sent.Load() - s.acked.Load())
	if s.pool.full() {
		return max(0, minShare-used)
	}
	return max(0, s.cfg.SendBuffer-used)
}

// raiseHi records that the peer may come to hold everything before off.
func (s *Session) raiseHi(off uint64) {
	if s.hi.Load() < off {
		sys.StoreRelease(&s.hi, off)
	}
}

// sendDirect hands p, the next bytes of the stream, to a bare link without copying it first, and keeps afterwards what the
// peer has not acknowledged meanwhile. The caller holds tx.
func (s *Session) sendDirect(b *binding, p []byte) (int, error) {
	off := s.next.Load()
	s.raiseHi(off + uint64(len(p)))
	if !s.probing.Load() {
		s.armProbe() // before Send, which may block on a dead path
	}
	s.vec[0] = p
	n, err := b.mover.Send(off, s.vec[:])
	s.vec[0] = nil
	end := off + uint64(n)
	if b.keep.on || s.keeps(b) {
		sys.StoreRelease(&s.next, end)
		sys.StoreRelease(&s.sent, end)
		if n < len(p) {
			s.hi.Store(end)
		}
		return n, err
	}
	s.bmu.Lock()
	acked := s.acked.Load()
	if sl := s.slot.Load(); sl != nil && end-acked >= showEvery {
		if a := sl.Acked(); a > acked && a <= end {
			s.acked.Store(a)
			acked = a
		}
	}
	s.unack.Release(min(acked, end))
	if acked < end && !s.over {
		from := max(acked, off)
		s.unack.Append(from, p[from-off:n])
	}
	sys.StoreRelease(&s.next, end)
	sys.StoreRelease(&s.sent, end)
	if n < len(p) {
		s.hi.Store(end)
	}
	s.bmu.Unlock()
	if acked > end {
		err = &liedError{acked, end}
	}
	return n, err
}

// A liedError: the peer acknowledges what it can't have.
type liedError struct{ acked, end uint64 }

func (e *liedError) Error() string {
	return fmt.Sprintf("acknowledges byte %d, but the link took only %d", e.acked, e.end)
}

// kickPump makes sure that somebody sends what there is to send.
func (s *Session) kickPump() {
	s.mu.Peek()
	if !s.pumping && s.cur != nil {
		s.pumping = true
		go s.pumpFunc()
	}
	s.mu.Unlock()
}

// pump sends what is in the send buffer, and records in-band, until there is nothing to send or no link.
func (s *Session) pump() {
	s.tx.lock()
	for {
		s.mu.LockTx()
		b := s.cur
		if b == nil || s.err != nil || !s.work(b) || s.parting && expired(b.wdl) {
			s.pumping = false
			s.mu.Unlock()
			break
		}
		b.appSending = false
		if !s.parting {
			b.setSendDeadline(time.Time{})
		}
		s.mu.Unlock()
		if err := s.sendSome(b); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.tx.unlock()
			s.sendFailed(b, err)
			s.tx.lock()
		}
	}
	s.tx.unlock()
}

// work reports whether there is something to send on b. Under mu, by the holder of tx.
func (s *Session) work(b *binding) bool {
	if len(b.rest) > 0 {
		return true
	}
	backlog := s.sent.Load() > s.next.Load()
	if b.txBare {
		return backlog
	}
	return s.ctlDue.Load() || s.mayBare(b) || backlog && s.next.Load() < s.peerLimit
}

// mayBare reports whether b can leave record mode: records have another way. Under mu.
func (s *Session) mayBare(b *binding) bool { return !b.txBare && b.seal == nil && s.ch != nil }

// sendSome does a piece of the work. The caller holds tx.
func (s *Session) sendSome(b *binding) error {
	if len(b.rest) > 0 {
		s.vec[0] = b.rest
		n, err := b.mover.Send(substrate.Unkept, s.vec[:])
		s.vec[0] = nil
		if b.rest = b.rest[n:]; len(b.rest) == 0 && b.txBare {
			s.mark(b)
		}
		return err
	}
	if !b.txBare {
		return s.sendFrames(b)
	}
	next := s.next.Load()
	s.lend(next, sendPiece)
	if !s.probing.Load() {
		s.armProbe()
	}
	total := 0
	for _, v := range s.views {
		total += len(v)
	}
	s.raiseHi(next + uint64(total))
	n, err := b.mover.Send(next, s.views)
	end := next + uint64(n)
	s.next.Store(end)
	if acked := s.giveBack(b, end); acked > end {
		err = &liedError{acked, end}
	}
	if s.keeps(b) {
		s.bmu.Lock()
		s.unack.Release(end)
		s.bmu.Unlock()
	}
	s.pollAck()
	s.canTx.raise()
	return err
}

// advance notes that the peer's session has everything before ack.
func (s *Session) advance(ack uint64) {
	s.mu.Peek()
	for _, b := range [...]*binding{s.cur, s.old} {
		if b != nil && b.retains {
			b.link.Release(ack)
		}
	}
	s.mu.Unlock()
	s.bmu.Lock()
	if ack > s.acked.Load() && ack <= s.hi.Load() {
		s.acked.Store(ack)
		s.unack.Release(min(ack, s.lentFrom))
	}
	s.bmu.Unlock()
	s.canTx.raise()
}

// lend fills views with at most most bytes of the send buffer, from off on, for one Send. Until giveBack nothing of them is freed, even if the
// peer acknowledges it, which it may do before it can have it: the memory would be another connection's while the link reads it. The
// caller holds tx.
func (s *Session) lend(off uint64, most int) {
	s.bmu.Lock()
	s.views = s.unack.View(s.views[:0], off, most)
	s.lentFrom = off
	s.bmu.Unlock()
}

// giveBack ends lend: the link has taken everything before end. It frees what the peer has acknowledged meanwhile, and returns how far
// that is.
func (s *Session) giveBack(b *binding, end uint64) (acked uint64) {
	clear(s.views)
	s.views = s.views[:0]
	for told := s.lentFrom; ; told = acked {
		s.bmu.Lock()
		acked = s.acked.Load()
		if !b.retains || acked <= told {
			s.lentFrom = math.MaxUint64
			s.unack.Release(min(acked, end))
			s.hi.Store(min(s.hi.Load(), end))
			s.bmu.Unlock()
			return acked
		}
		s.bmu.Unlock()
		b.link.Release(acked) // what it was told during Send may have been about bytes that it hadn't taken yet
	}
}

// CloseWrite ends the stream to the peer after what has been written. The peer reads EOF after the last byte; this side can
// still read.
func (s *Session) CloseWrite() error {
	s.wr.lock()
	s.mu.Lock()
	err := s.writeErr()
	if err == ErrWriteClosed {
		err = nil // as net.TCPConn
	} else if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		s.finSent, err = true, nil
	}
	s.mu.Unlock()
	s.wr.unlock()
	if err == nil {
		s.say(wire.StateReply)
		s.armProbe()
	}
	return err
}
