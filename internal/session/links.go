package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/samehost"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// drainMax bounds what is taken out of a dead link's receive queue; the peer replays the rest.
const drainMax = 4 << 20

// finGrace is how long the end of a link may come before the record that says it was the end of the stream.
const finGrace = 50 * time.Millisecond

// settled is how long a link must live for the next search to begin without a pause: one that dies sooner says that something
// is wrong with all of them.
const settled = 50 * time.Millisecond

// goneAnswers is how often in a row it must be answered that there is no such connection for the peer's end to count as lost: a load balancer
// picks the wrong process now and then, and where attempts take long GoneAfter has room for only a few. With the default back-off it is
// about as many as GoneAfter has room for.
const goneAnswers = 8

// A binding is a link while a session is bound to it.
type binding struct {
	link    substrate.Link
	name    string
	addr    string
	no      uint64
	seal    *Seal
	at      time.Time
	retains bool

	rdl, wdl   time.Time // deadlines set on the link; guarded by Session.mu
	appSending bool      // a Write sends under the application's deadline; guarded by Session.mu
	rxBare     bool      // guarded by Session.mu
	txBare     bool      // written under tx and Session.mu
	keep       keep
	rest       []byte   // of a frame of which the link took only a part; guarded by tx
	scratch    []byte   // guarded by tx
	gather     [][]byte // guarded by tx
	framesDone chan struct{}
}

func (b *binding) setRecvDeadline(t time.Time) {
	if !b.rdl.Equal(t) {
		b.rdl = t
		b.link.SetRecvDeadline(t)
	}
}

func (b *binding) setSendDeadline(t time.Time) {
	if !b.wdl.Equal(t) {
		b.wdl = t
		b.link.SetSendDeadline(t)
	}
}

// past makes a blocked Recv or Send return; the caller there looks at the session's state and goes on.
var past = time.Unix(1, 0)

// lost drops b because of err, if it is still the current link. The peer is told, and if this end can dial, a new link is
// looked for.
func (s *Session) lost(b *binding, err error) {
	s.mu.Lock()
	if s.cur != b {
		s.mu.Unlock()
		return
	}
	s.park(err)
	want := s.wantLink()
	s.mu.Unlock()
	go s.settle()
	if want {
		s.say(0)
		s.redial(errors.Is(err, io.EOF))
	}
}

// park unbinds the current link. Under mu; settle must follow.
func (s *Session) park(err error) {
	b := s.cur
	s.cur, s.old, s.lostNo = nil, b, max(s.lostNo, b.no)
	s.stuck = time.Time{}
	b.link.Interrupt()
	var moved *movedError
	if errors.As(err, &moved) {
		s.backoff = 0
		s.counts.moved++
		s.events.add("link %d over %s given up %v", b.no, b.name, moved)
		s.log.Info("link given up", "gid", s.id, "link", b.no, "substrate", b.name, "for", moved.to, "why", moved.why)
	} else {
		if time.Since(b.at) >= settled {
			s.backoff = 0
		} else {
			s.backoff = min(max(2*s.backoff, s.cfg.RetryMin), s.cfg.RetryMax)
		}
		s.counts.lost++
		s.events.add("link %d over %s lost: %v", b.no, b.name, err)
		s.log.Info("link lost", "gid", s.id, "link", b.no, "substrate", b.name, "err", err)
	}
	s.changed()
	s.watchPath()
	s.canRx.raise()
	s.canTx.raise()
}

// settle finishes with a lost link: it waits until nobody receives from it, takes what has already arrived, and closes it.
// Only then may a resume offset be announced: bytes delivered from the old link afterwards would be delivered twice.
//
// The caller must not hold tx.
func (s *Session) settle() {
	s.settling.lock()
	defer s.settling.unlock()
	s.mu.Lock()
	b := s.old
	s.mu.Unlock()
	if b == nil {
		return
	}
	<-b.framesDone
	s.rx.lock()
	s.mu.Lock()
	bare, discard := b.rxBare, s.closed
	s.mu.Unlock()
	if bare && !discard {
		s.drain(b)
	}
	s.rx.unlock()
	s.tx.lock()
	err := s.takeBack(b)
	s.kept.Store(nil)
	b.link.Close()
	s.tx.unlock()
	s.mu.Lock()
	s.old = nil
	s.mu.Unlock()
	if err != nil {
		s.fail(ErrDesync, err.Error())
	}
}

// drain moves what a bare link has already received into pend. The caller holds rx.
func (s *Session) drain(b *binding) {
	scratch := s.pool.get(true)
	defer s.pool.put(scratch)
	for total := 0; total < drainMax; {
		p := scratch.buf
		if max, bounded := s.toFin(); bounded {
			p = p[:min(uint64(len(p)), max)]
		}
		if len(p) == 0 {
			return
		}
		n, err := b.link.Drain(p)
		if n > 0 {
			s.keep(p[:n])
			total += n
		}
		if n == 0 || err != nil {
			return
		}
	}
}

// keep appends received bytes to pend. The caller is the only receiver.
func (s *Session) keep(p []byte) {
	s.mu.Lock()
	got := s.got.Load()
	if s.closed {
		s.got.Store(got + uint64(len(p))) // nobody will read it; the peer has been told
	} else {
		s.pend.append(got, p)
		s.got.Store(got + uint64(len(p)))
	}
	s.canRx.raise()
	s.mu.Unlock()
}

// toFin returns how many bytes are still to come, if the end is known.
func (s *Session) toFin() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fin - s.got.Load(), s.finKnown
}

