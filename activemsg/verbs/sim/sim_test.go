package sim

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/verbstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ends(t *testing.T, n *Network) (a, b verbstest.End) {
	open := func(name string) verbstest.End {
		d, err := n.Host(name).Open(DeviceName)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		e := verbstest.End{Device: d, Port: 1, GIDIndex: 1, Addr: netip.MustParseAddr("127.0.0.1")}
		if n.cfg.IWARP {
			e.GIDIndex = 0
		}
		return e
	}
	return open("a"), open("b")
}

// TestRules runs the rules of verbs on networks of several kinds, in real time.
func TestRules(t *testing.T) {
	for name, cfg := range map[string]Config{
		"Immediate": {},
		"Delayed":   {Seed: 1, Delay: 100 * time.Microsecond, Jitter: 200 * time.Microsecond},
		"IWARP":     {Seed: 3, IWARP: true, Delay: 50 * time.Microsecond},
		"Late":      {Seed: 2, Delay: 50 * time.Microsecond, LateWrites: true},
	} {
		t.Run(name, func(t *testing.T) {
			verbstest.Run(t, func(t *testing.T) (a, b verbstest.End) { return ends(t, New(cfg)) })
		})
	}
}

// A wire is two queue pairs in a bubble of virtual time.
type wire struct {
	net  *Network
	a, b *end
}

type end struct {
	qp           verbs.QP
	sends, recvs verbs.CQ
	region       verbs.Region
	mem          []byte
}

func newWire(t *testing.T, cfg Config, c verbs.Connection) *wire {
	w := &wire{net: New(cfg)}
	a, b := ends(t, w.net)
	w.a, w.b = newEnd(t, a.Device), newEnd(t, b.Device)
	for _, x := range [][2]*end{{w.a, w.b}, {w.b, w.a}} {
		peer := x[1].qp.(*qp)
		c.RemoteQP, c.RemoteGID, c.MTU = peer.number, peer.gid, 4096
		require.NoError(t, x[0].qp.Connect(c))
	}
	return w
}

func newEnd(t testing.TB, d verbs.Device) *end {
	e := &end{mem: make([]byte, 1<<16)}
	p, err := d.NewPD()
	require.NoError(t, err)
	e.region, err = p.Register(e.mem, verbs.LocalWrite|verbs.RemoteWrite)
	require.NoError(t, err)
	e.sends, err = d.NewCQ(16)
	require.NoError(t, err)
	e.recvs, err = d.NewCQ(16)
	require.NoError(t, err)
	e.qp, err = p.NewQP(verbs.QPConfig{SendCQ: e.sends, RecvCQ: e.recvs, SendDepth: 8, RecvDepth: 8, SGE: 1, Port: 1, GIDIndex: 1})
	require.NoError(t, err)
	return e
}

func (e *end) sge(n int) verbs.SGE {
	return verbs.SGE{Addr: address(e.mem), Len: uint32(n), LKey: e.region.LKey()}
}

func (e *end) send(t *testing.T, op verbs.Op, peer *end, n int) {
	wr := verbs.SendWR{Op: op, Flags: verbs.FlagSignaled, NumSGE: 1, RemoteAddr: address(peer.mem), RKey: peer.region.RKey()}
	wr.SGE[0] = e.sge(n)
	require.NoError(t, e.qp.Post(nil, []verbs.SendWR{wr}))
}

func (e *end) recv(t *testing.T) {
	require.NoError(t, e.qp.Post([]verbs.RecvWR{{SGE: e.sge(64)}}, nil))
}

func next(t *testing.T, c verbs.CQ) verbs.Completion {
	t.Helper()
	var into [1]verbs.Completion
	for {
		require.NoError(t, c.Arm())
		n, err := c.Poll(into[:])
		require.NoError(t, err)
		if n == 1 {
			return into[0]
		}
		require.NoError(t, c.Wait())
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{Delay: time.Second}, verbs.Connection{})
		w.b.recv(t)
		start := time.Now()
		w.a.send(t, verbs.OpSend, w.b, 8)
		next(t, w.b.recvs)
		require.Equal(t, time.Second, time.Since(start))
		next(t, w.a.sends)
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

// TestCut: no answer for so many time-outs is the end, for less it is only a delay.
func TestCut(t *testing.T) {
	const timeout = 4096 << 14 * time.Nanosecond
	for _, healed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWire(t, Config{}, verbs.Connection{Timeout: 14, Retry: 6})
			w.b.recv(t)
			w.net.Cut(w.net.Host("a"), w.net.Host("b"), true)
			start := time.Now()
			w.a.send(t, verbs.OpSend, w.b, 8)
			if healed {
				time.Sleep(5 * timeout)
				w.net.Cut(w.net.Host("a"), w.net.Host("b"), false)
			}
			c := next(t, w.a.sends)
			if healed {
				require.Equal(t, verbs.StatusOK, c.Status)
				next(t, w.b.recvs)
				return
			}
			require.Equal(t, verbs.StatusRetryExceeded, c.Status)
			require.Equal(t, 6*timeout, time.Since(start).Truncate(time.Microsecond).Round(timeout))
		})
	}
}

// TestNotReady: the sim counts what credits must prevent, and a receive that comes in time saves the message.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{}, verbs.Connection{RNRRetry: 6})
		w.a.send(t, verbs.OpSend, w.b, 8)
		time.Sleep(rnrTimer + rnrTimer/2)
		w.b.recv(t)
		require.Equal(t, verbs.StatusOK, next(t, w.a.sends).Status)
		require.EqualValues(t, 2, w.net.Stats().RNR)
	})
}

