package endpoint

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// fakeTrack is a path whose round trips, in a bubble's time, take rtt and what load adds, and whose trains take perByte ns a byte more, and load.
func fakeTrack(rtt time.Duration, perByte float64, load func(n int) time.Duration) *track {
	l := &track{perByte: math.Inf(1), next: probePiece, close: func() {}, renew: func() {}, slow: rtt > slowPath}
	l.ask = func(_ wire.ProbeOp, n, _ int) (time.Duration, error) {
		d := rtt + time.Duration(float64(n)*perByte) + load(n)
		time.Sleep(d)
		return d, nil
	}
	return l
}

func noLoad(int) time.Duration { return 0 }

// TestTrains: neither memory that is touched for the first time, nor a moment in which the machine is busy, nor a slow path makes the
// measurement wrong or long.
func TestTrains(t *testing.T) {
	train := func(rtt time.Duration, perByte float64, load func(n int) time.Duration) (l *track, took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			l = fakeTrack(rtt, perByte, load)
			start := time.Now()
			measure([]*track{l}, nil)
			took = time.Since(start)
		})
		return l, took
	}
	const rtt = 100 * time.Microsecond
	l, _ := train(rtt, .2, noLoad)
	require.InEpsilon(t, .2, l.perByte, .05)
	require.Equal(t, probeTrains, l.trained)

	touched := 0
	l, _ = train(10*time.Microsecond, .1, func(n int) time.Duration { // a ring of 2 MiB, whose pages cost four times as much
		if n <= probePing || touched > 2<<20 {
			return 0
		}
		touched += n
		return time.Duration(float64(n) * .4)
	})
	require.InEpsilon(t, .1, l.perByte, .05)

	n := 0
	l, took := train(10*time.Microsecond, .1, func(int) time.Duration { // every other time slice is somebody else's
		if n++; n%2 == 0 {
			return 4 * time.Millisecond
		}
		return 0
	})
	require.InEpsilon(t, .1, l.perByte, .05)
	require.Less(t, took, 80*time.Millisecond)

	l, took = train(rtt, 8000, noLoad) // 1 Mb/s
	require.InEpsilon(t, 8000, l.perByte, .01)
	require.Equal(t, 1, l.trained)
	require.Less(t, took, time.Second)

	l, took = train(200*time.Millisecond, 50, noLoad)
	require.NoError(t, l.err)
	require.Less(t, took, probeTime)
	require.GreaterOrEqual(t, len(l.pings), 2)
}

// TestFarPaths: however long round trips take, and however slow a path is, it is no path that fails, as long as each answer comes in time; one that
// loses large packets does fail.
func TestFarPaths(t *testing.T) {
	const lost = time.Hour
	for name, c := range map[string]struct {
		rtt     time.Duration
		perByte float64
		load    func(n int) time.Duration
		fails   string
	}{
		"a satellite":         {rtt: 800 * time.Millisecond, perByte: 50, load: noLoad},
		"a satellite, slowly": {rtt: 800 * time.Millisecond, perByte: 8000, load: noLoad},
		"1 Mb/s":              {rtt: 20 * time.Millisecond, perByte: 8000, load: noLoad},
		"a modem":             {rtt: 150 * time.Millisecond, perByte: 140_000, load: noLoad},
		"large packets are lost": {rtt: 20 * time.Millisecond, perByte: 50, fails: "large packets", load: func(n int) time.Duration {
			if n > 1000 {
				return lost
			}
			return 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, start := farTrack(c.rtt, c.perByte, c.load), time.Now()
				l.pings = []time.Duration{c.rtt} // openTrack's
				measure([]*track{l}, nil)
				require.Less(t, time.Since(start), 3*probeTime)
				if c.fails != "" {
					require.ErrorContains(t, l.err, c.fails)
					return
				}
				require.NoError(t, l.err)
				m := l.outcome(false).m
				require.InDelta(t, c.rtt+time.Duration(probePing*c.perByte), m.Cost.RTT, float64(time.Millisecond))
				least := c.rtt / 4 / probePiece // what is less than a quarter of the train's time isn't trusted
				require.GreaterOrEqual(t, m.Cost.PerByte, max(c.perByte/2, float64(least)))
				require.LessOrEqual(t, m.Cost.PerByte, max(2*c.perByte, float64(probeTime)/probePiece))
			})
		})
	}
}

