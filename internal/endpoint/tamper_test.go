package endpoint

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
)

// flipper is a substrate with an attacker on the path: it flips one bit of what each of its first links receives, behind the
// handshake.
type flipper struct {
	substrate.Substrate
	left atomic.Int32
	done atomic.Int32
}

func (f *flipper) Dial(ctx context.Context, a string) (substrate.Link, error) {
	l, err := f.Substrate.Dial(ctx, a)
	if err == nil && f.left.Add(-1) >= 0 {
		return &flippedLink{Link: l, f: f, after: 20_000}, nil
	}
	return l, err
}

type flippedLink struct {
	substrate.Link
	f     *flipper
	after int
}

func (l *flippedLink) Recv(p []byte) (int, error) {
	n, err := l.Link.Recv(p)
	if l.after > 0 {
		if l.after -= n; l.after <= 0 && n > 0 {
			p[n-1] ^= 1
			l.f.done.Add(1)
		}
	}
	return n, err
}

// TestFlippedBit: with encryption an attacker who changes what is under way costs links, never the connection or a byte.
func TestFlippedBit(t *testing.T) {
	f := &flipper{Substrate: tcp.New(tcp.Options{})}
	f.left.Store(3)
	cfg := session.Config{Seal: true, RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond}
	a, b := New(Config{Substrate: f, Session: cfg}), New(Config{Substrate: f.Substrate, Session: cfg})
	defer b.Close()
	defer a.Close()
	ctx := context.Background()
	l, err := b.Listen(ctx, "127.0.0.1:0", Plain{})
	require.NoError(t, err)
	c, err := a.Dial(ctx, l.Addr().String(), 0)
	require.NoError(t, err)
	acc, err := l.Accept()
	require.NoError(t, err)
	want := bytes.Repeat([]byte("position-coded enough"), 50_000)
	go func() {
		acc.Session.Write(want)
		acc.Session.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.EqualValues(t, 3, f.done.Load(), "bits flipped")
	require.GreaterOrEqual(t, c.Snapshot().Lost, uint64(3))
}