// TestLateWrites: with this seed the write stays invisible, also after its sender knows that it is done, until a receive completes.
func TestLateWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{Seed: 1, LateWrites: true}, verbs.Connection{})
		w.a.mem[0] = 1
		w.a.send(t, verbs.OpWrite, w.b, 1)
		next(t, w.a.sends)
		require.Zero(t, w.b.mem[0])
		w.b.recv(t)
		w.a.send(t, verbs.OpSend, w.b, 0)
		next(t, w.b.recvs)
		require.EqualValues(t, 1, w.b.mem[0])
	})
}

// TestReadsLate: memory that is changed before the completion was polled arrives changed.
func TestReadsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{Delay: time.Millisecond}, verbs.Connection{})
		w.b.recv(t)
		w.a.send(t, verbs.OpSend, w.b, 1)
		w.a.mem[0] = 9
		next(t, w.b.recvs)
		require.EqualValues(t, 9, w.b.mem[0])
	})
}

func TestFaultsRepeat(t *testing.T) {
	run := func(seed uint64) (all []verbs.Status) {
		synctest.Test(t, func(t *testing.T) {
			w := newWire(t, Config{Seed: seed, Fail: 0.2, Lose: 0.2, Delay: time.Millisecond, Jitter: time.Second}, verbs.Connection{Retry: 1, Timeout: 10})
			for range 8 {
				w.b.recv(t)
				w.a.send(t, verbs.OpSend, w.b, 1)
				all = append(all, next(t, w.a.sends).Status)
			}
		})
		return all
	}
	different := false
	for seed := range uint64(10) {
		require.Equal(t, run(seed), run(seed))
		different = different || run(seed)[0] != run(seed + 1)[0] || run(seed)[1] != run(seed + 1)[1]
	}
	require.True(t, different)
}

func TestEventsAndRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{}, verbs.Connection{Timeout: 10, Retry: 1})
		a := w.net.Host("a")
		d := w.a.qp.(*qp).device
		a.SetLink(false)
		e, err := d.NextEvent()
		require.NoError(t, err)
		require.Equal(t, verbs.Event{Kind: verbs.EventPortDown, Port: 1}, e)
		p, err := d.Port(1)
		require.NoError(t, err)
		require.Equal(t, verbs.PortDown, p.State)
		a.SetLink(true)
		e, err = d.NextEvent()
		require.NoError(t, err)
		require.Equal(t, verbs.EventPortUp, e.Kind)

		w.a.recv(t)
		a.Remove()
		e, err = d.NextEvent()
		require.NoError(t, err)
		require.Equal(t, verbs.EventFatal, e.Kind)
		require.Equal(t, verbs.StatusFlushed, next(t, w.a.recvs).Status)
		require.ErrorIs(t, w.a.qp.Post(nil, nil), verbs.ErrGone)
		list, err := a.Devices()
		require.NoError(t, err)
		require.Empty(t, list)
		_, err = a.Open(DeviceName)
		require.ErrorIs(t, err, verbs.ErrNoDevice)
		w.b.send(t, verbs.OpSend, w.a, 1)
		require.Equal(t, verbs.StatusRetryExceeded, next(t, w.b.sends).Status)
	})
}

func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{}, verbs.Connection{Timeout: 10, Retry: 1})
		w.net.Host("b").Kill()
		w.a.send(t, verbs.OpWrite, w.b, 1)
		require.Equal(t, verbs.StatusRetryExceeded, next(t, w.a.sends).Status)
		require.Zero(t, w.b.mem[0])
	})
}

func TestBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{}, verbs.Connection{})
		w.a.recv(t)
		w.net.Host("a").Break()
		require.Equal(t, verbs.StatusFlushed, next(t, w.a.recvs).Status)
	})
}

// TestOverrun: completions that nobody polls end the queue, and the sim says so.
func TestOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, Config{}, verbs.Connection{})
		c, err := w.a.qp.(*qp).device.NewCQ(1)
		require.NoError(t, err)
		w.a.qp.(*qp).sendCQ = c.(*cq)
		for range 2 {
			w.b.recv(t)
			w.a.send(t, verbs.OpSend, w.b, 1)
		}
		_, err = c.Poll(make([]verbs.Completion, 1))
		require.ErrorIs(t, err, errOverrun)
		require.EqualValues(t, 1, w.net.Stats().Overruns)
	})
}

// BenchmarkSend is what a message costs in here: what the layers above cost is on top of it.
func BenchmarkSend(b *testing.B) {
	n := New(Config{})
	da, _ := n.Host("a").Open(DeviceName)
	db, _ := n.Host("b").Open(DeviceName)
	x, y := newEnd(b, da), newEnd(b, db)
	px, py := x.qp.(*qp), y.qp.(*qp)
	x.qp.Connect(verbs.Connection{RemoteQP: py.number, RemoteGID: py.gid})
	y.qp.Connect(verbs.Connection{RemoteQP: px.number, RemoteGID: px.gid})
	recvs := []verbs.RecvWR{{SGE: y.sge(64)}}
	sends := []verbs.SendWR{{Flags: verbs.FlagSignaled, NumSGE: 1}}
	sends[0].SGE[0] = x.sge(64)
	var into [4]verbs.Completion
	b.ReportAllocs()
	for b.Loop() {
		y.qp.Post(recvs, nil)
		x.qp.Post(nil, sends)
		if k, _ := y.recvs.Poll(into[:]); k != 1 {
			b.Fatal("no message")
		}
		if k, _ := x.sends.Poll(into[:]); k != 1 {
			b.Fatal("no completion")
		}
	}
}