// farTrack is a slow fakeTrack whose answers have the time that links have.
func farTrack(rtt time.Duration, perByte float64, load func(n int) time.Duration) *track {
	l := fakeTrack(rtt, perByte, load)
	var end time.Time
	l.renew = func() { end = time.Now().Add(probeTime) }
	l.renew()
	l.ask = func(_ wire.ProbeOp, n, _ int) (time.Duration, error) {
		d, left := rtt+time.Duration(float64(n)*perByte)+load(n), time.Until(end)
		if d > left {
			time.Sleep(left)
			return 0, unansweredProbe{n, context.DeadlineExceeded}
		}
		time.Sleep(d)
		return d, nil
	}
	return l
}

// TestTurns: what hits both paths cancels, how ever the hits fall, and the whole is over in time.
func TestTurns(t *testing.T) {
	for name, load := range map[string]func(rng *rand.Rand) func(int) time.Duration{
		"none": func(*rand.Rand) func(int) time.Duration { return noLoad },
		"time slices of others": func(rng *rand.Rand) func(int) time.Duration {
			return func(int) time.Duration {
				if rng.Float64() < .25 {
					return 4 * time.Millisecond
				}
				return 0
			}
		},
		"a dialogue in between": func(*rand.Rand) func(int) time.Duration {
			return func(int) time.Duration { return 10 * time.Microsecond }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for seed := range uint64(20) {
					load := load(rand.New(rand.NewPCG(seed, 1)))
					a, b := fakeTrack(10*time.Microsecond, .1, load), fakeTrack(5*time.Microsecond, .1, load)
					start := time.Now()
					measure([]*track{a, b}, nil)
					require.Less(t, time.Since(start), 150*time.Millisecond)
					ma, mb := a.outcome(true).m, b.outcome(true).m
					require.True(t, ma.OK() && mb.OK())
					require.Len(t, mb.Turns, len(ma.Turns))
					require.GreaterOrEqual(t, len(ma.Turns), leastTurns)
					require.Equal(t, 5*time.Microsecond, ma.Cost.RTT-mb.Cost.RTT)
				}
			})
		})
	}
}

// TestTurnsAfterFailure: a path that breaks while it is measured with others leaves them theirs.
func TestTurnsAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := fakeTrack(10*time.Microsecond, .1, noLoad), fakeTrack(5*time.Microsecond, .1, noLoad)
		good, n := b.ask, 0
		broken := &substrate.Error{Op: "recv", Class: substrate.PathDown, Err: errors.New("gone")}
		b.ask = func(op wire.ProbeOp, size, back int) (time.Duration, error) {
			if n++; n > 20 {
				return 0, broken
			}
			return good(op, size, back)
		}
		measure([]*track{a, b}, nil)
		ma, mb := a.outcome(true).m, b.outcome(true).m
		require.True(t, ma.OK())
		require.InDelta(t, 10*time.Microsecond, ma.Cost.RTT, 100)
		require.Equal(t, substrate.PathDown, mb.Class)
		require.Contains(t, mb.Reason, "gone")
	})
}

// TestTurnsWithSilence: a path that falls silent while it is measured with others takes none of their time.
func TestTurnsWithSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bounded := func(l *track) *track { // by probeTime, as links are
			good, end := l.ask, time.Time{}
			l.renew = func() { end = time.Now().Add(probeTime) }
			l.renew()
			l.ask = func(op wire.ProbeOp, size, back int) (time.Duration, error) {
				d, err := good(op, size, back)
				if !time.Now().Before(end) {
					err = context.DeadlineExceeded
				}
				return d, err
			}
			return l
		}
		n := 0
		a, b := bounded(fakeTrack(10*time.Microsecond, .1, noLoad)), bounded(fakeTrack(5*time.Microsecond, .1, func(int) time.Duration {
			if n++; n == 20 {
				return probeTime
			}
			return 0
		}))
		measure([]*track{a, b}, nil)
		require.True(t, a.outcome(true).m.OK(), a.err)
		require.ErrorIs(t, b.err, context.DeadlineExceeded)
	})
}

// TestSilentPathKeepsNobodyWaiting: of three networks one swallows everything. The connection is on the fastest at once all the same.
func TestSilentPathKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, fast, silent := fault.New(fault.Config{Name: "base"}), fault.New(fault.Config{Name: "fast"}), fault.New(fault.Config{Name: "silent"})
		base.All().Shape(fault.Both, fault.Shape{Delay: time.Millisecond})
		fast.All().Shape(fault.Both, fault.Shape{Delay: 100 * time.Microsecond})
		silent.All().Shape(fault.Both, fault.Shape{Delay: time.Hour})
		mk := func(host string) *Endpoint {
			return New(Config{
				Substrate: base.Host(host), NoSharing: true, NoWatch: true,
				Others: []Other{{Substrate: silent.Host(host), Listen: host + ":0"}, {Substrate: fast.Host(host), Listen: host + ":0"}},
			})
		}
		ea, eb := mk("a"), mk("b")
		t.Cleanup(func() {
			for _, c := range []interface{ Close() error }{ea, eb} {
				c.Close()
			}
			base.Close()
			fast.Close()
			silent.Close()
		})
		_, err := eb.Listen(t.Context(), "b:1", Plain{})
		require.NoError(t, err)
		s, err := ea.Dial(t.Context(), "b:1", 0)
		require.NoError(t, err)
		start := time.Now()
		for on(s) != "fast" {
			require.Less(t, time.Since(start), 200*time.Millisecond)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * probeTime)
		w, ok := ea.Why(s)
		require.True(t, ok)
		for _, c := range w.Report.Candidates {
			require.Equal(t, c.Substrate != "silent", c.OK, "%s: %s", c.Path, c.Reason)
		}
	})
}

