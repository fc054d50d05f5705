package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/wire"
)

// end names one end of a connection. A process that has dialled itself holds both.
type end struct {
	id        gid.GID
	initiator bool
}

func endOf(s *session.Session) end { return end{s.GID(), s.Initiator()} }

// entry is what the endpoint knows about a connection besides its session.
type entry struct {
	s        *session.Session
	home     string    // the address that was dialled; "" on the accepting side
	from     *Listener // that accepted it
	imported bool
	held     bool  // imported, but not to be used before Release
	reach    bool  // the peer has told where it listens
	peer     *peer // this end looks after the control channel to it, and chooses the path
	choice   *choice
	rtt      time.Duration // of the handshake of the last link that this end dialled; 0: none
	ended    bool
}

// lookup returns one end of a connection, if this process holds it.
func (e *Endpoint) lookup(id gid.GID, initiator bool) *session.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	if en := e.sessions[end{id, initiator}]; en != nil {
		return en.s
	}
	return nil
}

// Sessions returns the connections of this process that haven't ended.
func (e *Endpoint) Sessions() []*session.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []*session.Session
	for _, en := range e.sessions {
		if !en.ended {
			list = append(list, en.s)
		}
	}
	return list
}

func (e *Endpoint) add(en *entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	if old := e.sessions[endOf(en.s)]; old != nil {
		return fmt.Errorf("connection %s is already here", en.s.GID())
	}
	e.sessions[endOf(en.s)] = en
	if en.from != nil {
		en.from.live++
	}
	return nil
}

// remove takes s out of the table, unless another session has that end by now: s was exported, and came back.
func (e *Endpoint) remove(s *session.Session) {
	e.mu.Lock()
	en := e.sessions[endOf(s)]
	if en == nil || en.s != s {
		e.mu.Unlock()
		return
	}
	delete(e.sessions, endOf(s))
	p := en.peer
	var free *Listener
	if en.from != nil && !en.ended {
		free = e.released(en.from)
	}
	e.mu.Unlock()
	en.s.Forget()
	if p != nil {
		p.leave(en.s)
	}
	if free != nil {
		free.rawNow().Close()
	}
	for _, c := range e.openChannels() {
		c.forget(en.s)
	}
}

// maxRemembered bounds the ended connections that are kept to answer their peers.
const maxRemembered = 4096

// Ended implements session.Env: the connection is remembered for a while, so that its peer, which may have missed the last
// records, gets an answer.
func (e *Endpoint) Ended(s *session.Session) {
	last, untold := s.Snapshot(), s.Untold()
	e.mu.Lock()
	en := e.sessions[endOf(s)]
	if en == nil || en.s != s || en.ended {
		e.mu.Unlock()
		return
	}
	en.ended = true
	if untold && e.mayDial(en) {
		e.wg.Go(func() { e.tellEnd(s) })
	}
	e.total.add(last)
	e.ended = append(e.ended, departed{s, time.Now().Add(e.cfg.Remember)})
	var oldest *session.Session
	if len(e.ended) > maxRemembered {
		oldest = e.ended[0].s
	}
	// One timer for all: one each would keep the session, also for a while after it was stopped.
	if e.ageing == nil && !e.closed {
		e.ageing = time.AfterFunc(e.cfg.Remember, e.age)
	}
	var free *Listener
	if en.from != nil {
		free = e.released(en.from)
	}
	p := en.peer
	e.mu.Unlock()
	if p != nil {
		p.decided(s)
	}
	if free != nil {
		free.rawNow().Close()
	}
	if oldest != nil {
		e.forget(oldest)
	}
}

// departed is a connection that has ended and is remembered for a while.
type departed struct {
	s     *session.Session
	until time.Time
}

// age forgets those that have been remembered for long enough.
func (e *Endpoint) age() {
	var list []*session.Session
	now := time.Now()
	e.mu.Lock()
	for _, d := range e.ended {
		if now.Before(d.until) {
			break
		}
		list = append(list, d.s)
	}
	e.ended = slices.Delete(e.ended, 0, len(list))
	e.ageing = nil
	if len(e.ended) > 0 && !e.closed {
		e.ageing = time.AfterFunc(e.ended[0].until.Sub(now), e.age)
	}
	e.mu.Unlock()
	for _, s := range list {
		e.remove(s)
	}
}

// tellEnd brings a peer that can't be reached now the news that its connection has ended, as long as the connection is
// remembered: the end that has accepted it can't dial and would wait out its patience.
func (e *Endpoint) tellEnd(s *session.Session) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.Remember)
	defer cancel()
	backoff := e.cfg.Session.RetryMin
	for {
		actx, acancel := context.WithTimeout(ctx, e.cfg.HandshakeTimeout)
		nl, err := e.Resume(actx, s, s.PartingSetup(), nil)
		acancel()
		if err == nil {
			s.Part(nl)
			return
		}
		var r *session.RefusedError
		if errors.As(err, &r) && r.Status != wire.StatusBusy && r.Status != wire.StatusOvertaken {
			return // nobody there waits for it
		}
		t := time.NewTimer(session.Jitter(backoff))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		backoff = e.cfg.Session.MoreBackoff(backoff)
	}
}

func (e *Endpoint) forget(s *session.Session) {
	e.mu.Lock()
	if i := slices.IndexFunc(e.ended, func(d departed) bool { return d.s == s }); i >= 0 {
		e.ended = slices.Delete(e.ended, i, i+1)
	}
	e.mu.Unlock()
	e.remove(s)
}
