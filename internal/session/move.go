package session

import (
	"errors"
	"fmt"

	"github.com/sockemu/sockemu/wire"
)

// A movedError is why a link is given up that works: there is a better one.
type movedError struct{ to, why string }

func (e *movedError) Error() string { return "for " + e.to + ": " + e.why }

// ErrNotNow: the connection can't be moved at this moment: it has no link, is just getting one, or has ended.
var ErrNotNow = errors.New("the connection is between links, or has ended")

// Move takes the connection from its link to another one, which is ready: a handshake has shown that it leads to the holder of
// the other end. to and why say what it is, for the log. Then goOver is called with where this end stands; it tells the peer, learns
// where that stands, and returns the link. If it fails, or the new link is lost at once, the search for a link begins
// as after any loss.
//
// Only the end that dialled the connection moves it: when both decided, each would undo what the other does.
func (s *Session) Move(to, why string, goOver func(my wire.Setup) (NewLink, error)) error {
	s.mu.Lock()
	if s.cur == nil || s.dialing || s.attempting || !s.initiator || s.ended || s.err != nil || s.exported {
		s.mu.Unlock()
		return ErrNotNow
	}
	s.dialing, s.attempting = true, true
	s.linkNo = max(s.linkNo, s.dialNo) + 1
	no := s.linkNo
	s.park(&movedError{to, why})
	s.mu.Unlock()
	s.settle()
	s.mu.Lock()
	my := s.setup(no)
	s.mu.Unlock()
	nl, err := goOver(my)
	if err == nil {
		err = s.Bind(nl)
	}
	s.mu.Lock()
	s.found()
	s.attempting = false
	s.mu.Unlock()
	s.redial(false)
	if err != nil {
		return fmt.Errorf("link %d over %s: %w", no, to, err)
	}
	return nil
}

// Switch gives up the current link and looks for another one: its path isn't admitted any more. Without a link it does nothing.
// See Move for a path that is only worse than another.
func (s *Session) Switch(reason error) {
	s.mu.Lock()
	b := s.cur
	s.mu.Unlock()
	if b != nil {
		s.lost(b, reason)
	}
}
