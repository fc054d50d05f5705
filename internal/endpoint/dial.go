package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/wire"
)

// Dial opens a connection to address. If answer is not 0, a peer that stays silent for so long after the link is up is taken
// for one that doesn't speak sockemu. An error matches ErrNotSockemu if the peer answers but doesn't speak sockemu,
// *session.RefusedError if it refused, or the substrate's error classes.
func (e *Endpoint) Dial(ctx context.Context, address string, answer time.Duration) (*session.Session, error) {
	backoff := 10 * time.Millisecond
	for {
		s, err := e.dialOnce(ctx, address, answer)
		if err == nil {
			return s, nil
		}
		var r *session.RefusedError
		again := errors.As(err, &r) && r.Status == wire.StatusBusy
		if again {
			t := time.NewTimer(backoff)
			select {
			case <-t.C:
			case <-ctx.Done():
			case <-e.ctx.Done():
			}
			t.Stop()
		}
		switch why := context.Cause(ctx); {
		case e.ctx.Err() != nil && !errors.Is(err, net.ErrClosed):
			return nil, fmt.Errorf("%w (%w)", net.ErrClosed, err)
		case again && why != nil:
			return nil, fmt.Errorf("%w (%w)", why, err)
		case !again:
			return nil, err
		}
		backoff = min(2*backoff, time.Second)
	}
}

func (e *Endpoint) dialOnce(ctx context.Context, address string, answer time.Duration) (*session.Session, error) {
	ctx, cancel := e.bound(ctx)
	defer cancel()
	began := time.Now()
	link, err := e.cfg.Substrate.Dial(ctx, address)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil, unanswered{err} // the peer has hung up before connect has returned
	}
	if err != nil {
		return nil, err
	}
	if answer > 0 { // it must not be taken for silent because it is far away
		answer = max(answer, min(2*time.Since(began), e.cfg.HandshakeTimeout*3/4))
	}
	hctx, hcancel := e.handshakeTime(ctx)
	defer hcancel()
	id := gid.New()
	my := e.identify(wire.Setup{Epoch: 1, LinkNo: 1, Limit: uint64(e.cfg.Session.RecvBuffer)}, link, address)
	peer, a, err := dialHandshake(hctx, link, request{
		kind: wire.KindOpen, gid: id, answer: answer, psk: e.psk, key: len(e.cfg.ClusterKey) > 0, seal: e.cfg.Session.Seal, my: my, addr: address,
	})
	if err != nil {
		link.Close()
		return nil, err
	}
	s := session.New(id, true, a.secret(true), e.cfg.Session, e, e.pool)
	s.SetAddrs(link.LocalAddr(), link.RemoteAddr())
	nl := e.newLink(e.basePath(address), link, a, 1, true, peer)
	if err := e.add(&entry{s: s, home: address, rtt: a.rtt}); err != nil {
		s.Part(nl)
		return nil, err
	}
	if err := s.Bind(nl); err != nil {
		e.remove(s)
		return nil, err
	}
	e.count.opened.Add(1)
	return s, nil
}

// CanDial implements session.Env.
func (e *Endpoint) CanDial(s *session.Session) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	en := e.sessions[endOf(s)]
	return en != nil && e.mayDial(en)
}

// mayDial: see CanDial. An end that has accepted the connection dials only after a move: its peer can't know where it is. Under mu.
func (e *Endpoint) mayDial(en *entry) bool {
	return !e.closed && !en.held && (en.home != "" || en.imported && en.reach)
}

// Resume implements session.Env: it tries the path that the choice falls on first, then the address that was dialled, then
// those that the peer's process has given, so that a load balancer, which may pick another process, is passed by. Where one hangs the next
// is tried beside it: all say the same, and which of them counts is settled before the peer is told (session.AdmitResume).
func (e *Endpoint) Resume(ctx context.Context, s *session.Session, my wire.Setup, commit func() error) (session.NewLink, error) {
	ctx, cancel := e.bound(ctx)
	defer cancel()
	e.mu.Lock()
	en := e.sessions[endOf(s)]
	home := ""
	var c *choice
	if en != nil {
		home, c = en.home, en.choice
	}
	e.mu.Unlock()
	if en == nil {
		return session.NewLink{}, net.ErrClosed
	}
	_, addrs := s.Peer()
	list := e.paths(home, addrs)
	if c != nil {
		list = c.order(list)
	}
	var refused, failed, spoken error
	atHome := false
	r := race[session.NewLink]{
		e: e, paths: list, commit: commit,
		patience: func(path selector.Path) time.Duration { return patience(c.measuredRTT(path)) },
		try: func(ctx context.Context, path selector.Path, claim func() error) (session.NewLink, error) {
			return e.resumeAt(ctx, s, my, path, claim)
		},
		failed: func(path selector.Path, err error) bool {
			c.failed(path, err)
			var r *session.RefusedError
			switch {
			case errors.As(err, &r) && r.Status != wire.StatusUnknown && r.Status != wire.StatusBusy && r.Status != wire.StatusPath:
				spoken = err // the holder itself has
			case r != nil:
				refused = err
				if path.Addr == home && r.Status == wire.StatusUnknown {
					atHome = true
				}
			default:
				failed = err
			}
			return spoken != nil
		},
	}
	if nl, ok := r.run(ctx); ok {
		e.count.resumed.Add(1)
		return nl, nil
	}
	if spoken != nil {
		return session.NewLink{}, spoken
	}
	if atHome {
		return session.NewLink{}, refused // that the direct addresses can't be reached is no news then
	}
	if failed != nil {
		return session.NewLink{}, failed
	}
	if refused == nil {
		refused = errors.New("no address of the peer is known")
		if c != nil {
			refused = c.why()
		}
	}
	return session.NewLink{}, refused
}

func (e *Endpoint) resumeAt(ctx context.Context, s *session.Session, my wire.Setup, path selector.Path, claim func() error) (session.NewLink, error) {
	link, peer, a, err := e.open(ctx, path, request{
		kind: wire.KindResume, gid: s.GID(), acceptor: !s.Initiator(), psk: resumePSK(s.Secret()), seal: e.cfg.Session.Seal, my: my,
		claim: func(wire.Setup) error { return claim() },
		home:  e.knownAs(s),
	})
	if err != nil {
		return session.NewLink{}, err
	}
	e.mu.Lock()
	if en := e.sessions[endOf(s)]; en != nil {
		en.rtt = a.rtt
	}
	e.mu.Unlock()
	return e.newLink(path, link, a, my.LinkNo, true, peer), nil
}

// bound ends ctx with the endpoint.
func (e *Endpoint) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}
