package sockemu_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sockemu/sockemu/internal/relay"
	"github.com/sockemu/sockemu/sockemu"
)

// A holder is one end of a connection that moves from endpoint to endpoint: its Reads and Writes go on with the next holder.
type holder struct {
	testing.TB
	cur atomic.Pointer[sockemu.Conn]
}

func newHolder(t testing.TB, c *sockemu.Conn) *holder {
	h := &holder{TB: t}
	h.cur.Store(c)
	return h
}

// wait waits until somebody else than old holds the connection.
func (h *holder) wait(old *sockemu.Conn) *sockemu.Conn {
	eventually(h, "next holder", func() bool { return h.cur.Load() != old })
	return h.cur.Load()
}

func (h *holder) Read(p []byte) (int, error) {
	for c := h.cur.Load(); ; c = h.wait(c) {
		n, err := c.Read(p)
		if n > 0 || !errors.Is(err, sockemu.ErrExported) {
			return n, err
		}
	}
}

func (h *holder) Write(p []byte) (int, error) {
	done := 0
	for c := h.cur.Load(); ; c = h.wait(c) {
		n, err := c.Write(p[done:])
		if done += n; !errors.Is(err, sockemu.ErrExported) {
			return done, err
		}
	}
}

func (h *holder) closeWrite() error {
	for c := h.cur.Load(); ; c = h.wait(c) {
		if err := c.CloseWrite(); !errors.Is(err, sockemu.ErrExported) {
			return err
		}
	}
}

// move takes the connection to another endpoint.
func (h *holder) move(to *sockemu.Endpoint) error {
	old := h.cur.Load()
	state, err := old.Export(h.Context())
	if err != nil {
		return err
	}
	if _, err := old.Write([]byte("x")); !errors.Is(err, sockemu.ErrExported) {
		h.Errorf("Write after Export: %v", err)
	}
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, sockemu.ErrExported) {
		h.Errorf("Read after Export: %v", err)
	}
	if err := old.Close(); !errors.Is(err, sockemu.ErrExported) {
		h.Errorf("Close after Export: %v", err)
	}
	if s := old.Stats().State; s != "exported" {
		h.Errorf("state %q after Export", s)
	}
	c, err := to.Import(h.Context(), state)
	if err != nil {
		return err
	}
	h.cur.Store(c)
	return nil
}

// TestMoveMidTransfer moves either end, or both, again and again while bytes flow both ways, on whole and on cut links.
func TestMoveMidTransfer(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "auth": withKey, "encrypt": encrypt} {
		for _, tc := range []struct {
			name                string
			client, server, cut bool
		}{
			{"/client", true, false, false}, {"/server", false, true, false}, {"/both", true, true, false}, {"/both, cut", true, true, true},
		} {
			t.Run(name+tc.name, func(t *testing.T) {
				r := newRig(t, change, func(cfg *sockemu.Config) { cfg.SendBuffer, cfg.RecvBuffer = 512<<10, 256<<10 })
				a, b := r.pair()
				c, s := newHolder(t, a), newHolder(t, b)
				const size = 6 << 20
				var g errgroup.Group
				var got [2]atomic.Int64
				for i, x := range []*holder{c, s} {
					g.Go(func() error {
						if _, err := x.Write(random(uint64(i), size)); err != nil {
							return err
						}
						return x.closeWrite()
					})
					g.Go(func() error {
						b, err := io.ReadAll(&counted{&slow{r: x, every: 256 << 10, pause: 10 * time.Millisecond}, &got[i]})
						if err == nil {
							err = compare(random(uint64(1-i), size), b)
						}
						if err != nil {
							err = fmt.Errorf("read by %s: %w; %v", []string{"client", "server"}[i], err, x.cur.Load().Explain())
						}
						return err
					})
				}
				if tc.cut {
					defer r.cutting()()
				}
				addr := r.l.Addr().String()
				l := r.l
				for n := range int64(4) {
					eventually(t, "progress", func() bool { return min(got[0].Load(), got[1].Load()) > n*size/5 })
					if tc.client {
						require.NoError(t, c.move(newEndpoint(t, r.clientConfig())))
					}
					if tc.server {
						next := newEndpoint(t, r.cfg)
						require.NoError(t, l.Free())
						l = listenAgain(t, next, addr)
						require.NoError(t, s.move(next))
					}
				}
				require.NoError(t, g.Wait())
				for _, x := range []*holder{c, s} {
					require.NoError(t, x.cur.Load().Close())
				}
			})
		}
	}
}

