package endpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flynn/noise"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// What strangers can do to a live listener: be told why not. In every hostile_*_test.go host "a" has a connection to host "b", and it goes
// on transferring through whatever host "x" sends.

// siege is a couple with somebody else on the network.
type siege struct {
	*couple
	x substrate.Substrate
}

// besiege runs f in a bubble, then checks that the connection works and nothing of the attack is left.
func besiege(t *testing.T, cfg Config, f func(t *testing.T, s *siege)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &siege{couple: newCouple(t, fault.Config{Seed: 1}, cfg)}
		s.x = s.n.Host("x")
		s.alive(t)
		time.Sleep(time.Second) // the control channel is up
		f(t, s)
		s.alive(t)
		time.Sleep(s.eb.cfg.HandshakeTimeout + time.Second)
		s.alive(t)
		s.clean(t)
		require.Len(t, s.eb.Sessions(), 1)
		require.Empty(t, s.l.queue)
	})
}

// clean checks that no handshake is in progress.
func (s *siege) clean(t *testing.T) {
	t.Helper()
	synctest.Wait() // who has closed the last link may just be leaving
	require.Empty(t, s.eb.slots)
	s.eb.mu.Lock()
	defer s.eb.mu.Unlock()
	require.Empty(t, s.eb.links)
}

// alive moves bytes both ways over the connection.
func (c *couple) alive(t *testing.T) {
	t.Helper()
	exchange(t, c.a, c.b)
	exchange(t, c.b, c.a)
}

func exchange(t *testing.T, from, to *session.Session) {
	t.Helper()
	want := bytes.Repeat([]byte("it goes on "), 1000)
	errs := make(chan error, 1)
	go func() {
		_, err := from.Write(want)
		errs <- err
	}()
	to.SetReadDeadline(time.Now().Add(time.Minute))
	got := make([]byte, len(want))
	_, err := io.ReadFull(to, got)
	require.NoError(t, err)
	require.NoError(t, <-errs)
	require.True(t, bytes.Equal(want, got))
	to.SetReadDeadline(time.Time{})
}

func (s *siege) dial(t *testing.T) substrate.Link {
	t.Helper()
	l, err := s.x.Dial(t.Context(), "b:1")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// answer reads all that the listener says until it ends the link, within a minute.
func answer(t *testing.T, l substrate.Link) []byte {
	t.Helper()
	l.SetRecvDeadline(time.Now().Add(time.Minute))
	var all []byte
	for p := make([]byte, 4096); ; {
		n, err := l.Recv(p)
		all = append(all, p[:n]...)
		if err != nil {
			require.False(t, errors.Is(err, context.DeadlineExceeded) || err.Error() == "i/o timeout", "the listener waits for ever")
			return all
		}
	}
}

// refused checks that in gets the given status and the end of the link.
func (s *siege) refused(t *testing.T, in []byte, want wire.Status, name string) {
	t.Helper()
	l := s.dial(t)
	require.NoError(t, sendAll(l, in))
	got := answer(t, l)
	r, err := wire.ParseReply(got)
	require.NoError(t, err, "%s: %q", name, got)
	require.Equal(t, want, r.Status, name)
	require.Equal(t, s.eb.proc, r.Proc, name)
}

// handshake performs a dialer's side as host "x".
func (s *siege) handshake(t *testing.T, q request) (substrate.Link, wire.Setup, agreed, error) {
	t.Helper()
	l := s.dial(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	q.addr = "b:1"
	peer, a, err := dialHandshake(ctx, l, q)
	return l, peer, a, err
}

func (s *siege) handshakeRefused(t *testing.T, q request, want wire.Status, name string) {
	t.Helper()
	_, _, _, err := s.handshake(t, q)
	var r *session.RefusedError
	require.ErrorAs(t, err, &r, name)
	require.Equal(t, want, r.Status, name)
}

// opening returns the first message of an OPEN and what is needed to go on.
func opening(t *testing.T, psk [32]byte, payload []byte, change func(h *wire.Hello)) ([]byte, *noise.HandshakeState) {
	h := wire.Hello{Version: wire.Version, MinVersion: wire.MinVersion, Kind: wire.KindOpen, GID: gid.New(), NoiseLen: 32 + len(payload) + wire.TagSize}
	if change != nil {
		change(&h)
	}
	fixed := h.Append(nil)
	hs, err := newHandshake(true, psk, fixed)
	require.NoError(t, err)
	msg, _, _, err := hs.WriteMessage(fixed, payload)
	require.NoError(t, err)
	return msg, hs
}

func fresh() wire.Setup {
	return wire.Setup{Proc: gid.NewProcessID(), Epoch: 1, LinkNo: 1, Limit: 1 << 20}
}
