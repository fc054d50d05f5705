package endpoint

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
)

func TestSmoke(t *testing.T) {
	for _, seal := range []bool{false, true} {
		var log *slog.Logger
		if testing.Verbose() {
			log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		cfg := Config{Substrate: tcp.New(tcp.Options{}), Session: session.Config{Seal: seal, Logger: log}}
		a, b := New(cfg), New(cfg)
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		l, err := b.Listen(ctx, "127.0.0.1:0", Plain{})
		require.NoError(t, err)
		s, err := a.Dial(ctx, l.Addr().String(), 0)
		require.NoError(t, err)
		ac, err := l.Accept()
		require.NoError(t, err)
		p := ac.Session

		want := make([]byte, 8<<20)
		rand.Read(want)
		go func() {
			s.Write(want)
			s.CloseWrite()
		}()
		go func() {
			io.Copy(p, p)
			p.Close()
		}()
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		t.Logf("%+v", s.Snapshot())
		require.NoError(t, s.Close())
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	}
}
