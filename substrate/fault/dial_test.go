package fault

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

func TestDialTakesARoundTrip(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		n.Between("a", "b").Shape(Forward, Shape{Delay: 2 * time.Second})
		n.Between("a", "b").Shape(Backward, Shape{Delay: 3 * time.Second})
		require.Equal(t, 5*time.Second, elapsed(func() { connect(t, n, ln) }))
		n.Refuse("b", true)
		require.Equal(t, 5*time.Second, elapsed(func() {
			_, err := n.Host("a").Dial(t.Context(), "b:1")
			require.ErrorIs(t, err, substrate.ErrRefused)
		}))
		n.Refuse("b", false)
		connect(t, n, ln)
	})
}

func TestDialErrors(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		h := n.Host("a")
		for address, cause := range map[string]error{"x:1": ErrNoHost, "b:0": nil, "b": nil, "b:x": nil, "b:70000": nil, "": nil} {
			_, err := h.Dial(t.Context(), address)
			require.ErrorIsf(t, err, substrate.ErrConfig, "%q", address)
			if cause != nil {
				require.ErrorIs(t, err, cause)
			}
		}
		_, err := h.Dial(t.Context(), "b:2")
		require.ErrorIs(t, err, substrate.ErrRefused)
		_, err = h.Listen(t.Context(), "b:2")
		require.ErrorIs(t, err, substrate.ErrConfig)
		require.ErrorIs(t, err, ErrNotHere)
		_, err = n.Host("b").Listen(t.Context(), ":1")
		require.ErrorIs(t, err, substrate.ErrConfig)
		require.ErrorIs(t, err, ErrInUse)
	})
}

func TestPartition(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		a, b := connect(t, n, ln)
		n.Partition("b", "a")
		send(t, a, "x")
		nothing(t, b)
		// A dial hangs until its context ends...
		require.Equal(t, time.Minute, elapsed(func() {
			_, err := n.Host("a").Dial(within(t, time.Minute), "b:1")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, substrate.ErrPathDown)
		}))
		// ...or the partition.
		time.AfterFunc(time.Hour, func() { n.Heal("a", "b") })
		require.Equal(t, time.Hour, elapsed(func() { connect(t, n, ln) }))
		recv(t, b, "x")
		// Others weren't concerned; but everybody is when a host is cut off from any.
		n.Partition("a", "b")
		_, err := n.Host("c").Dial(within(t, time.Minute), "b:1")
		require.NoError(t, err)
		n.Partition("b", "")
		_, err = n.Host("c").Dial(within(t, time.Minute), "b:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestBlackholeHangsDials(t *testing.T) {
	for _, d := range []Dir{Forward, Backward} {
		bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
			n.Between("a", "b").Blackhole(d, true)
			_, err := n.Host("a").Dial(within(t, time.Minute), "b:1")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			n.Between("a", "b").Blackhole(d, false)
			connect(t, n, ln)
		})
	}
}

func TestBacklog(t *testing.T) {
	bubble(t, Config{Backlog: 2}, func(t *testing.T, n *Network, ln substrate.Listener) {
		var links []substrate.Link
		for range 2 {
			l, err := n.Host("a").Dial(t.Context(), "b:1")
			require.NoError(t, err)
			links = append(links, l)
		}
		_, err := n.Host("a").Dial(within(t, time.Minute), "b:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, ln.Close())
		for _, l := range links {
			reset(t, l) // nobody will ever accept them
		}
	})
}

func TestListenerClosesBeforeAHangingDial(t *testing.T) {
	bubble(t, Config{Backlog: 1}, func(t *testing.T, n *Network, ln substrate.Listener) {
		_, err := n.Host("a").Dial(t.Context(), "b:1")
		require.NoError(t, err)
		errs := make(chan error)
		go func() {
			_, err := n.Host("a").Dial(t.Context(), "b:1")
			errs <- err
		}()
		synctest.Wait()
		require.NoError(t, ln.Close())
		require.ErrorIs(t, <-errs, substrate.ErrRefused)
		require.Zero(t, n.Stats().Open)
	})
}

// TestListenerClosesDuringADial: the dial is refused or its link reset, it never waits for an Accept that won't come.
func TestListenerClosesDuringADial(t *testing.T) {
	var refused, made int
	for range 30 { // which of the two is the scheduler's choice
		bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
			n.OnLink(func(Scope, string, string) { ln.Close() })
			a, err := n.Host("a").Dial(t.Context(), "b:1")
			if err != nil {
				require.ErrorIs(t, err, substrate.ErrRefused)
				refused++
				return
			}
			reset(t, a)
			made++
		})
	}
	require.Equal(t, 30, refused+made)
}

// TestDialGivesUpOnTheWayBack: the listener has a link whose dialer never knew that it was made.
func TestDialGivesUpOnTheWayBack(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		n.All().Shape(Both, Shape{Delay: time.Second})
		_, err := n.Host("a").Dial(within(t, 1500*time.Millisecond), "b:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		p, err := io.ReadAll(reader{accept(t, ln)})
		require.NoError(t, err)
		require.Empty(t, p)
	})
}

func TestLateDials(t *testing.T) {
	bubble(t, Config{ReplayDelay: time.Second}, func(t *testing.T, n *Network, ln substrate.Listener) {
		n.LateDials(1)
		require.Equal(t, time.Minute, elapsed(func() {
			_, err := n.Host("a").Dial(within(t, time.Minute), "b:1")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, substrate.ErrPathDown)
		}))
		var b substrate.Link
		require.LessOrEqual(t, elapsed(func() { b = accept(t, ln) }), time.Second)
		require.LessOrEqual(t, elapsed(func() { io.ReadAll(reader{b}) }), time.Second)
		require.EqualValues(t, 1, n.Stats().Late)
		n.LateDials(0)
		connect(t, n, ln)
	})
}