// redial starts looking for a new link, if this end can and isn't at it already. grace allows for a FIN record that the
// orderly end of the link has overtaken.
func (s *Session) redial(grace bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dialing || s.cur != nil || !s.wantLink() || !s.env.CanDial(s) {
		return
	}
	s.dialing = true
	go s.redialLoop(grace)
}

// RetryNow cuts the back-off short: something says that the path may be back. It also starts the search if it had not been
// possible before.
func (s *Session) RetryNow() {
	s.retryNow.raise()
	s.redial(false)
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
			s.dialing = false
			s.mu.Unlock()
			return
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
		s.backoff = min(max(2*s.backoff, s.cfg.RetryMin), s.cfg.RetryMax)
		wait = time.Duration(float64(s.backoff) * (0.5 + rand.Float64()))
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.dialing = false
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
	s.mu.Lock()
	my := s.setup(max(s.linkNo, s.dialNo) + 1)
	links := s.counts.links
	if s.initiator {
		// When both ends dial (after a move they may), the initiator's attempt counts: its number is taken from now on, while the
		// acceptor's is only when it has been accepted.
		s.linkNo = my.LinkNo
		s.attempting = true
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.ctx, max(2*s.cfg.DeadAfter, time.Second))
	defer cancel()
	nl, err := s.env.Resume(ctx, s, my, func() error { return s.commit(my.LinkNo, links) })
	if err == nil {
		err = s.Bind(nl)
	}
	s.mu.Lock()
	s.attempting = false
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
	s.attempting = true
	return nil
}

// setup says where this end stands. Under mu, after settle.
func (s *Session) setup(no uint64) wire.Setup {
	return wire.Setup{Epoch: s.epoch, LinkNo: no, Seen: s.seen, Got: s.got.Load(), Limit: s.limit()}
}

// Secret returns the secret that resumes and attachments are proved with.
func (s *Session) Secret() [32]byte { return s.secret }

// AdmitResume checks a peer's resume request and, if it is acceptable, lets go of the current link and says where this end
// stands. The caller completes the handshake and calls Bind; until then nothing is sent. The request is authentic: it was
// made with the session's secret; and fresh: its link number is above every one seen before.
//
// via is the substrate of the new link if the present one works and is given up for it, else "".
func (s *Session) AdmitResume(p wire.Setup, via string) (wire.Setup, wire.Status) {
	s.mu.Lock()
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
	case p.LinkNo <= s.linkNo || s.attempting, s.initiator && s.cur != nil && p.Epoch == s.peerEpoch && p.Seen < s.cur.no:
		// The last: when both ends dial, an attempt of the acceptor that was made before it knew of the link in use must not
		// replace it; the acceptor gives the attempt up as soon as it knows.
		s.mu.Unlock()
		return wire.Setup{}, wire.StatusOvertaken
	}
	s.linkNo = p.LinkNo
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

// AttemptFailed says that nothing came of a resume that AdmitResume had accepted. The peer may think otherwise.
func (s *Session) AttemptFailed(no uint64) {
	s.mu.Lock()
	failed := s.cur == nil && s.linkNo == no
	if failed {
		s.lostNo = no
	}
	s.mu.Unlock()
	if failed {
		s.say(0)
		s.redial(false)
	}
}

// Bind makes nl the current link: it replays from where the peer stands and goes on. On error the link is closed.
func (s *Session) Bind(nl NewLink) error {
	s.tx.lock()
	s.mu.Lock()
	p := nl.Peer
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
	b := &binding{link: nl.Link, name: nl.Name, addr: nl.Addr, retains: nl.Retains, no: nl.LinkNo, seal: nl.Seal, at: time.Now(), framesDone: make(chan struct{})}
	b.keep.k, _ = nl.Link.(substrate.Keeper)
	s.cur = b
	s.seen = b.no
	s.stuck, s.askedAt = time.Time{}, time.Time{}
	s.heard.Store(time.Now().UnixNano())
	s.acked.Store(p.Got)
	s.hi.Store(p.Got) // what was on its way on earlier links will never arrive
	s.bmu.Lock()
	s.unack.release(p.Got)
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
	}
	s.mu.Unlock()
}

// Attached reports whether a control channel to the peer is in use.
func (s *Session) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch != nil
}

func (s *Session) setChannel(ch Channel) {
	if s.ch != ch {
		s.ch = ch
		s.slot.Store(nil) // its page belongs to the channel
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

// noPath reports whether the connection has no complete path now. Under mu.
func (s *Session) noPath() bool {
	return s.cur == nil || s.ch == nil && (s.cur.txBare || s.cur.rxBare)
}

// watchPath starts and stops the clock of patience. Under mu.
func (s *Session) watchPath() {
	if !s.noPath() || !s.wantLink() {
		if !s.downSince.IsZero() && s.counts.links > 1 {
			s.counts.outage = max(s.counts.outage, time.Since(s.downSince))
		}
		s.downSince = time.Time{}
		if s.patience != nil {
			s.patience.Stop()
		}
		return
	}
	if s.downSince.IsZero() {
		s.downSince = time.Now()
	}
	d := time.Until(s.downSince.Add(s.cfg.Patience))
	if s.patience == nil {
		s.patience = time.AfterFunc(d, s.outOfPatience)
	} else {
		s.patience.Reset(d)
	}
}

func (s *Session) outOfPatience() {
	s.mu.Lock()
	over := s.noPath() && s.wantLink() && !s.downSince.IsZero() && time.Since(s.downSince) >= s.cfg.Patience
	s.mu.Unlock()
	if over {
		s.fail(ErrPatience, "raise Patience to wait longer")
	}
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
