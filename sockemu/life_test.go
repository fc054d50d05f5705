package sockemu_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sockemu/sockemu/sockemu"
)

var securities = map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "encrypt": encrypt}

// acked waits until the peer's end has all that was written.
func acked(t testing.TB, conns ...*sockemu.Conn) {
	t.Helper()
	for _, c := range conns {
		eventually(t, "acknowledgement", func() bool { return c.Stats().Unacked == 0 })
	}
}

// down waits until both ends have noticed that there is no path: no link, or a bare one, which nobody may be reading from, and no
// control channel.
func down(t testing.TB, conns ...*sockemu.Conn) {
	t.Helper()
	for _, c := range conns {
		eventually(t, "loss of the path", func() bool { return c.Stats().DownFor > 0 })
	}
}

func TestVirtualAddresses(t *testing.T) {
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			c, s := r.pair()
			cl, cr, sl, sr := c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr()
			require.IsType(t, (*net.TCPAddr)(nil), cl)
			require.Equal(t, r.relay.Addr(), cr.String())
			require.Equal(t, r.l.Addr().String(), sl.String())
			same := func() {
				t.Helper()
				for _, p := range [][2]net.Addr{{cl, c.LocalAddr()}, {cr, c.RemoteAddr()}, {sl, s.LocalAddr()}, {sr, s.RemoteAddr()}} {
					require.IsType(t, (*net.TCPAddr)(nil), p[1])
					require.Equal(t, p[0].String(), p[1].String())
				}
				require.Equal(t, c.GID(), s.GID())
			}
			for range 3 {
				links := c.Stats().Links
				r.relay.CutAll()
				roundTrip(t, c, s, "after a cut")
				require.Greater(t, c.Stats().Links, links)
				same()
			}
			state, err := c.Export(t.Context())
			require.NoError(t, err)
			c, err = newEndpoint(t, r.cfg).Import(t.Context(), state)
			require.NoError(t, err)
			state, err = s.Export(t.Context())
			require.NoError(t, err)
			s, err = r.server.Import(t.Context(), state)
			require.NoError(t, err)
			same()
			roundTrip(t, c, s, "after both ends have moved")
			same()
			require.Equal(t, uint64(2), c.Stats().PeerEpoch)
			require.Equal(t, uint64(2), s.Stats().PeerEpoch)
		})
	}
}

// TestCloseDuringOutage: Close delivers the tail when the path returns within the linger time.
func TestCloseDuringOutage(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		for _, side := range []string{"client", "server"} {
			t.Run(name+"/"+side, func(t *testing.T) {
				r := newRig(t, change)
				c, s := r.pair()
				from, to := c, s
				if side == "server" {
					from, to = s, c
				}
				roundTrip(t, from, to, "hello")
				want := random(1, 3<<20)
				r.relay.Outage(patience)
				down(t, c, s)
				time.AfterFunc(100*time.Millisecond, func() { r.relay.Refuse(0) })
				var g errgroup.Group
				g.Go(func() error {
					if _, err := from.Write(want); err != nil {
						return err
					}
					return from.Close()
				})
				got, err := io.ReadAll(to)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
				require.NoError(t, g.Wait())
				require.NoError(t, to.Close())
			})
		}
	}
}

// patienceOf is the patience of tests in which this end gives up without a path: the client, which dials, learns of that soon after the path
// is back; the server has to wait out its own.
var patienceOf = map[string]time.Duration{"client": time.Second, "server": patience}

