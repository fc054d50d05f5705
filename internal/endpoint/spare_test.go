package endpoint

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// fork is a connection that has just begun, between two processes that two networks with the given delays join. opened counts links over "fast".
func fork(t *testing.T, baseDelay, fastDelay time.Duration, seal bool) (r *roads, opened *atomic.Int32) {
	r = &roads{base: fault.New(fault.Config{Name: "base"}), fast: fault.New(fault.Config{Name: "fast", Seed: 1})}
	r.base.All().Shape(fault.Both, fault.Shape{Delay: baseDelay})
	r.fast.All().Shape(fault.Both, fault.Shape{Delay: fastDelay})
	opened = new(atomic.Int32)
	r.fast.OnLink(func(fault.Scope, string, string) { opened.Add(1) })
	mk := func(host string) *Endpoint {
		return New(Config{
			Substrate: r.base.Host(host), Others: []Other{{Substrate: r.fast.Host(host), Listen: host + ":0"}},
			Session: session.Config{Seal: seal}, NoSharing: true, NoWatch: true,
		})
	}
	r.ea, r.eb = mk("a"), mk("b")
	r.connect(t)
	return r, opened
}

// TestFirstChoiceIsShort: a new connection is on the faster path after few turns, over the link that was measured, and all of it is measured again
// soon.
func TestFirstChoiceIsShort(t *testing.T) {
	for _, seal := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r, opened := fork(t, time.Millisecond, 500*time.Microsecond, seal) // slow enough that no link over it overtakes the set-up
			end := r.talk()
			took := r.until(t, "fast", 100*time.Millisecond)
			// Handshakes of 2 ms, two turns of three pings over each.
			require.Less(t, took, 40*time.Millisecond, "%s", r.why())
			require.EqualValues(t, 1, opened.Load())
			w, _ := r.ea.Why(r.a)
			first := w.Decisions[len(w.Decisions)-1]
			for _, d := range w.Decisions {
				if d.Action == selector.Switch {
					first = d
				}
			}
			require.Equal(t, selector.CauseSight, first.Cause, "%s", r.why())
			require.Zero(t, w.Report.Candidates[0].Cost.MBPerSecond)
			time.Sleep(2 * time.Second)
			require.NoError(t, end())
			w, _ = r.ea.Why(r.a)
			require.EqualValues(t, "fast", on(r.a))
			require.NotZero(t, w.Report.Candidates[0].Cost.MBPerSecond, "%s", r.why())
			require.EqualValues(t, 2, opened.Load(), "%s", r.why())
			require.EqualValues(t, 1, r.a.Snapshot().Moved)
		})
	}
}

// TestSpareIsDropped: where the other path is no better, nothing is left of the link over which it was measured.
func TestSpareIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, opened := fork(t, 100*time.Microsecond, time.Millisecond, false)
		time.Sleep(eager + 100*time.Millisecond) // nothing is measured any more, and the peer has not given up what was left over
		synctest.Wait()
		require.Equal(t, "base", on(r.a))
		require.NotZero(t, opened.Load())
		require.Empty(t, r.eb.slots)
		r.ea.mu.Lock()
		p := r.ea.sessions[endOf(r.a)].peer
		r.ea.mu.Unlock()
		require.Nil(t, p.spare)
	})
}

// TestWhoseSpareItIs: a link that was measured for one connection is no other's, and none that isn't fit for it.
func TestWhoseSpareItIs(t *testing.T) {
	path, other := selector.Path{Substrate: "fast", Addr: "b:1"}, selector.Path{Substrate: "fast", Addr: "b:2"}
	c := &choice{}
	closed := 0
	mk := func(change func(s *spare)) *spare {
		l := &track{path: path}
		l.close = func() { closed++ }
		s := &spare{c: c, path: path, track: l}
		change(s)
		return s
	}
	s := mk(func(*spare) {})
	require.NotNil(t, s.take(c, path))
	require.Equal(t, 1, closed, "what bounded the measurement doesn't bound the connection")
	require.Nil(t, s.take(c, path), "once")
	require.Nil(t, mk(func(*spare) {}).take(&choice{}, path))
	require.Nil(t, mk(func(*spare) {}).take(c, other))
	require.Nil(t, mk(func(s *spare) { s.track.err = errors.New("broken") }).take(c, path))
	require.Nil(t, mk(func(s *spare) { s.track.alone = true }).take(c, path))
	require.Nil(t, mk(func(s *spare) { s.track = nil }).take(c, path))
	require.Nil(t, mk(func(s *spare) { s.track.close = func() { s.track.err = context.DeadlineExceeded } }).take(c, path))
	require.Nil(t, (*spare)(nil).take(c, path))
}

// TestProbesOnStandby: what may come before Go, and what may not.
func TestProbesOnStandby(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		proc, _ := s.a.Peer()
		path := s.ea.basePath("b:1")
		open := func() (substrate.Link, agreed) {
			link, _, a, err := s.ea.openTo(t.Context(), proc, path, request{
				kind: wire.KindResume, standby: true, gid: s.a.GID(), psk: resumePSK(s.a.Secret()), my: wire.Setup{Epoch: 1},
			})
			require.NoError(t, err)
			t.Cleanup(func() { link.Close() })
			return link, a
		}
		over := func(link substrate.Link) {
			t.Helper()
			_, err := link.Recv(make([]byte, 1))
			require.Error(t, err)
		}
		for _, bad := range []string{"\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x01\x00\x00\x00\x00\x00\x10\x01", "\x00\x00\x02\x00\x00\x00\xff\xff\xff\xff", "\x00\x01x", "\xff\xff"} {
			link, _ := open()
			require.NoError(t, sendAll(link, []byte(bad)))
			over(link)
		}
		// More than a probe link may cost.
		link, _ := open()
		for range probeServed / wire.MaxProbeTrain {
			_, err := ask(link, noNote, wire.ProbeTrain, wire.MaxProbeTrain, 0)
			require.NoError(t, err)
		}
		require.NoError(t, sendAll(link, append([]byte{0, 0}, wire.Probe{Op: wire.ProbeEcho}.Append(nil)...)))
		over(link)
		// Measured without an end.
		link, _ = open()
		start := time.Now()
		for {
			if _, err := ask(link, noNote, wire.ProbeEcho, 10, 10); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		require.InDelta(t, standbyTime, time.Since(start), float64(2*time.Second))
		// As it should be.
		link, a := open()
		_, err := ask(link, noNote, wire.ProbeTrain, 1<<20, 0)
		require.NoError(t, err)
		_, err = ask(link, noNote, wire.ProbeEcho, 64, 64)
		require.NoError(t, err)
		require.NoError(t, s.a.Move("base", "test", func(my wire.Setup) (session.NewLink, error) {
			return s.ea.goOver(t.Context(), s.a, path, link, a, my)
		}))
		require.EqualValues(t, 1, s.a.Snapshot().Moved)
	})
}
