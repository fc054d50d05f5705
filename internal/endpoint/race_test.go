package endpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// gates is a connection whose acceptor can be reached at three addresses, each of which can be made to lead nowhere.
type gates struct {
	*couple
	mu   sync.Mutex
	dead map[string]bool
}

func newGates(t *testing.T, nc fault.Config, cfg Config) *gates {
	g := &gates{couple: newCouple(t, nc, cfg), dead: map[string]bool{}}
	g.n.Host("void")
	g.n.Partition("a", "void")
	g.n.Route(func(from, to string) string {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.dead[to] {
			return "void:1"
		}
		return to
	})
	for _, addr := range []string{"b:2", "b:3"} {
		_, err := g.eb.Listen(t.Context(), addr, Plain{})
		require.NoError(t, err)
	}
	time.Sleep(time.Second)
	require.Equal(t, "bare", g.a.Snapshot().Mode)
	g.n.CutAll() // with the next link it learns the other addresses
	g.alive(t)
	time.Sleep(time.Second)
	_, addrs := g.a.Peer()
	require.Len(t, addrs, 3)
	return g
}

func (g *gates) kill(addrs ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range addrs {
		g.dead[a] = true
	}
}

// TestHangingPath: the first addresses of a peer that is tried swallow everything. The next ones are tried beside them; what was begun ends, and
// nothing of it stays with the peer.
func TestHangingPath(t *testing.T) {
	for _, c := range []struct {
		dead   []string
		before time.Duration
	}{
		{nil, 0}, {[]string{"b:1"}, raceFrom}, {[]string{"b:1", "b:2"}, 2 * raceFrom}, {[]string{"b:2", "b:3"}, 0},
	} {
		t.Run(fmt.Sprint(c.dead), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGates(t, fault.Config{Seed: 5}, Config{})
				before := g.eb.count.handshakes.Load()
				g.kill(c.dead...)
				start := time.Now()
				g.n.CutAll()
				g.alive(t)
				require.LessOrEqual(t, time.Since(start), c.before+10*time.Millisecond)
				time.Sleep(time.Second)
				require.Equal(t, 2, g.n.Stats().Open, "a link for data and one for control")
				require.Empty(t, g.eb.slots)
				require.Equal(t, "bare", g.a.Snapshot().Mode)
				require.LessOrEqual(t, g.eb.count.handshakes.Load()-before, uint64(2))
			})
		})
	}
}

// TestSlowPathIsOvertaken: the first path is alive, but so slow that both resumes reach the peer. One link comes of it, and neither end
// takes it for lost.
func TestSlowPathIsOvertaken(t *testing.T) {
	const far = 150 * time.Millisecond
	for name, slow := range map[string]fault.Dir{"there": fault.Forward, "back": fault.Backward, "both ways": fault.Both} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGates(t, fault.Config{Seed: 6}, Config{})
				n := 0
				g.n.OnLink(func(s fault.Scope, from, to string) {
					if n++; n == 1 { // in a network without delay dials come in order
						s.Shape(slow, fault.Shape{Delay: far})
					}
				})
				links, lost := g.a.Snapshot().Links, g.a.Snapshot().Lost
				start := time.Now()
				g.a.Switch(errors.New("the test says so"))
				g.alive(t)
				require.WithinDuration(t, start.Add(raceFrom), time.Now(), 10*time.Millisecond)
				time.Sleep(10 * time.Second)
				g.alive(t)
				for _, s := range []*session.Session{g.a, g.b} {
					require.EqualValues(t, links+1, s.Snapshot().Links)
					require.EqualValues(t, lost+1, s.Snapshot().Lost)
				}
				require.Equal(t, 2, g.n.Stats().Open)
				require.Empty(t, g.eb.slots)
			})
		})
	}
}

// TestOneOfTwoAnswersIsLost: the peer has answered over two paths, and one of them breaks before the dialer has confirmed. It was no attempt
// that failed: the other one counts.
func TestOneOfTwoAnswersIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGates(t, fault.Config{Seed: 7}, Config{})
		n := 0
		g.n.OnLink(func(s fault.Scope, from, to string) {
			switch n++; n {
			case 1:
				s.Shape(fault.Backward, fault.Shape{Delay: 200 * time.Millisecond})
			case 2:
				s.Shape(fault.Backward, fault.Shape{Delay: time.Second})
				time.AfterFunc(50*time.Millisecond, s.Cut)
			}
		})
		g.kill("b:3")
		lost := g.b.Snapshot().Lost
		start := time.Now()
		g.a.Switch(errors.New("the test says so"))
		g.alive(t)
		require.WithinDuration(t, start.Add(400*time.Millisecond), time.Now(), 10*time.Millisecond, "the answer takes 200 ms, and so do the data")
		time.Sleep(time.Second)
		require.EqualValues(t, lost+1, g.a.Snapshot().Lost)
		require.EqualValues(t, lost+1, g.b.Snapshot().Lost)
	})
}