// TestCloseUndelivered: if the path doesn't return in time, Close says how much is missing.
func TestCloseUndelivered(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		for _, side := range []string{"client", "server"} {
			t.Run(name+"/"+side, func(t *testing.T) {
				r := newRig(t, change, func(cfg *sockemu.Config) { cfg.Linger, cfg.Patience = 150*time.Millisecond, patienceOf[side] })
				c, s := r.pair()
				x, y := c, s
				if side == "server" {
					x, y = s, c
				}
				roundTrip(t, x, y, "hello")
				acked(t, c, s)
				r.relay.Outage(patience)
				down(t, c, s)
				_, err := x.Write(make([]byte, 12345))
				require.NoError(t, err)
				start := time.Now()
				err = x.Close()
				took := time.Since(start)
				require.ErrorIs(t, err, sockemu.ErrUndelivered)
				var end *sockemu.EndError
				require.ErrorAs(t, err, &end)
				require.Equal(t, uint64(12345), end.Unacked)
				require.NotZero(t, end.Outage)
				require.GreaterOrEqual(t, took, 150*time.Millisecond)
				require.Less(t, took, patience/3)
				require.ErrorIs(t, x.Close(), net.ErrClosed)
				r.relay.Refuse(0)
				// The other end learns that it will never get them: not an orderly end. If it was dialled it can't ask, and waits.
				y.SetReadDeadline(time.Now().Add(patience))
				_, err = y.Read(make([]byte, 1))
				if side == "server" {
					require.ErrorIs(t, err, syscall.ECONNRESET)
				} else if !errors.Is(err, syscall.ECONNRESET) {
					require.ErrorIs(t, err, sockemu.ErrPatience)
				}
			})
		}
	}
}

func TestHalfCloseAcrossCut(t *testing.T) {
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			c, s := r.pair()
			var g errgroup.Group
			g.Go(func() error { return echo(s) })
			want := random(1, 4<<20)
			g.Go(func() error {
				for i, p := range [][]byte{want[:1<<20], want[1<<20 : 2<<20], want[2<<20:]} {
					if i > 0 {
						r.relay.CutAll()
					}
					if _, err := c.Write(p); err != nil {
						return err
					}
				}
				r.relay.Outage(50 * time.Millisecond)
				return c.CloseWrite()
			})
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
			require.NoError(t, g.Wait())
			_, err = c.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
		})
	}
}

func TestLingerZeroResets(t *testing.T) {
	for name, change := range securities {
		for _, side := range []string{"client", "server"} {
			t.Run(name+"/"+side, func(t *testing.T) {
				r := newRig(t, change)
				c, s := r.pair()
				roundTrip(t, c, s, "hello")
				if side == "server" {
					c, s = s, c
				}
				read := make(chan error, 1)
				go func() {
					_, err := s.Read(make([]byte, 1))
					read <- err
				}()
				require.NoError(t, c.SetLinger(0))
				within(t, patience, "Close", func() { require.NoError(t, c.Close()) })
				select {
				case err := <-read:
					require.ErrorIs(t, err, syscall.ECONNRESET)
					require.ErrorIs(t, err, sockemu.ErrReset)
				case <-time.After(patience):
					t.Fatal("the peer doesn't notice")
				}
				_, err := s.Write([]byte("x"))
				require.ErrorIs(t, err, syscall.ECONNRESET)
			})
		}
	}
}

// TestLingerZeroDuringOutage: the reset reaches the peer when the path is back, if the peer is the one that dials; else its
// patience has to end it.
func TestLingerZeroDuringOutage(t *testing.T) {
	for name, change := range securities {
		for _, side := range []string{"client", "server"} {
			t.Run(name+"/"+side, func(t *testing.T) {
				r := newRig(t, change, func(cfg *sockemu.Config) { cfg.Patience = patienceOf[side] })
				c, s := r.pair()
				roundTrip(t, c, s, "hello")
				r.relay.Outage(patience)
				down(t, c, s)
				if side == "server" {
					c, s = s, c
				}
				c.SetLinger(0)
				c.Close()
				r.relay.Refuse(0)
				s.SetReadDeadline(time.Now().Add(patience))
				_, err := s.Read(make([]byte, 1))
				if side == "server" {
					require.ErrorIs(t, err, syscall.ECONNRESET)
				} else if !errors.Is(err, syscall.ECONNRESET) {
					require.ErrorIs(t, err, sockemu.ErrPatience)
				}
			})
		}
	}
}

