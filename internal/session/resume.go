package session

import (
	"fmt"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// setup says where this end stands. Under mu, after settle.
func (s *Session) setup(no uint64) wire.Setup {
	return wire.Setup{Epoch: s.epoch, LinkNo: no, Seen: s.seen, Got: s.got.Load(), Limit: s.limit()}
}

// Secret returns the secret that resumes and attachments are proved with.
func (s *Session) Secret() [32]byte { return s.secret }

// maxTries bounds the paths over which one resume of the peer's may be in progress at a time.
const maxTries = 8

// An admission is a resume of the peer's that was answered and is not confirmed yet. The peer may try it over several paths at a time, with the
// same number: it confirms one of them, and as long as it hasn't, nothing has changed here since the first was answered.
type admission struct {
	no, epoch, seen, got uint64
	proc                 gid.ProcessID
	links                int // over which it was answered and has not failed; 0: none is in progress
}

// repeats reports whether p is the same resume over another path.
func (a admission) repeats(p wire.Setup) bool {
	return a.links > 0 && a == admission{no: p.LinkNo, epoch: p.Epoch, seen: p.Seen, got: p.Got, proc: p.Proc, links: a.links}
}

// AdmitResume checks a peer's resume request and, if it is acceptable, lets go of the current link and says where this end
// stands. The caller completes the handshake and calls Bind; until then nothing is sent. The request is authentic: it was
// made with the session's secret; and fresh: its link number is above every one seen before, or it is the one that is just in progress,
// over another path.
//
// via is the substrate of the new link if the present one works and is given up for it, else "".
func (s *Session) AdmitResume(p wire.Setup, via string) (wire.Setup, wire.Status) {
	s.mu.Lock()
	repeats := s.admitted.repeats(p) && p.LinkNo == s.linkNo
	switch {
	case s.exported:
		s.mu.Unlock()
		return wire.Setup{}, wire.StatusUnknown
	case s.err != nil:
		s.mu.Unlock()
		return wire.Setup{}, wire.StatusClosed
	case p.Epoch < s.peerEpoch, p.Epoch == s.peerEpoch && p.Proc != s.peer && !s.peer.IsZero():
		s.mu.Unlock()
		return wire.Setup{}, wire.StatusStale
	case repeats && s.admitted.links >= maxTries:
		s.mu.Unlock()
		return wire.Setup{}, wire.StatusBusy
	case p.LinkNo <= s.linkNo && !repeats || s.attempting && s.giveUpTry == nil, s.initiator && s.cur != nil && p.Epoch == s.peerEpoch && p.Seen < s.cur.no:
		// The last: when both ends dial, an attempt of the acceptor that was made before it knew of the link in use must not
		// replace it; the acceptor gives the attempt up as soon as it knows.
		s.mu.Unlock()
		return wire.Setup{}, wire.StatusOvertaken
	}
	s.linkNo = p.LinkNo
	if !repeats {
		s.admitted = admission{no: p.LinkNo, epoch: p.Epoch, seen: p.Seen, got: p.Got, proc: p.Proc}
	}
	s.admitted.links++
	if s.attempting { // it can't commit any more; perhaps it is waiting for a host where nobody answers
		s.giveUpTry()
		s.attempting, s.giveUpTry = false, nil
	}
	if s.cur != nil && via != "" {
		s.park(&movedError{via, "the other end has decided"})
	} else if s.cur != nil {
		s.park(fmt.Errorf("replaced by link %d", p.LinkNo))
	}
	s.mu.Unlock()
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.linkNo != p.LinkNo {
		return wire.Setup{}, wire.StatusOvertaken
	}
	return s.setup(p.LinkNo), wire.StatusOK
}

// AttemptFailed says that over one path nothing came of a resume that AdmitResume had accepted. The peer may think otherwise.
func (s *Session) AttemptFailed(no uint64) {
	s.mu.Lock()
	if s.admitted.no == no && s.admitted.links > 0 {
		s.admitted.links--
	}
	failed := s.cur == nil && s.linkNo == no && s.admitted.links == 0
	if failed {
		s.lostNo = no
	}
	s.mu.Unlock()
	if failed {
		s.say(0)
		s.RetryNow()
	}
}

// Bind makes nl the current link: it replays from where the peer stands and goes on. On error the link is closed.
func (s *Session) Bind(nl NewLink) error {
	s.tx.lock()
	s.mu.Lock()
	p := nl.Peer
	if s.admitted.no <= nl.LinkNo {
		s.admitted = admission{}
	}
	switch {
	case s.exported || s.err != nil: // one that ended well still answers a peer that has missed the last records
		s.mu.Unlock()
		s.tx.unlock()
		nl.Link.Close()
		return s.whyEnded()
	case nl.LinkNo < s.linkNo || s.cur != nil || p.Epoch < s.peerEpoch || s.attempting && !nl.Dialed:
		err := fmt.Errorf("link %d was overtaken by link %d", nl.LinkNo, s.linkNo)
		s.mu.Unlock()
		s.tx.unlock()
		nl.Link.Close()
		return err
	}
	if p.Epoch == s.peerEpoch && p.Proc != s.peer && !s.peer.IsZero() {
		err := fmt.Errorf("process %s claims the other end, which process %s holds in the same epoch %d", p.Proc, s.peer, p.Epoch)
		s.mu.Unlock()
		s.tx.unlock()
		nl.Link.Close()
		return err
	}
	s.linkNo = nl.LinkNo
	sent := s.sent.Load()
	if p.Got < s.acked.Load() || p.Got > sent {
		have := s.acked.Load()
		s.mu.Unlock()
		s.tx.unlock()
		nl.Link.Close()
		s.fail(ErrDesync, fmt.Sprintf("peer stands at %d, but bytes %d..%d are here", p.Got, have, sent))
		return s.whyEnded()
	}
	if p.Epoch != s.peerEpoch || p.Proc != s.peer {
		// Another process holds the other end now: the control channel to the old one counts no more.
		s.peerEpoch, s.peer = p.Epoch, p.Proc
		if s.ch != nil && s.ch.Proc() != p.Proc {
			s.setChannel(nil)
			s.slot.Store(nil)
		}
	}
	if len(p.Addrs) > 0 {
		s.peerAddrs = p.Addrs
	}
	s.peerOffers, s.peerPolicy = p.Offers, p.Policy
	s.peerLimit = max(s.peerLimit, p.Limit)
	b := &binding{link: nl.Link, mover: moverOf(nl.Link), name: nl.Name, addr: nl.Addr, retains: nl.Retains, no: nl.LinkNo, seal: nl.Seal, at: time.Now(), framesDone: make(chan struct{})}
	b.keep.k, _ = nl.Link.(substrate.Keeper)
	if nl.Retains {
		b.borrower, _ = nl.Link.(substrate.Borrower)
	}
	if g, ok := nl.Link.(substrate.Gatherer); ok {
		b.keep.gather = min(g.Gather(), corkMost)
	}
	s.cur = b
	s.seen = b.no
	s.stuck, s.askedAt = time.Time{}, time.Time{}
	s.heard.Store(int64(time.Since(epoch)))
	s.acked.Store(p.Got)
	s.hi.Store(p.Got) // what was on its way on earlier links will never arrive
	s.bmu.Lock()
	s.unack.Release(p.Got)
	s.bmu.Unlock()
	s.next.Store(p.Got)
	if s.ended {
		s.next.Store(sent)
	}
	s.counts.links++
	s.counts.replayed += sent - p.Got
	s.events.add("link %d over %s bound, %d bytes to replay", b.no, b.name, sent-p.Got)
	s.log.Info("link bound", "gid", s.id, "link", b.no, "substrate", b.name, "replay", sent-p.Got, "peer", p.Proc)
	s.ctlDue.Store(true) // tell the peer about FIN and the like on every new link
	s.watchPath()
	s.changed()
	s.mu.Unlock()
	s.tx.unlock()
	go s.receiveFrames(b)
	s.canTx.raise()
	s.canRx.raise()
	s.kickPump()
	s.armProbe()
	s.env.Bound(s)
	return nil
}

func (s *Session) whyEnded() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return s.closedErr()
}