func TestDuplicateDials(t *testing.T) {
	var empty, some, resets, ends int
	for seed := range uint64(60) {
		bubble(t, Config{Seed: seed, ReplayBytes: 10, ReplayDelay: time.Second}, func(t *testing.T, n *Network, ln substrate.Listener) {
			n.DuplicateDials(1)
			a, b := connect(t, n, ln)
			sent := "0123456789abcdef"
			send(t, a, sent)
			recv(t, b, sent) // the link itself is as good as any
			var dup substrate.Link
			require.LessOrEqual(t, elapsed(func() { dup = accept(t, ln) }), time.Second)
			require.Equal(t, a.LocalAddr(), dup.RemoteAddr())
			synctest.Wait()
			replay := make([]byte, 20)
			k, err := dup.Drain(replay)
			require.NoError(t, err)
			require.LessOrEqual(t, k, 10)
			require.True(t, strings.HasPrefix(sent, string(replay[:k])))
			if k == 0 {
				empty++
			} else {
				some++
			}
			// What it is answered goes nowhere, and it ends.
			send(t, dup, "who are you?")
			require.LessOrEqual(t, elapsed(func() { _, err = io.ReadAll(reader{dup}) }), time.Second)
			if err == nil {
				ends++
			} else {
				require.ErrorIs(t, err, ErrReset)
				resets++
			}
			nothing(t, a)
			require.EqualValues(t, 1, n.Stats().Duplicates)
		})
	}
	require.Positive(t, empty)
	require.Positive(t, some)
	require.Positive(t, ends)
	require.Positive(t, resets)
}

// TestDuplicateAtAFullListener: a listener that doesn't accept isn't flooded.
func TestDuplicateAtAFullListener(t *testing.T) {
	bubble(t, Config{Backlog: 1}, func(t *testing.T, n *Network, ln substrate.Listener) {
		n.DuplicateDials(1)
		_, err := n.Host("a").Dial(t.Context(), "b:1")
		require.NoError(t, err)
		pass(time.Hour)
		require.Equal(t, 1, n.Stats().Open)
		require.Zero(t, n.Stats().Duplicates)
	})
}

func TestRoute(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		other := listen(t, n, "c:7")
		targets := []string{"b:1", "c:7"}
		n.Route(func(from, to string) string {
			require.Equal(t, "a", from)
			if to != "lb:1" {
				return to
			}
			defer func() { targets = append(targets[1:], targets[0]) }()
			return targets[0]
		})
		for _, ln := range []substrate.Listener{ln, other, ln} {
			a, err := n.Host("a").Dial(t.Context(), "lb:1")
			require.NoError(t, err)
			b := accept(t, ln)
			require.Equal(t, "lb:1", a.RemoteAddr().String())
			require.Equal(t, ln.Addr(), b.LocalAddr())
			send(t, a, "x")
			recv(t, b, "x")
		}
		_, err := n.Host("a").Dial(t.Context(), "c:7")
		require.NoError(t, err)
		n.Route(nil)
		_, err = n.Host("a").Dial(t.Context(), "lb:1")
		require.ErrorIs(t, err, ErrNoHost)
	})
}

func TestOnLink(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		links := 0
		n.OnLink(func(s Scope, from, to string) {
			require.Equal(t, "a b", from+" "+to)
			links++
			s.ResetAfter(uint64(links), Forward)
		})
		for want := 1; want < 4; want++ {
			a, b := connect(t, n, ln)
			a.Send(0, [][]byte{[]byte("12345")})
			p, err := io.ReadAll(reader{b})
			require.ErrorIs(t, err, ErrReset)
			require.Len(t, p, want)
		}
	})
}

func TestCloseNetwork(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		a, b := connect(t, n, ln)
		n.Host("nowhere")
		n.Partition("a", "nowhere")
		errs := make(chan error)
		go func() {
			_, err := ln.Accept()
			errs <- err
		}()
		go func() {
			_, err := n.Host("a").Dial(t.Context(), "nowhere:1")
			errs <- err
		}()
		synctest.Wait()
		require.NoError(t, n.Close())
		require.NoError(t, n.Close())
		require.ErrorIs(t, <-errs, net.ErrClosed)
		require.ErrorIs(t, <-errs, net.ErrClosed)
		reset(t, a)
		reset(t, b)
		_, err := n.Host("a").Dial(t.Context(), "b:1")
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = n.Host("b").Listen(t.Context(), "b:1")
		require.ErrorIs(t, err, net.ErrClosed)
		require.Zero(t, n.Stats().Open)
	})
}

func TestStats(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		send(t, a, "12345")
		recv(t, b, "123")
		require.Equal(t, Stats{Links: 1, Open: 1, BytesSent: 5, BytesRead: 3}, n.Stats())
		require.NoError(t, a.Close())
		require.Equal(t, 1, n.Stats().Open)
		require.NoError(t, b.Close())
		require.Equal(t, Stats{Links: 1, BytesSent: 5, BytesRead: 3}, n.Stats())
		n.CutAll()
		require.Zero(t, n.Stats().Cuts)
	})
}

func TestOnForeignLink(t *testing.T) {
	n := New(Config{})
	defer n.Close()
	require.Panics(t, func() { n.On(nil) })
}