// compare says where got is not sent, and where what stands there stands in sent.
func compare(sent, got []byte) error {
	if bytes.Equal(sent, got) {
		return nil
	}
	at := 0
	for at < min(len(sent), len(got)) && sent[at] == got[at] {
		at++
	}
	return fmt.Errorf("%d bytes sent, %d read; they differ from %d on, where those sent at %d were read", len(sent), len(got), at, bytes.Index(sent, got[at:min(at+16, len(got))]))
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// clientConfig is for another endpoint on the client's side.
func (r *rig) clientConfig() sockemu.Config {
	cfg := r.cfg
	cfg.TCP.Dialer = &net.Dialer{Control: r.wall.control}
	return cfg
}

func TestExportEndsBlockedCalls(t *testing.T) {
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change, func(cfg *sockemu.Config) { cfg.SendBuffer = 64 << 10 })
			c, _ := r.pair()
			errs := make(chan error, 2)
			go func() {
				_, err := c.Read(make([]byte, 1))
				errs <- err
			}()
			go func() {
				_, err := c.Write(make([]byte, 32<<20))
				errs <- err
			}()
			eventually(t, "blocked", func() bool { return c.Stats().Unacked == 64<<10 })
			_, err := c.Export(t.Context())
			require.NoError(t, err)
			for range 2 {
				require.ErrorIs(t, <-errs, sockemu.ErrExported)
			}
			_, err = c.Export(t.Context())
			require.ErrorIs(t, err, sockemu.ErrExported)
		})
	}
}

func TestImportErrors(t *testing.T) {
	for name, change := range map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "auth": withKey} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			c, s := r.pair()
			roundTrip(t, c, s, "hello")
			_, err := c.Write(random(1, 100_000))
			require.NoError(t, err)
			_, err = s.Write(random(1, 1000))
			require.NoError(t, err)
			state, err := c.Export(t.Context())
			require.NoError(t, err)
			e := newEndpoint(t, r.clientConfig())
			try := func(b []byte, want ...error) {
				t.Helper()
				_, err := e.Import(t.Context(), b)
				for _, w := range want {
					if errors.Is(err, w) {
						return
					}
				}
				t.Errorf("%v, not %v", err, want)
			}
			try(nil, sockemu.ErrStateDamaged)
			try([]byte("nonsense"), sockemu.ErrStateDamaged)
			for n := 0; n < len(state); n += 1 + n/20 {
				try(state[:n], sockemu.ErrStateDamaged)
			}
			try(append(bytes.Clone(state), 0), sockemu.ErrStateDamaged)
			for n := 0; n < len(state); n += 1 + n/20 {
				b := bytes.Clone(state)
				b[n] ^= 0x10
				try(b, sockemu.ErrStateDamaged, sockemu.ErrStateVersion)
			}
			b := bytes.Clone(state)
			b[8] = 200
			try(b, sockemu.ErrStateVersion)
			_, err = newEndpoint(t, quick(func(cfg *sockemu.Config) { cfg.ClusterKey = []byte("other") })).Import(t.Context(), state)
			require.ErrorIs(t, err, sockemu.ErrStateDamaged)
			_, err = newEndpoint(t, quick(change, encrypt)).Import(t.Context(), state)
			require.Error(t, err, "a connection in clear where everything is to be encrypted")
			// Nothing of that has used it up.
			n, err := e.Import(t.Context(), state)
			require.NoError(t, err)
			try(state, sockemu.ErrStateReplayed)
			got := make([]byte, 100_000)
			_, err = io.ReadFull(s, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(random(1, 100_000), got))
			_, err = io.ReadFull(n, got[:1000])
			require.NoError(t, err)
			require.True(t, bytes.Equal(random(1, 1000), got[:1000]))
		})
	}
}