func TestDeadlinesDuringOutage(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change, func(cfg *sockemu.Config) { cfg.SendBuffer = 256 << 10 })
			c, s := r.pair()
			roundTrip(t, c, s, "hello")
			acked(t, c, s)
			r.relay.Outage(patience)
			down(t, c, s)
			for _, x := range []*sockemu.Conn{c, s} {
				start := time.Now()
				require.NoError(t, x.SetReadDeadline(start.Add(30*time.Millisecond)))
				_, err := x.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				var ne net.Error
				require.ErrorAs(t, err, &ne)
				require.True(t, ne.Timeout())
				require.Less(t, time.Since(start), patience/3)
			}
			want := random(1, 1<<20)
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(500*time.Millisecond)))
			n, err := c.Write(want)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, 256<<10, n, "what the send buffer takes")
			more, err := c.Write(want[n:])
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Zero(t, more)

			r.relay.Refuse(0)
			for _, x := range []*sockemu.Conn{c, s} {
				require.NoError(t, x.SetDeadline(time.Time{}))
			}
			var g errgroup.Group
			g.Go(func() error {
				if _, err := c.Write(want[n:]); err != nil {
					return err
				}
				return c.CloseWrite()
			})
			got, err := io.ReadAll(s)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
			require.NoError(t, g.Wait())
		})
	}
}

func TestPatience(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change, func(cfg *sockemu.Config) { cfg.Patience, cfg.SendBuffer = 700*time.Millisecond, 64<<10 })
			c, s := r.pair()
			roundTrip(t, c, s, "hello")
			acked(t, c, s)
			start := time.Now()
			r.relay.Outage(patience)
			errs := make(chan error, 4)
			for _, x := range []*sockemu.Conn{c, s} {
				go func() {
					_, err := x.Read(make([]byte, 1))
					errs <- err
				}()
				go func() {
					_, err := x.Write(make([]byte, 1<<20))
					errs <- err
				}()
			}
			for range 4 {
				select {
				case err := <-errs:
					require.ErrorIs(t, err, sockemu.ErrPatience)
					var ne net.Error
					require.ErrorAs(t, err, &ne)
					require.True(t, ne.Timeout())
					require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
					var end *sockemu.EndError
					require.ErrorAs(t, err, &end)
					require.Equal(t, uint64(64<<10), end.Unacked)
				case <-time.After(patience):
					t.Fatal("Read or Write hangs")
				}
			}
			took := time.Since(start)
			require.GreaterOrEqual(t, took, 600*time.Millisecond)
			require.Less(t, took, patience/3)
			for _, x := range []*sockemu.Conn{c, s} {
				within(t, patience, "Close", func() { require.ErrorIs(t, x.Close(), sockemu.ErrPatience) })
				require.Equal(t, "ended", x.Stats().State)
				require.ErrorIs(t, x.Explain().Err, sockemu.ErrPatience)
			}
		})
	}
}

// TestSlowReaderOverCuts: far more than every window, to a reader that takes its time, in both directions at once.
func TestSlowReaderOverCuts(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, change, func(cfg *sockemu.Config) {
				cfg.SendBuffer, cfg.RecvBuffer = 128<<10, 64<<10
				cfg.TCP.ReadBuffer, cfg.TCP.WriteBuffer = 64<<10, 64<<10
			})
			c, s := r.pair()
			defer r.cutting()()
			var g errgroup.Group
			for i, x := range []*sockemu.Conn{c, s} {
				g.Go(func() error {
					if _, err := x.Write(random(uint64(i), 8<<20)); err != nil {
						return err
					}
					return x.CloseWrite()
				})
				g.Go(func() error {
					got, err := io.ReadAll(&slow{r: x, every: 128 << 10, pause: 25 * time.Millisecond})
					if err == nil && !bytes.Equal(random(uint64(1-i), 8<<20), got) {
						err = errors.New("the bytes differ")
					}
					return err
				})
			}
			require.NoError(t, g.Wait())
			require.GreaterOrEqual(t, c.Stats().Cuts, uint64(2))
		})
	}
}

// TestEndpointClose ends everything, at once, also in the middle of an outage.
func TestEndpointClose(t *testing.T) {
	for _, outage := range []bool{false, true} {
		r := newRig(t)
		c, s := r.pair()
		if outage {
			r.relay.Outage(patience)
			down(t, c, s)
		}
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		within(t, patience, "Close", func() { require.NoError(t, r.client.Close()) })
		require.Error(t, <-read)
		_, err := c.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		if !outage {
			_, err = s.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}
	}
}
