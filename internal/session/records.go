package session

import (
	"fmt"
	"time"

	"github.com/sockemu/sockemu/wire"
)

// say sends the peer a State record: over the control channel if there is one, else in-band. Without either it is dropped:
// whatever path comes next begins with one.
func (s *Session) say(flags uint8) {
	s.mu.Lock()
	if s.exported {
		s.mu.Unlock()
		return
	}
	if s.ch != nil {
		r := s.state(flags)
		s.ch.Post(&r)
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
	s.limitTold = s.limit()
	r := wire.Record{Type: wire.TypeState, Flags: flags, GID: s.id, LinkNo: s.linkNo, Ack: got, Limit: s.limitTold, Sent: s.sent.Load()}
	if s.cur != nil {
		r.LinkNo = s.cur.no
		if s.pend.n == 0 && (s.reading.Load() || s.pulling || !s.cur.rxBare) {
			r.Flags |= wire.StateStarved
		}
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
	return r
}

// OnChannelRecord acts on a record that came over ch. It is ignored unless ch is the channel in use: a process that held the
// other end before has nothing to say any more.
func (s *Session) OnChannelRecord(ch Channel, r *wire.Record) {
	s.mu.Lock()
	ok := s.ch == ch
	s.mu.Unlock()
	if ok {
		s.OnRecord(r)
	}
}

// OnRecord acts on a record about this connection. It must have come from the peer: over the channel in use or in-band.
func (s *Session) OnRecord(r *wire.Record) {
	switch r.Type {
	case wire.TypeState:
		s.onState(r)
	case wire.TypeReset:
		if r.Code == wire.StatusStale {
			s.fail(ErrFenced, "")
		} else {
			s.fail(ErrReset, "the peer says: "+r.Code.String())
		}
	}
}

func (s *Session) onState(r *wire.Record) {
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
	window := r.Limit > s.peerLimit
	if window {
		s.peerLimit = r.Limit
	}
	var dead *binding
	if b := s.cur; b != nil && r.LinkNo == b.no {
		if r.Flags&wire.StateLinkDown != 0 {
			dead = b
		} else if s.starves(r) {
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
	over := s.finished()
	s.mu.Unlock()

	if newFin || r.Flags&wire.StateReply != 0 {
		s.say(0)
	}
	if dead != nil {
		s.lost(dead, fmt.Errorf("the peer does not receive on link %d", dead.no))
	}
	if window {
		s.kickPump()
	}
	if over {
		s.end(nil)
	} else {
		s.armProbe()
	}
}

// kickReader makes a reader that waits on the link look at the state again. Under mu.
func (s *Session) kickReader() {
	s.canRx.raise()
	if b := s.cur; b != nil && b.rxBare && s.reading.Load() {
		b.setRecvDeadline(past)
	}
}

// starves judges an answer to a probe: the peer's reader waits on the very link on which we have sent more than it has, and
// that for DeadAfter without any progress. A reader that doesn't read is no such case, however full the window. Under mu.
func (s *Session) starves(r *wire.Record) bool {
	if r.Flags&wire.StateStarved == 0 || r.Ack >= s.sent.Load() {
		s.stuck = time.Time{}
		return false
	}
	if s.stuck.IsZero() || r.Ack > s.stuckAt {
		s.stuck, s.stuckAt = time.Now(), r.Ack
		return false
	}
	return time.Since(s.stuck) >= s.cfg.DeadAfter
}

// armProbe starts the probe timer if something is unacknowledged and it isn't running.
func (s *Session) armProbe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.err != nil || s.exported || !s.outstanding() || s.probing.Load() {
		return
	}
	s.probing.Store(true)
	s.probeAck = s.acked.Load()
	if s.probe == nil {
		s.probe = time.AfterFunc(s.cfg.ProbeEvery, s.onProbe)
	} else {
		s.probe.Reset(s.cfg.ProbeEvery)
	}
}

// outstanding reports whether the peer still has to tell us something. Under mu.
func (s *Session) outstanding() bool {
	return s.acked.Load() < s.sent.Load() && !s.peerClose || s.finSent && !s.finSeen
}

func (s *Session) onProbe() {
	s.mu.Lock()
	s.probing.Store(false)
	ask := !s.ended && s.err == nil && s.outstanding() && s.cur != nil
	progress := s.acked.Load() > s.probeAck
	b := s.cur
	silent := false
	if ask && b != nil && s.ch == nil && !b.txBare {
		// In record mode the peer's session always receives: silence means that the link is dead.
		if progress || s.probeLink != b {
			s.probeLink, s.silentSince = b, time.Now()
		}
		silent = s.heard.Load() < s.silentSince.UnixNano() && time.Since(s.silentSince) >= s.cfg.DeadAfter
	}
	s.mu.Unlock()
	if silent {
		s.lost(b, fmt.Errorf("nothing heard on link %d for %v", b.no, s.cfg.DeadAfter))
		return
	}
	if ask && !progress {
		s.say(wire.StateReply)
	}
	s.armProbe()
}
