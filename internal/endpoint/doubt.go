package endpoint

import (
	"fmt"
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/wire"
)

// Where each end has dialled a control channel both use the initiator's: else each could use its own, and publish on a page where the other doesn't
// look. It may die in silence while the other one works. Then nobody waits for KeepAliveDead: a channel on which a question found no answer for
// DeadAfter is given up if the peer answers on another one.

// attachedTo returns a channel that s is attached to and that was dialled from the initiator's end, or the acceptor's; nil if there is none.
func (e *Endpoint) attachedTo(s *session.Session, initiators bool) *channel {
	peer, _ := s.Peer()
	for _, c := range e.openChannels() {
		if c.proc != peer || (c.dialed == s.Initiator()) != initiators {
			continue
		}
		c.mu.Lock()
		ok := c.err == nil && c.attached[s.GID()] == s
		c.mu.Unlock()
		if ok {
			return c
		}
	}
	return nil
}

// initiators returns the channel of s that was dialled from its initiator's end, nil if there is none.
func (e *Endpoint) initiators(s *session.Session) *channel { return e.attachedTo(s, true) }

// reattach puts s, if it has lost its channel, on another one to its peer, if both ends have dialled one.
func (e *Endpoint) reattach(s *session.Session) {
	if s.Attached() {
		return
	}
	for _, initiators := range []bool{true, false} {
		if c := e.attachedTo(s, initiators); c != nil {
			s.Attach(c)
			return
		}
	}
}

// A doubt is what a channel knows of its unanswered questions. Under the channel's mu.
type doubt struct {
	asked time.Time   // the oldest one; zero: none that counts
	other time.Time   // when the peer was asked over other channels whether it is there; zero: it wasn't
	t     *time.Timer // runs onDoubt
}

// heardSince reports whether something has arrived since at.
func (c *channel) heardSince(at time.Time) bool {
	return !c.began.Add(time.Duration(c.heard.Load())).Before(at)
}

// ask notes that an answer is wanted. Under mu.
func (c *channel) ask() {
	if !c.doubt.asked.IsZero() && !c.heardSince(c.doubt.asked) {
		return
	}
	c.doubt.asked, c.doubt.other = time.Now(), time.Time{}
	if after := c.e.cfg.Session.DeadAfter; c.doubt.t == nil {
		c.doubt.t = time.AfterFunc(after, c.onDoubt)
	} else {
		c.doubt.t.Reset(after)
	}
}

// onDoubt asks the peer over its other channels, and gives c up if it answers there and still not here.
func (c *channel) onDoubt() {
	var others []*channel
	for _, o := range c.e.openChannels() {
		if o != c && o.proc == c.proc {
			others = append(others, o)
		}
	}
	c.mu.Lock()
	d := &c.doubt
	if c.err != nil || d.asked.IsZero() || c.heardSince(d.asked) {
		c.mu.Unlock()
		return
	}
	asked, since := d.asked, d.other
	switch {
	case len(others) == 0:
		d.asked = time.Time{} // the next question begins anew
	case since.IsZero():
		d.other = time.Now()
		d.t.Reset(c.e.cfg.Session.ProbeEvery)
	default:
		d.asked = time.Time{}
	}
	c.mu.Unlock()
	for _, o := range others {
		switch {
		case since.IsZero():
			o.Post(&wire.Record{Type: wire.TypePing})
		case o.heardSince(since):
			c.close(fmt.Errorf("no answer for %v, while the peer answers on another channel", time.Since(asked).Round(time.Millisecond)))
			return
		}
	}
}

// doubtOther is told of a State that came over c: if that asks over another channel than the one in use here, the peer may have found that one dead.
func (c *channel) doubtOther(s *session.Session, r *wire.Record) {
	if r.Type != wire.TypeState || r.Flags&wire.StateReply == 0 || s.Uses(c) {
		return
	}
	o, ok := s.Channel().(*channel)
	if !ok || o == c {
		return
	}
	o.mu.Lock()
	waits := !o.doubt.asked.IsZero() && !o.heardSince(o.doubt.asked)
	o.mu.Unlock()
	if !waits {
		o.Post(&wire.Record{Type: wire.TypePing})
	}
}