// TestSecondHolderIsFenced: a state that is imported twice, in two processes, makes one connection, not two.
func TestSecondHolderIsFenced(t *testing.T) {
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			c, s := r.pair()
			roundTrip(t, c, s, "hello")
			state, err := c.Export(t.Context())
			require.NoError(t, err)
			first, err := newEndpoint(t, r.clientConfig()).Import(t.Context(), state)
			require.NoError(t, err)
			roundTrip(t, first, s, "the first holder")
			second, err := newEndpoint(t, r.clientConfig()).Import(t.Context(), state)
			require.NoError(t, err)
			second.SetDeadline(time.Now().Add(patience))
			_, err = second.Read(make([]byte, 1))
			require.ErrorIs(t, err, sockemu.ErrFenced)
			_, err = second.Write([]byte("x"))
			require.ErrorIs(t, err, sockemu.ErrFenced)
			roundTrip(t, first, s, "still the first holder")
			r.relay.CutAll()
			roundTrip(t, first, s, "after a cut, too")
		})
	}
}

// TestRestartedServer: a server that was killed and started again knows nothing of its connections.
func TestRestartedServer(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		for _, tc := range []struct {
			name            string
			orderly, direct bool
		}{{"/orderly", true, true}, {"/killed", false, true}, {"/orderly, relay only", true, false}, {"/killed, relay only", false, false}} {
			t.Run(name+tc.name, func(t *testing.T) {
				orderly := tc.orderly
				r := newRig(t, change, func(cfg *sockemu.Config) { cfg.GoneAfter, cfg.Patience = 300*time.Millisecond, patience })
				c, s := r.pair()
				roundTrip(t, c, s, "hello")
				acked(t, c, s)
				if !orderly {
					r.relay.Outage(patience) // nothing that the old process says on its way out arrives
					down(t, c, s)
					_, err := c.Write(make([]byte, 1234))
					require.NoError(t, err)
				}
				require.NoError(t, r.server.Close())
				l := listenAgain(t, newEndpoint(t, r.cfg), r.l.Addr().String())
				if tc.direct {
					r.wall.allow(r.relay.Addr(), r.l.Addr().String())
				}
				r.relay.Refuse(0)
				start := time.Now()
				c.SetReadDeadline(start.Add(patience))
				_, err := c.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				if !orderly {
					require.ErrorIs(t, err, sockemu.ErrPeerGone)
					var end *sockemu.EndError
					require.ErrorAs(t, err, &end)
					require.Equal(t, uint64(1234), end.Unacked)
				}
				require.Less(t, time.Since(start), patience/2)
				_, err = c.Write([]byte("x"))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				c, s = pair(t, r.client, r.relay.Addr(), l)
				roundTrip(t, c, s, "a new connection works")
			})
		}
	}
}

// A balanced rig has two servers behind a load balancer.
type balanced struct {
	*rig
	other  *sockemu.Listener // of the second server
	inTurn atomic.Bool       // else only the first connection gets to the first server
}

func newBalanced(t testing.TB, change ...func(*sockemu.Config)) *balanced {
	t.Helper()
	b := &balanced{rig: newRig(t, change...)}
	second := newEndpoint(t, b.cfg)
	b.servers = append(b.servers, second)
	var err error
	b.other, err = second.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	targets := [2]string{b.l.Addr().String(), b.other.Addr().String()}
	lb, err := relay.StartFunc(func(n uint64) string {
		if b.inTurn.Load() {
			return targets[n%2]
		}
		return targets[min(n, 1)]
	})
	require.NoError(t, err)
	t.Cleanup(func() { lb.Close() })
	b.relay.Close()
	b.relay = lb
	b.wall.allow(lb.Addr())
	return b
}

