package session

import (
	"github.com/sockemu/sockemu/internal/samehost"
)

// Attach joins the session to the control channel of its peer's process: the peer has proved there that it holds the other
// end. Detach undoes it if ch is still the one.
func (s *Session) Attach(ch Channel) {
	s.mu.Lock()
	if s.err != nil || s.exported {
		s.mu.Unlock()
		return
	}
	s.setChannel(ch)
	s.mu.Unlock()
	s.say(0)
	s.kickPump() // the link may leave record mode now
	s.armProbe()
}

// Detach: see Attach.
func (s *Session) Detach(ch Channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == ch {
		s.setChannel(nil)
		s.slot.Store(nil)
	}
}

// Share gives the session its place on the page that it shares with the peer's process: acknowledgements go there, instead of
// in records, as long as ch is in use.
func (s *Session) Share(ch Channel, sl *samehost.Slot) {
	s.mu.Lock()
	if s.ch == ch && !s.ended {
		sl.Publish(s.got.Load())
		s.slot.Store(sl)
		s.canTx.raise() // a Write that waits has to ask there from now on
	}
	s.mu.Unlock()
}

// Attached reports whether a control channel to the peer is in use.
func (s *Session) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch != nil
}

// Channel returns the control channel in use, nil if there is none.
func (s *Session) Channel() Channel {
	s.mu.Peek()
	defer s.mu.Unlock()
	return s.ch
}

// Uses reports whether ch is the control channel in use.
func (s *Session) Uses(ch Channel) bool {
	s.mu.Peek()
	defer s.mu.Unlock()
	return s.ch == ch
}

func (s *Session) setChannel(ch Channel) {
	if s.ch != ch {
		s.ch = ch
		s.slot.Store(nil)      // its page belongs to the channel
		s.lateAck.Store(false) // and a channel that is lost flushes nobody any more
		s.watchPath()
	}
}

// GiveUpBare drops a link in bare mode that has had no control channel for too long: the next link stays in record mode
// and carries its own control.
func (s *Session) GiveUpBare(reason error) {
	s.mu.Lock()
	b := s.cur
	give := b != nil && s.ch == nil && (b.txBare || b.rxBare)
	s.mu.Unlock()
	if give {
		s.lost(b, reason)
	}
}
