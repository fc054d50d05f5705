package endpoint

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// tapped is a substrate that tells before and after each Send on a link that was dialled, which of the link's it is.
type tapped struct {
	substrate.Substrate
	before, after func(no int)
}

func (s *tapped) Dial(ctx context.Context, address string) (substrate.Link, error) {
	l, err := s.Substrate.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return &tappedLink{Link: l, sub: s}, nil
}

type tappedLink struct {
	substrate.Link
	sub *tapped
	no  int
}

func (l *tappedLink) Send(off uint64, bufs [][]byte) (int, error) {
	l.no++
	no := l.no
	if l.sub.before != nil {
		l.sub.before(no)
	}
	n, err := l.Link.Send(off, bufs)
	if l.sub.after != nil {
		l.sub.after(no)
	}
	return n, err
}

// TestDialGivenUp: whenever a Dial is given up, or its endpoint closed, either both ends have the connection or neither: the accepting one
// doesn't wait out its patience for a peer that never was.
func TestDialGivenUp(t *testing.T) {
	const hello, confirm = 1, 2
	for name, tc := range map[string]struct {
		send         int
		after, close bool // else before; the endpoint, else the context
	}{
		"before the hello": {hello, false, false}, "after the hello": {hello, true, false},
		"before the confirm": {confirm, false, false}, "after the confirm": {confirm, true, false},
		"closed before the confirm": {confirm, false, true}, "closed after the confirm": {confirm, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := fault.New(fault.Config{})
				defer n.Close()
				eb := New(Config{Substrate: n.Host("b"), NoSharing: true})
				defer eb.Close()
				l, err := eb.Listen(t.Context(), "b:1", Plain{})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				sub := &tapped{Substrate: n.Host("a")}
				ea := New(Config{Substrate: sub, NoSharing: true})
				closed := make(chan struct{})
				stop := func(no int) {
					if no != tc.send {
						return
					}
					if tc.close {
						go func() { ea.Close(); close(closed) }()
					} else {
						cancel()
					}
					synctest.Wait()
				}
				if tc.after {
					sub.after = stop
				} else {
					sub.before = stop
				}
				s, err := ea.Dial(ctx, "b:1", 0)
				time.Sleep(eb.cfg.HandshakeTimeout)
				var acc *session.Session
				if len(l.queue) > 0 {
					a, err := l.Accept()
					require.NoError(t, err)
					acc = a.Session
				}
				if err != nil {
					require.True(t, acc == nil || acc.Over(), "only the peer has it")
				} else {
					require.NotNil(t, acc)
					exchange(t, s, acc)
				}
				if tc.close {
					<-closed
				} else {
					ea.Close()
				}
			})
		})
	}
}

// TestSilentPeer: the error of a handshake that gets no answer says with whom, and whose patience ended.
func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := fault.New(fault.Config{})
		defer n.Close()
		_, err := n.Host("b").Listen(t.Context(), "b:1")
		require.NoError(t, err)
		e := New(Config{Substrate: n.Host("a"), NoSharing: true, HandshakeTimeout: 7 * time.Second})
		defer e.Close()
		_, err = e.Dial(t.Context(), "b:1", 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "open handshake with b:1: ")
		require.ErrorContains(t, err, "within 7s")
		_, _, _, err = e.open(t.Context(), e.basePath("b:1"), request{kind: wire.KindControl})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "control handshake with b:1: ")
		require.ErrorContains(t, err, "within 7s")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = e.Dial(ctx, "b:1", 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "open handshake with b:1: ")
		require.NotContains(t, err.Error(), "within", "the caller's own deadline")
	})
}

// TestWhyDialEnded: the error says that the time was over, or the endpoint closed, and what was in the way until then.
func TestWhyDialEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{Seed: 1}, Config{Backlog: 1})
		_, err := p.ea.Dial(t.Context(), "b:1", 0) // nobody accepts it
		require.NoError(t, err)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.ea.Dial(ctx, "b:1", 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var r *session.RefusedError
		require.ErrorAs(t, err, &r)
		require.Equal(t, wire.StatusBusy, r.Status)
		errs := make(chan error)
		go func() {
			_, err := p.ea.Dial(t.Context(), "b:1", 0)
			errs <- err
		}()
		time.Sleep(5 * time.Second)
		p.ea.Close()
		err = <-errs
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorAs(t, err, &r)
		_, err = p.ea.Dial(t.Context(), "b:1", 0)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}