func TestLoadBalancer(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		for _, direct := range []bool{false, true} {
			t.Run(name+map[bool]string{false: "/no direct address", true: "/direct address"}[direct], func(t *testing.T) {
				r := newBalanced(t, change)
				if direct {
					r.wall.allow(r.relay.Addr(), r.l.Addr().String(), r.other.Addr().String())
				}
				c, s := r.pair() // the control channel gets to the second server
				roundTrip(t, c, s, "hello")
				control, mode := "in-band", "record"
				if direct {
					control, mode = "channel", "bare"
				}
				if name == "encrypt" {
					control, mode = "in-band", "sealed"
				}
				eventually(t, "control "+control, func() bool {
					x := c.Stats()
					return x.Control == control && x.Mode == mode
				})
				x := c.Explain().String()
				if control == "in-band" && name == "plain" {
					require.Contains(t, x, "framed")
					require.Contains(t, x, "load balancer")
				}
				r.inTurn.Store(true)
				var g errgroup.Group
				g.Go(func() error { return echo(s) })
				want := random(1, 8<<20)
				defer r.cutting()()
				g.Go(func() error {
					if _, err := io.Copy(c, &slow{r: bytes.NewReader(want), every: len(want) / 8, pause: pace * 40 * time.Millisecond}); err != nil {
						return err
					}
					return c.CloseWrite()
				})
				got, err := io.ReadAll(c)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
				require.NoError(t, g.Wait())
				require.NotZero(t, c.Stats().Cuts, "%v %+v", c.Explain(), r.relay.Stats())
			})
		}
	}
}

// TestManyThroughLoadBalancer: connections to both servers work side by side.
func TestManyThroughLoadBalancer(t *testing.T) {
	r := newBalanced(t, func(cfg *sockemu.Config) { cfg.GoneAfter = patience })
	r.inTurn.Store(true)
	var g errgroup.Group
	for _, l := range []*sockemu.Listener{r.l, r.other} {
		go func() {
			for {
				s, err := l.AcceptConn()
				if err != nil {
					return
				}
				go func() { echo(s); s.Close() }()
			}
		}()
	}
	defer r.cutting()()
	for i := range uint64(8) {
		g.Go(func() error {
			c, err := r.DialContext(t.Context(), "", "")
			if err != nil {
				return err
			}
			defer c.Close()
			want := random(i, 1<<20)
			g.Go(func() error {
				if _, err := io.Copy(c, &slow{r: bytes.NewReader(want), every: len(want) / 8, pause: pace * 40 * time.Millisecond}); err != nil {
					return err
				}
				return c.(*sockemu.Conn).CloseWrite()
			})
			got, err := io.ReadAll(c)
			if err == nil && !bytes.Equal(want, got) {
				err = errors.New("the bytes differ")
			}
			return err
		})
	}
	require.NoError(t, g.Wait())
}

// TestOnlyOthersAnswer: behind a load balancer only processes answer that don't have the connection. It ends, and says what is lost.
func TestOnlyOthersAnswer(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		for _, direct := range []string{"filtered", "refused"} {
			t.Run(name+"/direct address "+direct, func(t *testing.T) {
				r := newBalanced(t, change, func(cfg *sockemu.Config) { cfg.GoneAfter, cfg.Patience = 300*time.Millisecond, patience })
				c, s := r.pair()
				roundTrip(t, c, s, "hello")
				acked(t, c, s)
				eventually(t, "in-band", func() bool { return c.Stats().Control == "in-band" })
				r.relay.Outage(patience)
				down(t, c)
				if direct == "refused" {
					require.NoError(t, r.server.Close())
					r.wall.allow(r.relay.Addr(), r.l.Addr().String())
				}
				_, err := c.Write(make([]byte, 4321))
				require.NoError(t, err)
				r.relay.Refuse(0)
				start := time.Now()
				_, err = c.Read(make([]byte, 1))
				require.ErrorIs(t, err, sockemu.ErrPeerGone)
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.Less(t, time.Since(start), patience/2)
				var end *sockemu.EndError
				require.ErrorAs(t, err, &end)
				require.Equal(t, uint64(4321), end.Unacked)
				require.Contains(t, err.Error(), "4321 bytes unacknowledged")
			})
		}
	}
}
