package session

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// SetLinger sets how long Close waits for the peer's session to have everything, in seconds, as net.TCPConn does: 0 resets
// the connection and throws away what is unacknowledged, a negative value restores the configured time.
func (s *Session) SetLinger(sec int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case sec == 0:
		s.linger = -1
	case sec < 0:
		s.linger = s.cfg.Linger
	default:
		s.linger = time.Duration(sec) * time.Second
	}
}

// Close ends the connection: it tells the peer where the stream ends and that nothing will be read any more, and waits,
// for the linger time at most, until the peer's session has every byte. If it can't have them it returns an *EndError with
// ErrUndelivered or the reason of the connection's end: bytes are never dropped silently. Blocked Reads and Writes return
// net.ErrClosed. A second Close returns net.ErrClosed.
func (s *Session) Close() error {
	s.mu.Lock()
	linger := s.linger
	if s.closed || s.exported {
		err := s.closedErr()
		abort := s.closed && !s.ended && linger < 0
		s.mu.Unlock()
		if abort { // SetLinger(0) while another Close lingers: it is cut short
			s.fail(net.ErrClosed, "reset by SetLinger(0)")
			err = nil
		}
		return err
	}
	s.closed = true
	s.kickReader()
	s.canTx.raise()
	if b := s.cur; b != nil && b.appSending {
		b.setSendDeadline(past)
	}
	if linger < 0 {
		s.pend.Clear()
	}
	s.mu.Unlock()

	if linger < 0 {
		s.fail(net.ErrClosed, "reset by SetLinger(0)")
		return nil
	}
	s.wr.lock() // a Write in progress has left
	s.mu.Lock()
	s.finSent = true
	s.pend.Clear()
	if !s.ended {
		s.closeTimer = time.AfterFunc(linger, s.lingered)
	}
	s.mu.Unlock()
	s.wr.unlock()
	s.say(wire.StateReply)
	s.armProbe()
	s.kickPump()
	return s.awaitDelivery(linger)
}

// lingered ends a closed connection whose peer hasn't had the last word in time.
func (s *Session) lingered() {
	s.mu.Lock()
	lost := s.acked.Load() < s.sent.Load() && !s.peerClose
	s.mu.Unlock()
	if lost {
		s.fail(ErrUndelivered, "the linger time is over")
		return
	}
	s.end(nil)
}

// Over reports whether the connection has ended.
func (s *Session) Over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// finWait is how long Close waits at most for the peer to learn of the end if it has every byte.
const finWait = time.Second

// awaitDelivery waits until the peer's session has every byte.
func (s *Session) awaitDelivery(linger time.Duration) error {
	start := time.Now()
	var timeout <-chan time.Time
	for {
		s.mu.Lock()
		left := s.sent.Load() - s.acked.Load()
		err := s.err
		var outage time.Duration
		if !s.downSince.IsZero() {
			outage = time.Since(s.downSince)
		}
		switch {
		case left == 0 && (s.finSeen || s.peerClose || s.ended || err != nil || time.Since(start) >= min(finWait, linger)):
			// Without a path for longer the rest goes on in the background: the peer has every byte, and will learn that it was
			// the last.
			over := s.finished()
			s.mu.Unlock()
			if over {
				s.finish()
			}
			return nil
		case err != nil:
			s.mu.Unlock()
			var e *EndError
			if errors.As(err, &e) {
				return &EndError{GID: s.id, Reason: e.Reason, Detail: e.Detail, Unacked: left, Outage: e.Outage}
			}
			return err
		case s.peerClose:
			s.mu.Unlock()
			return &EndError{GID: s.id, Reason: ErrReset, Detail: "the peer closed without reading everything", Unacked: left}
		case s.ended:
			s.mu.Unlock()
			return &EndError{GID: s.id, Reason: ErrUndelivered, Detail: fmt.Sprintf("lingered %v", linger), Unacked: left, Outage: outage}
		}
		ch := s.changes()
		s.mu.Unlock()
		if timeout == nil {
			t := time.NewTimer(linger)
			defer t.Stop()
			timeout = t.C
		}
		fin := time.NewTimer(min(finWait, linger))
		select {
		case <-ch:
		case <-s.done:
		case <-fin.C:
		case <-timeout:
			fin.Stop()
			if left == 0 {
				continue
			}
			e := &EndError{GID: s.id, Reason: ErrUndelivered, Detail: fmt.Sprintf("lingered %v", linger), Unacked: left, Outage: outage}
			s.fail(ErrUndelivered, e.Detail)
			return e
		}
		fin.Stop()
	}
}

// finished reports whether both ends know all there is to know. Under mu.
func (s *Session) finished() bool { return s.closed && s.satisfied() && s.peerDone }

// satisfied reports whether this end's stream is complete: the peer has everything, or will never want it, and knows the end.
// Under mu.
func (s *Session) satisfied() bool {
	return s.finSent && s.finSeen && (s.acked.Load() == s.sent.Load() || s.peerClose)
}

// finish ends a connection that both ends are done with. A last word that is due goes out first if it travels in the link: else the peer,
// if it can't dial, would wait out its linger time for it.
func (s *Session) finish() {
	s.mu.Lock()
	b := s.cur
	due := b != nil && s.inBand() && s.ctlDue.Load()
	if due {
		s.parting = true
		b.setSendDeadline(time.Now().Add(s.cfg.parting)) // whoever is sending leaves by then
	}
	s.mu.Unlock()
	if due {
		s.tx.lock()
		s.mu.Lock()
		due = s.cur == b && s.inBand()
		s.mu.Unlock()
		for due && (s.ctlDue.Load() || len(b.rest) > 0) && s.sendSome(b) == nil {
		}
		s.tx.unlock()
	}
	s.end(nil)
}

