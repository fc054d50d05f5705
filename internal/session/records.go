package session

import (
	"fmt"
	"time"

	"github.com/sockemu/sockemu/wire"
)

// say sends the peer a State record: over the control channel if there is one, else in-band. Without either it is dropped:
// whatever path comes next begins with one.
func (s *Session) say(flags uint8) { s.sayTo(nil, flags) }

// sayTo is say in answer to what came over asked. If that isn't the channel in use the answer goes there as well: the peer may have found that
// the other one is dead.
func (s *Session) sayTo(asked Channel, flags uint8) {
	s.mu.Lock()
	if s.exported {
		s.mu.Unlock()
		return
	}
	if s.ch != nil {
		s.rec = s.state(flags)
		s.ch.Post(&s.rec)
		if asked != nil && asked != s.ch {
			asked.Post(&s.rec)
		}
		s.mu.Unlock()
		return
	}
	if s.cur == nil || s.cur.txBare {
		s.mu.Unlock()
		return
	}
	s.ctlFlags |= flags
	s.ctlDue.Store(true)
	s.mu.Unlock()
	s.kickPump()
}

// state says where this end stands. Under mu.
func (s *Session) state(flags uint8) wire.Record {
	got := s.got.Load()
	s.told.Store(got)
	s.saidAt.Store(int64(time.Since(epoch)))
	s.limitTold = s.limit()
	r := wire.Record{Type: wire.TypeState, Flags: flags, GID: s.id, LinkNo: s.lostNo, Ack: got, Limit: s.limitTold, Sent: s.sent.Load()}
	if s.cur != nil {
		r.LinkNo = s.cur.no
		if s.pend.Len() == 0 && (s.rx.held() || s.pulling || !s.cur.rxBare) {
			r.Flags |= wire.StateStarved
		}
	} else {
		r.Flags |= wire.StateLinkDown
	}
	if s.finSent {
		r.Flags |= wire.StateFin
	}
	if s.finKnown {
		r.Flags |= wire.StateFinSeen
	}
	if s.closed {
		r.Flags |= wire.StateClosed
	}
	if s.satisfied() {
		r.Flags |= wire.StateDone
	}
	return r
}

// OnChannelRecord acts on a record that came over ch, on which the peer has proved that it holds the connection's secret. It is
// ignored unless ch leads to the present holder of the other end: an earlier one has nothing to say any more.
func (s *Session) OnChannelRecord(ch Channel, r *wire.Record) {
	s.mu.Lock()
	ok := s.peer == ch.Proc()
	s.mu.Unlock()
	if ok {
		s.onRecord(ch, r)
	}
}

// OnRecord acts on a record about this connection. It must have come from the peer: see OnChannelRecord, or in-band.
func (s *Session) OnRecord(r *wire.Record) { s.onRecord(nil, r) }

func (s *Session) onRecord(ch Channel, r *wire.Record) {
	switch r.Type {
	case wire.TypeState:
		s.onState(ch, r)
	case wire.TypeReset:
		if r.Code == wire.StatusStale {
			s.fail(ErrFenced, "")
		} else {
			s.fail(ErrReset, "the peer says: "+r.Code.String())
		}
	}
}

func (s *Session) onState(ch Channel, r *wire.Record) {
	if r.Ack > s.hi.Load() {
		s.fail(ErrProtocol, fmt.Sprintf("acknowledges byte %d, but only %d were sent", r.Ack, s.hi.Load()))
		return
	}
	s.advance(r.Ack)

	s.mu.Lock()
	got := s.got.Load()
	bad, newFin := "", false
	switch fin := r.Flags&wire.StateFin != 0; {
	case fin && s.finKnown && r.Sent != s.fin:
		bad = fmt.Sprintf("moves the end of its stream from %d to %d", s.fin, r.Sent)
	case fin && r.Sent < got:
		bad = fmt.Sprintf("ends its stream at %d, but %d bytes have arrived", r.Sent, got)
	case fin && !s.finKnown:
		s.finKnown, s.fin, newFin = true, r.Sent, true
		s.finAt.Store(r.Sent)
		s.events.add("peer ends its stream at %d", r.Sent)
	}
	if bad != "" {
		s.mu.Unlock()
		s.fail(ErrProtocol, bad)
		return
	}
	if r.Flags&wire.StateClosed != 0 && !s.peerClose {
		s.peerClose = true
		s.canTx.raise()
		if b := s.cur; b != nil && b.appSending {
			b.setSendDeadline(past)
		}
	}
	if r.Flags&wire.StateFinSeen != 0 && s.finSent {
		s.finSeen = true
	}
	window := r.Limit > s.peerLimit && s.cur != nil && !s.cur.txBare
	s.peerLimit = max(s.peerLimit, r.Limit)
	var dead *binding
	if b := s.cur; b != nil {
		if r.Flags&wire.StateLinkDown != 0 && b.no <= r.LinkNo || r.LinkNo == b.no && s.starves(r) {
			dead = b
		}
	}
	if s.finKnown {
		if s.got.Load() == s.fin {
			s.kickReader()
		} else {
			s.startPull()
		}
	}
	s.changed()
	s.watchPath()
	if r.Flags&wire.StateDone != 0 {
		s.peerDone = true
	}
	over := s.finished()
	done := s.satisfied() && !s.saidDone
	s.saidDone = s.saidDone || done
	s.mu.Unlock()

	if newFin || done || r.Flags&wire.StateReply != 0 {
		s.sayTo(ch, 0)
	}
	if dead != nil {
		s.lost(dead, fmt.Errorf("the peer does not receive on link %d", dead.no))
	}
	if window {
		s.kickPump()
	}
	if over {
		s.finish()
	} else {
		s.armProbe()
	}
}

