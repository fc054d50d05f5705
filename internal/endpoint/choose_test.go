package endpoint

import (
	"context"
	"errors"
	"fmt"
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

// roads is a connection between two processes that two networks join: "base", on which it begins, and "fast".
type roads struct {
	base, fast *fault.Network
	ea, eb     *Endpoint
	a, b       *session.Session
}

func newRoads(t *testing.T, cfg Config, fast fault.Config) *roads {
	r := buildRoads(cfg, fast)
	r.connect(t)
	return r
}

// buildRoads is newRoads without the connection.
func buildRoads(cfg Config, fast fault.Config) *roads {
	fast.Name = "fast"
	r := &roads{base: fault.New(fault.Config{Seed: 1, Name: "base"}), fast: fault.New(fast)}
	r.base.All().Shape(fault.Both, fault.Shape{Delay: 2 * time.Millisecond})
	r.fast.All().Shape(fault.Both, fault.Shape{Delay: 100 * time.Microsecond})
	cfg.NoSharing, cfg.NoWatch = true, true
	ca, cb := cfg, cfg
	ca.Substrate, cb.Substrate = r.base.Host("a"), r.base.Host("b")
	ca.Others = []Other{{Substrate: r.fast.Host("a"), Listen: "a:0"}}
	cb.Others = []Other{{Substrate: r.fast.Host("b"), Listen: "b:0"}}
	r.ea, r.eb = New(ca), New(cb)
	return r
}

// connect makes the connection from a to b.
func (r *roads) connect(t *testing.T) {
	t.Cleanup(func() {
		r.ea.Close()
		r.eb.Close()
		r.base.Close()
		r.fast.Close()
	})
	l, err := r.eb.Listen(t.Context(), "b:1", Plain{})
	require.NoError(t, err)
	r.a, err = r.ea.Dial(t.Context(), "b:1", 0)
	require.NoError(t, err)
	acc, err := l.Accept()
	require.NoError(t, err)
	r.b = acc.Session
}

func on(s *session.Session) string {
	name, _, _ := s.Link()
	return name
}

// until waits, in a bubble, until the connection is on a substrate at both ends.
func (r *roads) until(t *testing.T, name string, most time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	for on(r.a) != name || on(r.b) != name {
		require.Less(t, time.Since(start), most, "a on %q, b on %q\n%s", on(r.a), on(r.b), r.why())
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

func (r *roads) why() string { return r.whyOf(r.a) }

func (r *roads) whyOf(s *session.Session) (text string) {
	w, _ := r.ea.Why(s)
	for _, d := range w.Decisions {
		text += d.At.Format("15:04:05.000 ") + d.String() + "\n"
	}
	for _, e := range s.Snapshot().Events {
		text += e.At.Format("15:04:05.000 ") + e.What + "\n"
	}
	return text
}

// talk runs chatter in the background; the returned function ends it.
func (r *roads) talk() func() error {
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- chatter(r.a, r.b, 3000, time.Millisecond, stop) }()
	return func() error { close(stop); return <-done }
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, seal := range []bool{false, true} {
		t.Run(fmt.Sprintf("seal=%v", seal), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoads(t, Config{Session: session.Config{Seal: seal}}, fault.Config{Seed: 2})
				require.Equal(t, "base", on(r.a), "usable at once")
				end := r.talk()
				r.until(t, "fast", 400*time.Millisecond)

				// The path breaks: the connection goes on elsewhere, at once.
				r.fast.Refuse("b", true)
				r.fast.CutAll()
				r.until(t, "base", 100*time.Millisecond)
				time.Sleep(5 * time.Second)
				require.Equal(t, "base", on(r.a))

				// It comes back, and is used again after it has proved itself.
				r.fast.Refuse("b", false)
				r.until(t, "fast", 70*time.Second)
				require.NoError(t, end())
				n := r.a.Snapshot()
				require.EqualValues(t, 2, n.Moved, "%s", r.why())
				require.EqualValues(t, 1, n.Lost)
			})
		})
	}
}

// TestSisterPathIsSilentToo: what ends one path of a substrate makes another one hang, that would be preferred. It costs no time.
func TestSisterPathIsSilentToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &roads{base: fault.New(fault.Config{Seed: 1, Name: "base"}), fast: fault.New(fault.Config{Seed: 2, Name: "fast"})}
		r.base.All().Shape(fault.Both, fault.Shape{Delay: 2 * time.Millisecond})
		policy, err := selector.ParsePolicy("prefer:fast")
		require.NoError(t, err)
		cfg := Config{NoSharing: true, NoWatch: true, Policy: func(string) selector.Policy { return policy }}
		ca, cb := cfg, cfg
		ca.Substrate, cb.Substrate = r.base.Host("a"), r.base.Host("b")
		ca.Others = []Other{{Substrate: r.fast.Host("a"), Listen: "a:0"}}
		fast := r.fast.Host("b")
		cb.Others = []Other{{Substrate: fast, Listen: "b:0"}, {Substrate: fast, Listen: "b:0"}}
		r.ea, r.eb = New(ca), New(cb)
		r.connect(t)
		end := r.talk()
		r.until(t, "fast", time.Second)
		time.Sleep(10 * time.Second) // both have been measured
		r.fast.All().Blackhole(fault.Both, true)
		r.fast.CutAll()
		require.Less(t, r.until(t, "base", time.Second), raceFrom)
		require.NoError(t, end())
	})
}

