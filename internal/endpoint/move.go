package endpoint

import (
	"context"
	"errors"
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// moveTime bounds a move to another path (see also moveTrips), moves how many of them run at a time. After one that failed the paths are measured again
// in retryMove: as soon as the same may be decided again.
const (
	moveTime  = 3 * time.Second
	moves     = 16
	retryMove = time.Second
)

// move takes the connection to the path that was decided on. ready, if not nil, is a link of its own that was measured there.
func (c *choice) move(p *peer, d selector.Decision, ready *track) {
	e := p.e
	p.mu.Lock()
	most := trips(moveTrips, p.rtt, moveTime)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(e.ctx, most)
	defer cancel()
	select {
	case e.moving <- struct{}{}:
		defer func() { <-e.moving }()
	case <-ctx.Done():
		if ready != nil {
			ready.standby.Close()
			ready = nil
		}
	}
	var link substrate.Link
	var a agreed
	var err error
	if ready != nil {
		link, a = ready.standby, ready.agreed
	} else {
		link, a, err = c.standby(ctx, p, d.To)
	}
	if err == nil {
		gone := false
		err = c.s.Move(d.To.String(), d.Cause.String(), func(my wire.Setup) (session.NewLink, error) {
			gone = true
			return e.goOver(ctx, c.s, d.To, link, a, my)
		})
		if !gone {
			link.Close()
		}
	}
	if err != nil {
		e.log.Debug("not moved", "gid", c.s.GID(), "to", d.To, "err", err)
		c.mu.Lock()
		if c.b != nil {
			c.b.Refused(time.Now(), d.To, err.Error())
		}
		c.change()
		c.mu.Unlock()
		p.table.Hasten(time.Now().Add(retryMove), d.To, d.From)
		p.wake()
		return
	}
	e.count.moved.Add(1)
}

// standby opens a link over path. The peer may not know the connection yet: over a fast path this can overtake the end of the
// connection's own handshake.
func (c *choice) standby(ctx context.Context, p *peer, path selector.Path) (substrate.Link, agreed, error) {
	for pause := time.Millisecond; ; pause *= 2 {
		link, _, a, err := p.e.openTo(ctx, p.proc, path, request{
			kind: wire.KindResume, standby: true, gid: c.s.GID(), psk: resumePSK(c.s.Secret()), seal: p.e.cfg.Session.Seal, my: wire.Setup{Epoch: 1},
			home: p.e.knownAs(c.s),
		})
		var r *session.RefusedError
		if !errors.As(err, &r) || r.Status != wire.StatusUnknown || pause > 200*time.Millisecond {
			return link, a, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}
