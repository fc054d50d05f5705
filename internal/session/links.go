package session

import (
	"errors"
	"io"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// drainMax bounds what is taken out of a dead link's receive queue; the peer replays the rest.
const drainMax = 4 << 20

// settled is how long a link must live for the next search to begin without a pause: one that dies sooner says that something
// is wrong with all of them.
const settled = 50 * time.Millisecond

// A binding is a link while a session is bound to it.
type binding struct {
	link     substrate.Link
	mover    substrate.Mover // link's Send and Recv: settle is the only one to Close it, when none of them runs
	name     string
	addr     string
	no       uint64
	seal     *Seal
	at       time.Time
	retains  bool
	borrower substrate.Borrower // link, if it is one; else nil

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

// moverOf returns what moves l's bytes for a session, which keeps Close apart from them by itself.
func moverOf(l substrate.Link) substrate.Mover {
	if l, ok := l.(substrate.Sole); ok {
		return l.Sole()
	}
	return l
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
			s.backoff = s.cfg.MoreBackoff(s.backoff)
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
	if s.ended {
		s.bmu.Lock()
		s.unack.Clear()
		s.bmu.Unlock()
	}
	s.mu.Unlock()
	if err != nil {
		s.fail(ErrDesync, err.Error())
	}
}

// drain moves what a bare link has already received into pend, as far as the window allows. The caller holds rx.
func (s *Session) drain(b *binding) {
	scratch := s.pool.Get(true)
	defer s.pool.Put(scratch)
	for total := 0; total < drainMax; {
		s.mu.Peek()
		p := scratch.Buf[:min(len(scratch.Buf), max(0, s.window()-s.pend.Len()))]
		s.mu.Unlock()
		if left, bounded := s.toFin(); bounded {
			p = p[:min(uint64(len(p)), left)]
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
		s.pend.Append(got, p)
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
