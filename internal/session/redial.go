package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/wire"
)

// goneAnswers is how often in a row it must be answered that there is no such connection for the peer's end to count as lost: a load balancer
// picks the wrong process now and then, and where attempts take long GoneAfter has room for only a few. With the default back-off it is
// about as many as GoneAfter has room for.
const goneAnswers = 8

// finGrace is how long the end of a link may come before the record that says it was the end of the stream.
const finGrace = 50 * time.Millisecond

// redial starts looking for a new link, if this end can and isn't at it already. grace allows for a FIN record that the
// orderly end of the link has overtaken.
func (s *Session) redial(grace bool) {
	if !s.env.CanDial(s) { // takes locks of its own
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dialing || s.cur != nil || !s.wantLink() {
		return
	}
	s.dialing = true
	go s.redialLoop(grace)
}

// RetryNow cuts the back-off short: something says that the path may be back. It also starts the search if it had not been
// possible before.
func (s *Session) RetryNow() {
	s.mu.Lock()
	if s.dialing {
		s.retryNow.raise()
	}
	s.mu.Unlock()
	s.redial(false)
}

// found ends a search. News of the path that came during it say nothing about the next one. Under mu.
func (s *Session) found() {
	s.dialing = false
	select {
	case <-s.retryNow:
	default:
	}
}

func (s *Session) redialLoop(grace bool) {
	s.mu.Lock()
	wait := s.backoff
	s.mu.Unlock()
	if grace {
		wait = max(wait, finGrace)
	}
	var unknownSince time.Time
	unknown := 0 // answers in a row
	for {
		if wait > 0 && !s.pause(wait) {
			break
		}
		s.mu.Lock()
		if s.cur != nil || !s.wantLink() {
			s.found()
			s.mu.Unlock()
			return
		}
		if s.admitted.links > 0 { // the peer's attempt is about to succeed, or fails within the time of a handshake
			wait = max(s.backoff, s.cfg.RetryMin)
			s.mu.Unlock()
			continue
		}
		s.mu.Unlock()
		err := s.tryResume()
		if err == nil {
			// Bound: the check above ends the loop, at once, unless the link is already lost again.
			s.mu.Lock()
			if wait = 0; s.cur == nil {
				wait = s.backoff
			}
			s.mu.Unlock()
			continue
		}
		if s.ctx.Err() != nil {
			break
		}
		s.mu.Lock()
		s.counts.failedDials++
		s.mu.Unlock()
		var r *RefusedError
		if errors.As(err, &r) {
			switch r.Status {
			case wire.StatusOvertaken:
				// Both ends dial, or our number was used by a lost attempt of an earlier holder.
				s.mu.Lock()
				s.jump = min(2*s.jump+1, 1<<32)
				if s.initiator {
					s.linkNo += s.jump
				} else {
					s.dialNo = max(s.dialNo, s.linkNo) + s.jump
				}
				s.mu.Unlock()
			case wire.StatusStale:
				s.fail(ErrFenced, err.Error())
			case wire.StatusClosed:
				s.fail(ErrReset, err.Error())
			case wire.StatusKey, wire.StatusPolicy, wire.StatusVersion, wire.StatusFormat:
				s.fail(ErrProtocol, err.Error())
			case wire.StatusUnknown:
				if unknown++; unknown == 1 {
					unknownSince = time.Now()
				}
				if unknown >= goneAnswers && time.Since(unknownSince) >= s.cfg.GoneAfter {
					s.fail(ErrPeerGone, err.Error())
				}
			}
		} else {
			unknown = 0
		}
		s.note("no new link yet: %v", err)
		s.mu.Lock()
		s.backoff = s.cfg.MoreBackoff(s.backoff)
		wait = Jitter(s.backoff)
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.found()
	s.mu.Unlock()
}

// pause waits for d, less if RetryNow is called. It reports false when the session is over.
func (s *Session) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.retryNow:
	case <-s.ctx.Done():
	}
	return s.ctx.Err() == nil
}

// RefusedError: the peer's process answered a handshake with a refusal.
type RefusedError struct {
	Status wire.Status
	Proc   gid.ProcessID // who answered, unauthenticated
	Addr   string
}

// Error says who refused and why.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s (process %s) refused: %s", e.Addr, e.Proc, e.Status)
}

func (s *Session) tryResume() error {
	s.settle()
	ctx, cancel := context.WithTimeout(s.ctx, max(2*s.cfg.DeadAfter, time.Second))
	defer cancel()
	s.mu.Lock()
	my := s.setup(max(s.linkNo, s.dialNo) + 1)
	links := s.counts.links
	if s.initiator {
		// When both ends dial (after a move they may), the initiator decides: its own number is taken from now on, the acceptor's when
		// it admits that one, for which it gives up its own attempt until that commits.
		s.linkNo = my.LinkNo
		s.attempting, s.giveUpTry = true, cancel
	}
	s.mu.Unlock()
	nl, err := s.env.Resume(ctx, s, my, func() error { return s.commit(my.LinkNo, links) })
	if err == nil {
		err = s.Bind(nl)
	}
	s.mu.Lock()
	s.attempting, s.giveUpTry = false, nil
	if err == nil {
		s.jump = 0
	}
	s.mu.Unlock()
	return err
}

// commit decides whether our attempt still counts, just before the peer learns that it does: what we have announced must still
// be true, so no other link may have been bound meanwhile; and from now on none of the peer's attempts is admitted.
func (s *Session) commit(no, links uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts.links != links || s.cur != nil || no < s.linkNo || !s.initiator && no == s.linkNo || s.exported || s.err != nil {
		return fmt.Errorf("link %d was overtaken by link %d", no, s.linkNo)
	}
	s.attempting, s.giveUpTry = true, nil
	return nil
}