// Abort ends the connection at once, with a reset for the peer.
func (s *Session) Abort(reason error, detail string) { s.fail(reason, detail) }

// fail gives the connection its definite end.
func (s *Session) fail(reason error, detail string) {
	s.mu.Lock()
	if s.ended || s.err != nil || s.exported {
		s.mu.Unlock()
		return
	}
	e := &EndError{GID: s.id, Reason: reason, Detail: detail, Unacked: s.sent.Load() - min(s.sent.Load(), s.acked.Load())}
	if !s.downSince.IsZero() {
		e.Outage = time.Since(s.downSince)
	}
	s.err = e
	s.events.add("ended: %v", e)
	s.log.Warn("connection ended", "gid", s.id, "err", e)
	tell := !errors.Is(reason, ErrReset) && !errors.Is(reason, ErrFenced) && !errors.Is(reason, ErrPeerGone)
	b := s.cur
	if tell && s.ch != nil {
		s.ch.Post(&wire.Record{Type: wire.TypeReset, GID: s.id, Code: wire.StatusClosed})
		tell, b = s.cur == nil, nil // without a link the channel is hardly better off
	}
	s.mu.Unlock()
	if tell && b != nil && s.resetInBand(b) {
		// Closing a TCP socket with unread bytes would overtake the record and destroy it: the frame reader goes on until the
		// peer, which has read the record, hangs up.
		t := time.NewTimer(s.cfg.parting)
		select {
		case <-b.framesDone:
			tell = false
		case <-t.C:
		}
		t.Stop()
	}
	s.mu.Lock()
	s.untold = tell
	s.mu.Unlock()
	s.end(e)
}

// Untold reports whether the connection has ended here and its peer, to which there was no path, may not know.
func (s *Session) Untold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.untold
}

// PartingSetup is the Setup of a link that shall only carry the news of the end to the peer; see Part.
func (s *Session) PartingSetup() wire.Setup {
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linkNo = max(s.linkNo, s.dialNo) + 1
	return s.setup(s.linkNo)
}

// Part tells the peer of the end on a fresh link, and closes that.
func (s *Session) Part(nl NewLink) {
	defer nl.Link.Close()
	nl.Link.SetSendDeadline(time.Now().Add(s.cfg.parting))
	r := wire.Record{Type: wire.TypeReset, GID: s.id, Code: wire.StatusClosed}
	buf := s.sealFrame(&binding{seal: nl.Seal}, r.Append(make([]byte, wire.FrameHeader, ctlRoom)), 0, wire.FrameCtrl)
	if _, err := nl.Link.Send(substrate.Unkept, [][]byte{buf}); err != nil {
		return
	}
	nl.Link.SetRecvDeadline(time.Now().Add(s.cfg.parting))
	p := make([]byte, ctlRoom)
	for { // until the peer, which has read the record, hangs up
		if _, err := nl.Link.Recv(p); err != nil {
			return
		}
	}
}

// resetInBand tells the peer on a link in record mode, if the link takes the record in time.
func (s *Session) resetInBand(b *binding) bool {
	s.mu.Lock()
	b.setSendDeadline(time.Now().Add(s.cfg.parting)) // whoever is sending leaves by then
	s.mu.Unlock()
	s.tx.lock()
	defer s.tx.unlock()
	s.mu.Lock()
	ok := s.cur == b && !b.txBare
	s.mu.Unlock()
	if !ok {
		return false
	}
	r := wire.Record{Type: wire.TypeReset, GID: s.id, Code: wire.StatusClosed}
	buf := s.sealFrame(b, r.Append(make([]byte, wire.FrameHeader, ctlRoom)), 0, wire.FrameCtrl)
	_, err := b.link.Send(substrate.Unkept, [][]byte{b.rest, buf})
	return err == nil
}

// Forget drops the link of a session that has ended, if it still answers its peer over one.
func (s *Session) Forget() {
	s.mu.Lock()
	if s.ended && s.cur != nil {
		s.dropLink()
	}
	s.mu.Unlock()
}

// dropLink closes the current link quietly. Under mu.
func (s *Session) dropLink() {
	b := s.cur
	s.cur, s.old = nil, b
	b.link.Interrupt()
	go s.settle()
}

// end releases what the connection holds. The session still answers records, so that the peer can finish too.
func (s *Session) end(error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	if s.cur != nil {
		s.dropLink()
	}
	for _, t := range []*time.Timer{s.probe, s.patience, s.late, s.closeTimer} {
		if t != nil {
			t.Stop()
		}
	}
	s.slot.Store(nil)
	s.cancel()
	close(s.done)
	s.changed()
	s.canRx.raise()
	s.canTx.raise()
	s.bmu.Lock()
	s.over = true
	if s.old == nil { // else settle does it: a link may still be sending from there
		s.unack.Clear()
	}
	s.bmu.Unlock()
	if s.closed {
		s.pend.Clear()
	}
	s.mu.Unlock()
	s.env.Ended(s)
}

// Closing reports whether the application has closed the connection and the two ends are not done with it yet.
func (s *Session) Closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed && !s.ended && s.err == nil
}
