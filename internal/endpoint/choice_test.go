package endpoint

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
)

// TestNoFlapping: between two paths that are equally good and noisy, a busy connection moves at most once a minute, for an hour.
func TestNoFlapping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoads(t, Config{}, fault.Config{Seed: 7})
		rng := rand.New(rand.NewPCG(7, 7))
		noise := func() {
			for _, n := range []*fault.Network{r.base, r.fast} {
				d := time.Millisecond + time.Duration(rng.IntN(1000))*time.Microsecond
				n.All().Shape(fault.Both, fault.Shape{Delay: d, Jitter: time.Duration(rng.IntN(1000)) * time.Microsecond})
			}
		}
		noise()
		buf := make([]byte, 100)
		moved, most, total := r.a.Snapshot().Moved, uint64(0), uint64(0)
		for i := range fewer(3600, 900) { // each second some bytes; every few seconds it is another path that is the better one
			if i%7 == 0 {
				noise()
			}
			_, err := r.a.Write(buf)
			require.NoError(t, err)
			require.NoError(t, readFull(r.b, buf))
			time.Sleep(time.Second)
			if i%60 == 59 {
				now := r.a.Snapshot().Moved
				most, total, moved = max(most, now-moved), total+now-moved, now
			}
		}
		t.Logf("%d moves", total)
		require.LessOrEqual(t, most, uint64(1), "%s", r.why())
	})
}

func readFull(s *session.Session, p []byte) error {
	for n := 0; n < len(p); {
		k, err := s.Read(p[n:])
		if n += k; err != nil {
			return err
		}
	}
	return nil
}

// TestEndedChooseNoMore: a connection that has ended is remembered, but nothing is measured or decided for it; and a peer is forgotten
// when nothing needs it any more, whatever its loops were just waiting for.
func TestEndedChooseNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoads(t, Config{}, fault.Config{Seed: 2})
		r.until(t, "fast", 400*time.Millisecond)
		r.ea.mu.Lock()
		p := r.ea.sessions[endOf(r.a)].peer
		r.ea.mu.Unlock()
		closed := make(chan error, 1)
		go func() { closed <- r.b.Close() }()
		require.NoError(t, r.a.Close())
		require.NoError(t, <-closed)
		<-r.a.Done()
		synctest.Wait()
		p.mu.Lock()
		choices, choosing := len(p.choices), p.choosing
		p.mu.Unlock()
		require.Zero(t, choices)
		require.False(t, choosing, "the loop is over")
		time.Sleep(r.ea.cfg.Remember + 2*idleChannel)
		r.ea.mu.Lock()
		peers := len(r.ea.peers)
		r.ea.mu.Unlock()
		require.Zero(t, peers)
	})
}

// pinned returns two endpoints that pin the faster one of two networks between them.
func pinned(t *testing.T) (ea, eb *Endpoint) {
	pin, err := selector.ParsePolicy("pin:fast")
	require.NoError(t, err)
	base, fast := fault.New(fault.Config{Name: "base"}), fault.New(fault.Config{Name: "fast"})
	mk := func(host string) *Endpoint {
		return New(Config{
			Substrate: base.Host(host), Others: []Other{{Substrate: fast.Host(host), Listen: host + ":0"}},
			Policy: func(string) selector.Policy { return pin }, NoSharing: true, NoWatch: true,
		})
	}
	ea, eb = mk("a"), mk("b")
	t.Cleanup(func() {
		ea.Close()
		eb.Close()
		base.Close()
		fast.Close()
	})
	return ea, eb
}

// TestBusyProbes: a process that serves others just now is asked again; the path is none the worse for it.
func TestBusyProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ea, eb := pinned(t)
		for range cap(eb.probing) {
			eb.probing <- struct{}{}
		}
		time.AfterFunc(300*time.Millisecond, func() {
			for range cap(eb.probing) {
				<-eb.probing
			}
		})
		_, err := eb.Listen(t.Context(), "b:1", Plain{})
		require.NoError(t, err)
		s, err := ea.Dial(t.Context(), "b:1", 0)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.NoError(t, ea.AwaitPolicy(ctx, s))
	})
}

// TestNothingToCompare: where there is only one path, a new connection doesn't have it measured again and again.
func TestNothingToCompare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoads(t, Config{}, fault.Config{Seed: 3})
		r.fast.Refuse("b", true)
		r.fast.CutAll()
		time.Sleep(2 * eager)
		before := r.eb.count.handshakes.Load()
		for range 5 {
			_, err := r.ea.Dial(t.Context(), "b:1", 0)
			require.NoError(t, err)
			time.Sleep(eager / 5)
		}
		// Five openings, and the round or two of the usual interval.
		require.LessOrEqual(t, r.eb.count.handshakes.Load()-before, uint64(8))
	})
}

// TestMovableAtOnce: a connection that has just got a link again, after attempts that failed, can be moved.
func TestMovableAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoads(t, Config{Session: session.Config{RetryMin: time.Second}}, fault.Config{Seed: 4})
		end := r.talk()
		r.until(t, "fast", 400*time.Millisecond)
		r.base.Refuse("b", true)
		r.fast.Refuse("b", true)
		r.fast.CutAll()
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, "", on(r.a))
		r.base.Refuse("b", false)
		r.until(t, "base", 10*time.Second)
		r.fast.Refuse("b", false)
		require.NoError(t, r.moveTo("fast"))
		require.NoError(t, end())
	})
}

// TestPinIsBounded: a pin that should be possible, but is not met, is an error after a while, not a Dial that never returns.
func TestPinIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ea, eb := pinned(t)
		_, err := eb.Listen(t.Context(), "b:1", Plain{})
		require.NoError(t, err)
		for range cap(ea.moving) {
			ea.moving <- struct{}{} // others are being moved all the time
		}
		s, err := ea.Dial(t.Context(), "b:1", 0)
		require.NoError(t, err)
		start := time.Now()
		require.ErrorIs(t, ea.AwaitPolicy(t.Context(), s), substrate.ErrConfig)
		require.LessOrEqual(t, time.Since(start), 2*ea.cfg.HandshakeTimeout)
	})
}
