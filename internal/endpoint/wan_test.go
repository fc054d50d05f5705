package endpoint

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
)

// TestLongFatPath: at 120 ms and 1 Gb/s one connection must get what a bare link gets there, within its default memory bound.
// Time is virtual, so the figures are exact; the shaper is the fault substrate's.
func TestLongFatPath(t *testing.T) {
	t.Parallel()
	total := fewer(256, 32) << 20
	const (
		rate  = 125_000_000
		delay = 60 * time.Millisecond
	)
	transfer := func(w io.Writer, r io.Reader) time.Duration {
		start := time.Now()
		go func() {
			buf := make([]byte, 256<<10)
			for n := 0; n < total; n += len(buf) {
				if _, err := w.Write(buf); err != nil {
					return
				}
			}
		}()
		buf := make([]byte, 256<<10)
		for n := 0; n < total; {
			k, err := r.Read(buf)
			if err != nil {
				return 0
			}
			n += k
		}
		return time.Since(start)
	}
	network := func() *fault.Network {
		n := fault.New(fault.Config{Buffer: 64 << 20})
		n.All().Shape(fault.Both, fault.Shape{Delay: delay, Rate: rate})
		return n
	}
	ctx := context.Background()
	var raw, bare, sealed time.Duration
	synctest.Test(t, func(t *testing.T) {
		n := network()
		defer n.Close()
		l, err := n.Host("b").Listen(ctx, "b:1")
		require.NoError(t, err)
		c, err := n.Host("a").Dial(ctx, "b:1")
		require.NoError(t, err)
		s, err := l.Accept()
		require.NoError(t, err)
		raw = transfer(linkWriter{c}, linkReader{s})
	})
	for _, seal := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := network()
			defer n.Close()
			cfg := session.Config{Seal: seal}
			a := New(Config{Substrate: n.Host("a"), Session: cfg, NoSharing: true})
			b := New(Config{Substrate: n.Host("b"), Session: cfg, NoSharing: true})
			defer b.Close()
			defer a.Close()
			l, err := b.Listen(ctx, "b:1", Plain{})
			require.NoError(t, err)
			c, err := a.Dial(ctx, "b:1", 0)
			require.NoError(t, err)
			acc, err := l.Accept()
			require.NoError(t, err)
			d := transfer(c, acc.Session)
			if seal {
				sealed = d
			} else {
				bare = d
			}
			require.LessOrEqual(t, a.pool.Used(), int64(40<<20), "memory of the sender")
		})
	}
	t.Logf("%d MiB at 120 ms, 1 Gb/s: raw link %v, connection %v (%.3f of raw), sealed %v (%.3f)", total>>20, raw, bare, raw.Seconds()/bare.Seconds(), sealed, raw.Seconds()/sealed.Seconds())
	require.NotZero(t, raw)
	require.NotZero(t, bare)
	require.GreaterOrEqual(t, raw.Seconds()/bare.Seconds(), 0.95)
	require.NotZero(t, sealed)
	require.GreaterOrEqual(t, raw.Seconds()/sealed.Seconds(), 0.90)
}

type linkWriter struct{ substrate.Link }

func (w linkWriter) Write(p []byte) (int, error) { return w.Send(0, [][]byte{p}) }

type linkReader struct{ substrate.Link }

func (r linkReader) Read(p []byte) (int, error) { return r.Recv(p) }