// TestSwitches: many moves, in both directions, at any moment of a busy connection, over links of every kind, some of which break
// meanwhile.
func TestSwitches(t *testing.T) {
	t.Parallel()
	for name, fast := range map[string]fault.Config{"plain": {Seed: 3}, "keeps": {Seed: 4, Keeps: true}, "gathers": {Seed: 6, Keeps: true, Gather: 4096}, "retains": {Seed: 5, Retains: true}} {
		for _, seal := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/seal=%v", name, seal), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := newRoads(t, Config{Session: session.Config{Seal: seal}}, fast)
					end := r.talk()
					r.until(t, "fast", 400*time.Millisecond)
					n, moved := fewer(1000, 80), 0
					for i := range n {
						time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
						to := "fast"
						if on(r.a) == "fast" {
							to = "base"
						}
						if i%10 == 9 {
							r.fast.CutAll()
						}
						if r.moveTo(to) == nil {
							moved++
						}
					}
					require.NoError(t, end())
					require.Greater(t, moved, n/2)
				})
			})
		}
	}
}

// moveTo moves the connection by force.
func (r *roads) moveTo(name string) error {
	r.ea.mu.Lock()
	c := r.ea.sessions[endOf(r.a)].choice
	r.ea.mu.Unlock()
	w, _ := r.ea.Why(r.a)
	for _, k := range w.Report.Candidates {
		if k.Substrate == name {
			before := r.a.Snapshot().Moved
			c.move(c.p, selector.Decision{To: k.Path, Action: selector.Switch, Cause: selector.CauseFaster}, nil)
			if r.a.Snapshot().Moved == before {
				return session.ErrNotNow
			}
			return nil
		}
	}
	return errors.New("no such candidate")
}

func TestPins(t *testing.T) {
	pin := func(text string) func(string) selector.Policy {
		p, err := selector.ParsePolicy(text)
		require.NoError(t, err)
		return func(string) selector.Policy { return p }
	}
	for name, c := range map[string]struct {
		a, b string
		want string // where it ends up, or
		err  error
	}{
		"none":              {"auto", "auto", "fast", nil},
		"to the base":       {"pin:base", "auto", "base", nil},
		"to the other":      {"pin:fast", "auto", "fast", nil},
		"by the peer":       {"auto", "pin:fast", "fast", nil},
		"denied here":       {"!fast", "auto", "base", nil},
		"denied there":      {"auto", "!fast", "base", nil},
		"contradiction":     {"pin:fast", "pin:base", "", substrate.ErrConfig},
		"no choice":         {"pin:base", "pin:fast", "", substrate.ErrConfig},
		"no choice left":    {"!fast", "!base", "", substrate.ErrConfig},
		"base denied there": {"pin:base", "!base", "", substrate.ErrConfig},
		"what isn't there":  {"pin:verbs", "auto", "", substrate.ErrConfig},
		"not offered there": {"pin:fast", "!fast", "", substrate.ErrConfig},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, fast := fault.New(fault.Config{Seed: 1, Name: "base"}), fault.New(fault.Config{Seed: 2, Name: "fast"})
				base.All().Shape(fault.Both, fault.Shape{Delay: 2 * time.Millisecond})
				mk := func(host, policy string) *Endpoint {
					e := New(Config{
						Substrate: base.Host(host), Others: []Other{{Substrate: fast.Host(host), Listen: host + ":0"}},
						Policy: pin(policy), NoSharing: true, NoWatch: true,
					})
					t.Cleanup(func() { e.Close() })
					return e
				}
				ea, eb := mk("a", c.a), mk("b", c.b)
				l, err := eb.Listen(t.Context(), "b:1", Plain{})
				require.NoError(t, err)
				s, err := ea.Dial(t.Context(), "b:1", 0)
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err = ea.AwaitPolicy(ctx, s)
				if c.err != nil {
					require.ErrorIs(t, err, c.err)
					require.NoError(t, ctx.Err(), "it must not take the whole time: %v", err)
				} else {
					require.NoError(t, err)
					time.Sleep(time.Second)
					require.Equal(t, c.want, on(s))
				}
				l.Close()
				base.Close()
				fast.Close()
			})
		})
	}
}
