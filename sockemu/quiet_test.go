package sockemu_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sockemu/sockemu/sockemu"
)

func stallable(cfg *sockemu.Config) {
	cfg.KeepAlive, cfg.KeepAliveDead, cfg.DeadAfter = 200*time.Millisecond, 600*time.Millisecond, 600*time.Millisecond
	cfg.HandshakeTimeout = 2 * time.Second
}

// TestStallIsNoticed: a path that delivers nothing and ends nothing is found out, on an idle connection and on a busy one. How
// soon: TestStallIsNoticed in internal/endpoint.
func TestStallIsNoticed(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		for _, busy := range []bool{false, true} {
			t.Run(name+map[bool]string{false: "/idle", true: "/busy"}[busy], func(t *testing.T) {
				t.Parallel()
				r := newRig(t, stallable, change)
				c, s := r.pair()
				roundTrip(t, c, s, "hello")
				eventually(t, "control", func() bool {
					return c.Stats().Control == map[string]string{"plain": "channel", "encrypt": "in-band"}[name]
				})
				r.relay.Stall()
				start := time.Now()
				if busy {
					_, err := c.Write([]byte("x"))
					require.NoError(t, err)
				}
				healthy := func() bool {
					x := c.Stats()
					return x.State == "up" && x.Control != "none"
				}
				eventually(t, "notice", func() bool { return !healthy() })
				t.Logf("noticed after %v: %s", time.Since(start), c.Explain().Why)
				// There is a way round: it is taken without a word from anybody.
				r.wall.allow(r.relay.Addr(), r.l.Addr().String())
				start = time.Now()
				if busy {
					s.SetReadDeadline(time.Now().Add(patience))
					_, err := io.ReadFull(s, make([]byte, 1))
					require.NoError(t, err)
				}
				roundTrip(t, c, s, "round the stall")
				t.Logf("works again after %v", time.Since(start))
			})
		}
	}
}

// TestReaderThatDoesNotRead is no dead path, however full every buffer is. For longer, and with other buffers: in internal/endpoint.
func TestReaderThatDoesNotRead(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, change, func(cfg *sockemu.Config) {
				cfg.KeepAlive, cfg.KeepAliveDead, cfg.DeadAfter = 300*time.Millisecond, time.Second, time.Second
				cfg.Patience, cfg.SendBuffer, cfg.RecvBuffer = 3*time.Second, 256<<10, 64<<10
			})
			c, s := r.pair()
			want := random(1, 24<<20)
			var g errgroup.Group
			g.Go(func() error {
				if _, err := c.Write(want); err != nil {
					return err
				}
				return c.CloseWrite()
			})
			<-time.After(4 * time.Second)
			require.Zero(t, c.Stats().Cuts, "%v", c.Explain())
			require.Zero(t, s.Stats().Cuts, "%v", s.Explain())
			require.Less(t, c.Stats().Sent, uint64(len(want)), "back-pressure")
			got, err := io.ReadAll(s)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
			require.NoError(t, g.Wait())
			require.Zero(t, c.Stats().Cuts)
		})
	}
}

// TestIdleConnectionLives, without a byte, for longer than what is called dead. For much longer: in internal/endpoint.
func TestIdleConnectionLives(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, change, func(cfg *sockemu.Config) {
				cfg.KeepAlive, cfg.KeepAliveDead, cfg.DeadAfter = 300*time.Millisecond, time.Second, time.Second
				cfg.Patience = 3 * time.Second
			})
			c, s := r.pair()
			<-time.After(4 * time.Second)
			require.Zero(t, c.Stats().Cuts, "%v", c.Explain())
			require.Zero(t, s.Stats().Cuts, "%v", s.Explain())
			roundTrip(t, c, s, "still here")
		})
	}
}