// TestResumesOfOneNumber: a resume may be repeated over other paths as long as it is in progress, a few times, and only word for word.
func TestResumesOfOneNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{Seed: 8}, Config{})
		time.Sleep(time.Second)
		p.n.Partition("a", "b") // a's own attempts don't come through
		peer, _ := p.b.Peer()
		my := wire.Setup{Proc: peer, Epoch: 1, LinkNo: 5, Seen: 1}
		st := func(s wire.Setup) wire.Status {
			_, st := p.b.AdmitResume(s, "")
			return st
		}
		require.Equal(t, wire.StatusOK, st(my))
		require.Equal(t, wire.StatusOK, st(my))
		other := my
		other.Got = 7
		require.Equal(t, wire.StatusOvertaken, st(other))
		for range 6 {
			require.Equal(t, wire.StatusOK, st(my))
		}
		require.Equal(t, wire.StatusBusy, st(my))
		for range 8 {
			p.b.AttemptFailed(5)
		}
		require.Equal(t, wire.StatusOvertaken, st(my), "nothing came of it: the number is used")
		my.LinkNo = 6
		require.Equal(t, wire.StatusOK, st(my))
		p.b.AttemptFailed(6)
		p.n.Heal("a", "b")
		p.alive(t)
	})
}

// TestChannelOverAnotherPath: the first address that is tried for a control channel swallows everything.
func TestChannelOverAnotherPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGates(t, fault.Config{Seed: 9}, Config{})
		g.kill("b:1", "b:2")
		start := time.Now()
		g.n.CutAll()
		g.alive(t)
		for g.a.Snapshot().Mode != "bare" || !g.a.Attached() || !g.b.Attached() {
			require.Less(t, time.Since(start), time.Second)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		require.Equal(t, 2, g.n.Stats().Open)
		require.Len(t, g.eb.openChannels(), 1)
	})
}

// TestRace: who claims the link is settled once, whatever comes of it.
func TestRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Config{Substrate: fault.New(fault.Config{}).Host("a"), NoSharing: true})
		defer e.Close()
		type outcome struct {
			after time.Duration
			err   error
		}
		broken := errors.New("broken")
		run := func(most time.Duration, list ...outcome) (won int, failed []int, took time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), most)
			defer cancel()
			start := time.Now()
			r := race[int]{
				e: e, patience: func(selector.Path) time.Duration { return raceFrom },
				try: func(ctx context.Context, p selector.Path, claim func() error) (int, error) {
					o := list[p.Addr[0]-'0']
					select {
					case <-time.After(o.after):
					case <-ctx.Done():
						return 0, context.Cause(ctx)
					}
					if o.err != nil {
						return 0, o.err
					}
					return int(p.Addr[0] - '0'), claim()
				},
				failed: func(p selector.Path, err error) bool {
					failed = append(failed, int(p.Addr[0]-'0'))
					return err == broken
				},
			}
			for i := range list {
				r.paths = append(r.paths, selector.Path{Addr: fmt.Sprint(i)})
			}
			won, ok := r.run(ctx)
			if !ok {
				won = -1
			}
			return won, failed, time.Since(start)
		}
		ms, sorry := time.Millisecond, errors.New("not here")

		won, failed, took := run(time.Second, outcome{after: 5 * ms}, outcome{})
		require.Equal(t, 0, won)
		require.Empty(t, failed)
		require.Equal(t, 5*ms, took)

		won, failed, took = run(time.Second, outcome{after: time.Hour}, outcome{after: ms})
		require.Equal(t, 1, won)
		require.Equal(t, []int{0}, failed, "it had hung")
		require.Equal(t, 101*ms, took)

		won, failed, took = run(time.Second, outcome{after: 2 * ms, err: sorry}, outcome{after: ms})
		require.Equal(t, 1, won)
		require.Equal(t, []int{0}, failed)
		require.Equal(t, 3*ms, took, "the next one at once")

		won, failed, took = run(time.Second, outcome{after: 150 * ms}, outcome{after: 90 * ms})
		require.Equal(t, 0, won, "the first is no worse for the second")
		require.Empty(t, failed)
		require.Equal(t, 150*ms, took)

		won, _, took = run(time.Second, outcome{after: time.Hour}, outcome{after: ms, err: broken}, outcome{})
		require.Equal(t, -1, won, "the peer has spoken")
		require.Equal(t, 101*ms, took)

		won, failed, took = run(time.Second, outcome{after: time.Hour}, outcome{after: time.Hour})
		require.Equal(t, -1, won)
		require.Equal(t, []int{0, 1}, failed)
		require.Equal(t, time.Second, took)

		won, _, took = run(time.Second)
		require.Equal(t, -1, won)
		require.Zero(t, took)

		require.Equal(t, raceFrom, patience(0))
		require.Equal(t, 200*ms, patience(50*ms))
		require.Equal(t, raceMost, patience(time.Hour/2))
	})
}
