package endpoint

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
)

// Policies say which substrates may be used with a peer. Each end has one; package selector merges them.

// policy is what the configuration says about the peer at addr.
func (e *Endpoint) policy(addr string) selector.Policy {
	if e.cfg.Policy == nil {
		return selector.Policy{}
	}
	return e.cfg.Policy(addr)
}

// known is by which address the policy for the peer of s is found: that which was dialled, else that of the first link. The one in use
// may be of a substrate whose addresses are in no rule.
func known(home string, s *session.Session) string {
	if a := s.RemoteAddr(); home == "" && a != nil {
		return a.String()
	}
	return home
}

// knownAs is known, for a connection of this process.
func (e *Endpoint) knownAs(s *session.Session) string {
	e.mu.Lock()
	home := ""
	if en := e.sessions[endOf(s)]; en != nil {
		home = en.home
	}
	e.mu.Unlock()
	return known(home, s)
}

// chooses reports whether there can be a choice of paths to the peer at addr.
func (e *Endpoint) chooses(addr string) bool {
	p := e.policy(addr)
	for _, o := range e.cfg.Others {
		if p.Allows(o.Substrate.Name()) {
			return true
		}
	}
	return !p.Allows(e.cfg.Substrate.Name())
}

// setPolicies tells the choice what both ends ask now.
func (c *choice) setPolicies(theirs selector.Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.theirs = theirs
	if c.b != nil {
		c.err = c.b.SetPolicies(c.own, theirs)
	} else {
		_, c.err = selector.Merge(c.own, theirs) // bind makes the binding, at the next link
	}
	c.change()
}

// PolicyChanged has Config.Policy asked again about every peer. Connections leave paths that are not admitted any more at once, at
// whichever end that is said.
func (e *Endpoint) PolicyChanged() {
	e.mu.Lock()
	list := make([]*entry, 0, len(e.sessions))
	for _, en := range e.sessions {
		if !en.ended {
			list = append(list, en)
		}
	}
	peers := make([]*peer, 0, len(e.peers))
	for _, p := range e.peers {
		peers = append(peers, p)
	}
	e.mu.Unlock()
	for _, p := range peers {
		p.mu.Lock()
		p.policy = e.policy(p.home)
		p.mu.Unlock()
	}
	for _, en := range list {
		own := e.policy(known(en.home, en.s))
		e.mu.Lock()
		c := en.choice
		e.mu.Unlock()
		if c != nil {
			c.mu.Lock()
			c.own = own
			theirs := c.theirs
			c.mu.Unlock()
			c.setPolicies(theirs)
		} else {
			e.Bound(en.s) // there may be a choice now
		}
		// The end that decides moves the connection when it has another path; the other end can only drop the link.
		if name, _, _ := en.s.Link(); c == nil && name != "" && !own.Allows(name) {
			en.s.Switch(fmt.Errorf("%s is not admitted any more", name))
		}
	}
	for _, p := range peers {
		p.table.Invalidate(time.Now(), "the policy has changed")
		p.choose()
	}
}

// admitted reports what forbids the link of a connection for which there is no choice: this end admits nothing else, but the peer may not
// admit that.
func (e *Endpoint) admitted(s *session.Session) error {
	_, words := s.PeerOffers()
	theirs, err := selector.ParsePolicy(words)
	if err != nil {
		return nil // words of a later version
	}
	both, err := selector.Merge(e.policy(e.knownAs(s)), theirs)
	if err != nil {
		return err
	}
	if base := e.cfg.Substrate.Name(); !both.Allows(base) {
		return fmt.Errorf("%w: no path: both ends' policies together (%s) do not admit %s, and this end admits nothing else", substrate.ErrConfig, both, base)
	}
	return nil
}

// AwaitPolicy waits until the connection is on a path that both ends' policies allow, for twice the time of a handshake at most, or longer if
// the peer is far away. It
// returns an error that matches substrate.ErrConfig if it won't be, and says why.
func (e *Endpoint) AwaitPolicy(ctx context.Context, s *session.Session) error {
	e.mu.Lock()
	var c *choice
	most := 2 * e.cfg.HandshakeTimeout
	if en := e.sessions[endOf(s)]; en != nil {
		c, most = en.choice, trips(choseTrips, en.rtt, most)
	}
	e.mu.Unlock()
	if c == nil {
		return e.admitted(s)
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		c.mu.Lock()
		err := c.err
		ok := c.b != nil && c.b.Policy().Allows(c.b.Current().Substrate)
		failed := c.b != nil && c.last.Action == selector.Fail
		last, changed := c.last, c.changed
		c.mu.Unlock()
		switch {
		case err != nil:
			return err
		case ok:
			return nil
		case failed:
			return fmt.Errorf("%w: %s", substrate.ErrConfig, last)
		}
		select {
		case <-changed:
		case <-s.Done():
			return net.ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: %s (%w)", substrate.ErrConfig, last, context.Cause(ctx))
		}
	}
}
