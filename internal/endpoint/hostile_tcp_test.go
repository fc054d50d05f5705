package endpoint

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
	"github.com/sockemu/sockemu/wire"
)

// TestHostileTCP is a part of the other hostile tests on real sockets, where closing with unread bytes resets.
func TestHostileTCP(t *testing.T) {
	t.Parallel()
	sub := tcp.New(tcp.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	eb := New(Config{Substrate: sub, MaxHandshakes: 4, HandshakeTimeout: 2 * time.Second, NoSharing: true})
	defer eb.Close()
	ea := New(Config{Substrate: sub, NoSharing: true})
	defer ea.Close()
	l, err := eb.Listen(ctx, "127.0.0.1:0", Plain{})
	require.NoError(t, err)
	c := &couple{ea: ea, eb: eb, l: l}
	open := func() (a, b *session.Session) {
		a, err := ea.Dial(ctx, l.Addr().String(), 0)
		require.NoError(t, err)
		acc, err := l.Accept()
		require.NoError(t, err)
		return a, acc.Session
	}
	c.a, c.b = open()
	c.alive(t)
	for _, in := range []string{"GET / HTTP/1.1\r\n\r\n", wire.Magic + "garbage garbage garbage garbage garbage"} {
		x, err := sub.Dial(ctx, l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, sendAll(x, []byte(in)))
		b := make([]byte, wire.ReplySize)
		require.NoError(t, recvFull(x, b))
		r, err := wire.ParseReply(b)
		require.NoError(t, err)
		require.NotEqual(t, wire.StatusOK, r.Status)
		x.Close()
	}
	var silent []substrate.Link
	for range 12 {
		x, err := sub.Dial(ctx, l.Addr().String())
		require.NoError(t, err)
		silent = append(silent, x)
	}
	a, b := open() // comes back until there is room
	exchange(t, a, b)
	c.alive(t)
	require.NotZero(t, eb.count.busy.Load())
	for _, x := range silent {
		x.Close()
	}
	a.Close()
	b.Close()
	c.a.Close()
	c.b.Close()
}