// TestLongWay: a path whose round trips take a fifth of a second can be measured.
func TestLongWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := fault.New(fault.Config{Name: "base"})
		ea, eb := New(Config{Substrate: base.Host("a"), NoSharing: true, NoWatch: true}), New(Config{Substrate: base.Host("b"), NoSharing: true, NoWatch: true})
		t.Cleanup(func() {
			ea.Close()
			eb.Close()
			base.Close()
		})
		_, err := eb.Listen(t.Context(), "b:1", Plain{})
		require.NoError(t, err)
		base.All().Shape(fault.Both, fault.Shape{Delay: 100 * time.Millisecond})
		p := ea.NewProber("b:1")
		require.NoError(t, p.Probe(t.Context()))
		r := p.Report(selector.StartWeights, nil)
		require.True(t, r.Candidates[0].OK, r.Candidates[0].Reason)
		require.InDelta(t, 200*time.Millisecond, time.Duration(r.Candidates[0].Cost.RTT), float64(time.Millisecond))
	})
}

// TestLooks: a machine that is quiet is measured to the end of the turns before anybody looks; on a busy one it is looked after each, and what is
// enough ends the round there.
func TestLooks(t *testing.T) {
	type call struct {
		turns int
		late  bool
	}
	for name, c := range map[string]struct {
		ping  time.Duration
		until int // turns after which it is enough
		want  []call
	}{
		"quiet":             {10 * time.Microsecond, 0, []call{{probeTurns, false}}},
		"busy, clear":       {3 * time.Millisecond, 0, []call{{2, false}}},
		"busy, clear later": {3 * time.Millisecond, 3, []call{{2, false}, {3, false}}},
		"busy, never clear": {3 * time.Millisecond, 99, []call{{2, false}, {3, false}, {4, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := fakeTrack(c.ping, .1, noLoad), fakeTrack(c.ping, .1, noLoad)
				var calls []call
				measure([]*track{a, b}, func(late bool) bool {
					calls = append(calls, call{len(a.turns), late})
					require.NotEmpty(t, b.outcome(true).m.Turns)
					return len(a.turns) >= c.until
				})
				require.Equal(t, c.want, calls)
				if c.until < 99 {
					require.Zero(t, a.trained)
					require.Zero(t, b.trained)
					require.InDelta(t, c.ping, b.outcome(true).m.Cost.RTT, 1e3)
				} else {
					require.GreaterOrEqual(t, a.trained, leastTrains)
				}
			})
		})
	}
}

// ends is a link of which nothing is known but its addresses.
type ends struct {
	substrate.Link
	local, remote string
}

func (l ends) LocalAddr() net.Addr  { return text(l.local) }
func (l ends) RemoteAddr() net.Addr { return text(l.remote) }

type text string

func (text) Network() string  { return "text" }
func (a text) String() string { return string(a) }

// oneHost is a substrate that doesn't leave it.
type oneHost struct{ substrate.Substrate }

func (oneHost) Caps() substrate.Caps { return substrate.Caps{SameHost: true} }

// TestNear: on one host a slow round trip is the machine's fault.
func TestNear(t *testing.T) {
	n := fault.New(fault.Config{Name: "base"})
	defer n.Close()
	host := n.Host("a")
	for _, c := range []struct {
		local, remote string
		want          bool
	}{
		{"127.0.0.1:1", "127.0.0.1:2", true},
		{"10.0.0.1:1", "10.0.0.1:2", true},
		{"[::1]:1", "[::1]:2", true},
		{"10.0.0.1:1", "10.0.0.2:1", false},
		{"a:1", "a:2", false},
		{"", "", false},
	} {
		require.Equal(t, c.want, near(host, ends{local: c.local, remote: c.remote}), "%v", c)
	}
	require.True(t, near(oneHost{}, ends{}))
}
