package sockemu_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/substrate"
)

// TestSubstrateVariables: what the environment says holds at both ends, in sessions that nobody configured, or nothing works.
func TestSubstrateVariables(t *testing.T) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules")
	require.NoError(t, os.WriteFile(rules, []byte("127.0.0.0/8 pin:shm\n* tcp\n"), 0o600))
	dial := func(t *testing.T) *sockemu.Conn {
		_, _, a, b := couple(t, "", "")
		roundTrip(t, a, b, "hello")
		return a
	}
	t.Run("substrate", func(t *testing.T) {
		t.Setenv("SOCKEMU_SUBSTRATE", "pin:shm")
		require.Equal(t, "shm", dial(t).Stats().Substrate)
	})
	// At both ends: the one that accepts must find its rule for the peer although shared memory has other addresses.
	t.Run("rules", func(t *testing.T) {
		t.Setenv("SOCKEMU_RULES", rules)
		a := dial(t)
		require.Equal(t, "shm", a.Stats().Substrate)
		<-time.After(100 * time.Millisecond) // it stays there
		require.Equal(t, "shm", a.Stats().Substrate)
	})
	for variable, value := range map[string]string{"SOCKEMU_SUBSTRATE": "pin:shn", "SOCKEMU_RULES": filepath.Join(dir, "none")} {
		t.Run("bad "+variable, func(t *testing.T) {
			t.Setenv(variable, value)
			_, err := sockemu.NewEndpoint(quick())
			require.ErrorIs(t, err, substrate.ErrConfig)
			require.ErrorContains(t, err, variable)
		})
	}
}

// TestExportFromSharedMemory: either end, or both, is handed to another endpoint while the connection is on shared memory and bytes
// move both ways. None is lost or comes twice, and the connection finds shared memory again.
func TestExportFromSharedMemory(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "encrypt": encrypt} {
		for _, tc := range []struct {
			name           string
			dialer, server bool
		}{{"dialer", true, false}, {"acceptor", false, true}, {"both", true, true}} {
			t.Run(name+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				cfg := quick(change, substrates("prefer:shm"))
				from, to := newEndpoint(t, cfg), newEndpoint(t, cfg)
				l, err := to.Listen(t.Context(), "tcp", "127.0.0.1:0")
				require.NoError(t, err)
				x, y := pair(t, from, l.Addr().String(), l)
				a, b := newHolder(t, x), newHolder(t, y)
				quit := make(chan struct{})
				var g errgroup.Group
				var sent, got [2][]byte
				for i, h := range []*holder{a, b} {
					g.Go(func() error {
						sum, buf := sha256.New(), make([]byte, 50_000)
						for {
							select {
							case <-quit:
								sent[i] = sum.Sum(nil)
								return h.closeWrite()
							case <-time.After(time.Duration(rand.IntN(500)) * time.Microsecond):
							}
							p := buf[:1+rand.IntN(len(buf))]
							p[0]++
							sum.Write(p)
							if _, err := h.Write(p); err != nil {
								return err
							}
						}
					})
					g.Go(func() error {
						sum := sha256.New()
						_, err := io.Copy(sum, h)
						got[i] = sum.Sum(nil)
						return err
					})
				}
				for range 3 {
					awaitSubstrate(t, "shm", a.cur.Load(), b.cur.Load())
					if tc.dialer {
						require.NoError(t, a.move(newEndpoint(t, cfg)))
					}
					if tc.server {
						next := newEndpoint(t, cfg)
						addr := l.Addr().String()
						require.NoError(t, l.Free())
						l = listenAgain(t, next, addr)
						require.NoError(t, b.move(next))
					}
				}
				awaitSubstrate(t, "shm", a.cur.Load(), b.cur.Load())
				close(quit)
				require.NoError(t, g.Wait())
				require.Equal(t, sent[0], got[1])
				require.Equal(t, sent[1], got[0])
				for _, h := range []*holder{a, b} {
					require.NoError(t, h.cur.Load().Close())
				}
			})
		}
	}
}

// TestUpgradeFromSharedMemory: a new process takes a connection over that is on shared memory, and there it is again soon.
func TestUpgradeFromSharedMemory(t *testing.T) {
	cfg := quick(withKey, substrates("prefer:shm"))
	client, server := newEndpoint(t, cfg), newEndpoint(t, cfg)
	l, err := server.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, s := pair(t, client, l.Addr().String(), l)
	echoes := serveEcho(s)
	talk := func(n int) {
		want, got := random(uint64(n), n), make([]byte, n)
		var g errgroup.Group
		g.Go(func() error {
			_, err := c.Write(want)
			return err
		})
		_, err := io.ReadFull(c, got)
		require.NoError(t, errors.Join(err, g.Wait()))
		require.Equal(t, sha256.Sum256(want), sha256.Sum256(got))
	}
	talk(100_000)
	awaitSubstrate(t, "shm", c, s)
	talk(3 << 20)
	_, err = c.Write([]byte("on its way"))
	require.NoError(t, err)
	echoes.stop()
	t.Setenv(childSubstrates, "prefer:shm")
	cmd, end := childProcess(t, "serve")
	passed := []sockemu.Passed{{Conn: s, Tag: []byte("tag 0")}}
	require.NoError(t, sockemu.Upgrade(testContext(t), cmd, []*sockemu.Listener{l}, passed))
	require.NoError(t, server.Close())
	got := make([]byte, len("on its way"))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "on its way", string(got))
	talk(100_000)
	awaitSubstrate(t, "shm", c)
	talk(3 << 20)
	require.NoError(t, c.Close())
	end()
}