// kickReader makes a reader that waits on the link look at the state again. Under mu.
func (s *Session) kickReader() {
	s.canRx.raise()
	if b := s.cur; b != nil && b.rxBare && s.rx.held() {
		b.setRecvDeadline(past)
	}
}

// starves judges an answer to a probe: the peer's reader waits on the very link on which we have sent more than it has, and
// that for DeadAfter without any progress. A reader that doesn't read is no such case, however full the window. Under mu.
func (s *Session) starves(r *wire.Record) bool {
	if r.Flags&wire.StateStarved == 0 || r.Ack >= s.hi.Load() {
		s.stuck = time.Time{}
		return false
	}
	if s.stuck.IsZero() || r.Ack > s.stuckAt {
		s.stuck, s.stuckAt = time.Now(), r.Ack
		return false
	}
	return time.Since(s.stuck) >= s.cfg.DeadAfter
}

// armProbe starts the probe timer if there is something to watch and it isn't running.
func (s *Session) armProbe() {
	s.mu.Peek()
	defer s.mu.Unlock()
	if s.ended || s.err != nil || s.exported || s.probing.Load() {
		return
	}
	every := s.cfg.ProbeEvery
	switch {
	case s.outstanding() || !s.askedAt.IsZero():
		s.probing.Store(true)
	case s.inBand() && !s.keeping:
		every = s.cfg.KeepAlive
		s.keeping = true // the timer may be set anew when something is outstanding
	default:
		return
	}
	s.probeAck = s.acked.Load()
	if s.probe == nil {
		s.probe = time.AfterFunc(every, s.onProbe)
	} else {
		s.probe.Reset(every)
	}
}

// outstanding reports whether the peer still has to tell us something. Under mu.
func (s *Session) outstanding() bool {
	switch {
	case s.acked.Load() < max(s.hi.Load(), s.sent.Load()) && !s.peerClose, s.finSent && !s.finSeen:
		return true
	case s.peerDone:
		return false
	}
	return s.closed || s.finKnown && s.got.Load() == s.fin
}

// inBand reports whether records travel in the link, so that the link itself must be kept alive. Under mu.
func (s *Session) inBand() bool { return s.cur != nil && s.ch == nil && !s.cur.txBare }

// onProbe asks the peer where it stands if there has been no progress, and gives up a link in record mode on which no
// answer came: there the peer's session always receives, so silence means that the link is dead. On a bare link it proves
// nothing; see starves.
func (s *Session) onProbe() {
	s.pollAck()
	s.mu.Lock()
	s.probing.Store(false)
	s.keeping = false
	b := s.cur
	if s.ended || s.err != nil || b == nil {
		s.askedAt = time.Time{}
		s.mu.Unlock()
		return // Bind arms it again
	}
	now := time.Now()
	heard := epoch.Add(time.Duration(s.heard.Load()))
	if !s.inBand() || s.askedOn != b || !heard.Before(s.askedAt) {
		s.askedAt = time.Time{}
	}
	dead := !s.askedAt.IsZero() && now.Sub(s.askedAt) >= s.cfg.DeadAfter
	every := s.cfg.KeepAlive
	if s.outstanding() {
		every = s.cfg.ProbeEvery
	}
	ask := s.outstanding() && s.acked.Load() == s.probeAck || s.inBand() && now.Sub(heard) >= every
	if ask && s.inBand() && s.askedAt.IsZero() {
		s.askedAt, s.askedOn = now, b
	}
	s.pend.Trim()
	quiet := !s.outstanding()
	s.mu.Unlock()
	if quiet {
		s.bmu.Lock()
		s.unack.Trim()
		s.bmu.Unlock()
	}
	if dead {
		s.lost(b, fmt.Errorf("nothing heard on link %d for %v", b.no, s.cfg.DeadAfter))
		return
	}
	if ask {
		s.say(wire.StateReply)
	}
	s.armProbe()
}
