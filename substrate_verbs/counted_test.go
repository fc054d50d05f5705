package verbs

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// A counted provider counts the calls that reach its devices.
type counted struct {
	verbs.Provider
	posts, sends, signaled, inline, pieces atomic.Int64 // calls of Post with sends, and what they posted
	returns                                atomic.Int64 // calls of Post with receives alone
	polls, spins, arms, waits              atomic.Int64
}

type (
	countedDevice struct {
		verbs.Device
		c *counted
	}
	countedPD struct {
		verbs.PD
		c *counted
	}
	countedCQ struct {
		verbs.CQ
		c *counted
	}
	countedQP struct {
		verbs.QP
		c *counted
	}
)

func (c *counted) Open(name string) (verbs.Device, error) {
	d, err := c.Provider.Open(name)
	return countedDevice{d, c}, err
}

func (d countedDevice) NewPD() (verbs.PD, error) {
	pd, err := d.Device.NewPD()
	return countedPD{pd, d.c}, err
}

func (d countedDevice) NewCQ(depth int) (verbs.CQ, error) {
	cq, err := d.Device.NewCQ(depth)
	return countedCQ{cq, d.c}, err
}

func (pd countedPD) NewQP(cfg verbs.QPConfig) (verbs.QP, error) {
	cfg.SendCQ, cfg.RecvCQ = cfg.SendCQ.(countedCQ).CQ, cfg.RecvCQ.(countedCQ).CQ
	qp, err := pd.PD.NewQP(cfg)
	if j, ok := qp.(verbs.Joiner); ok {
		return countedJoiner{j, countedQP{qp, pd.c}}, err
	}
	return countedQP{qp, pd.c}, err
}

func (q countedQP) Post(recvs []verbs.RecvWR, sends []verbs.SendWR) error {
	if len(sends) == 0 {
		q.c.returns.Add(1)
	} else {
		q.c.posts.Add(1)
	}
	for i := range sends {
		q.c.sends.Add(1)
		q.c.pieces.Add(int64(sends[i].NumSGE))
		if sends[i].Flags&verbs.FlagSignaled != 0 {
			q.c.signaled.Add(1)
		}
		if sends[i].Flags&verbs.FlagInline != 0 {
			q.c.inline.Add(1)
		}
	}
	return q.QP.Post(recvs, sends)
}

// countedJoiner is a countedQP of iWARP.
type countedJoiner struct {
	verbs.Joiner
	q countedQP
}

func (j countedJoiner) Post(recvs []verbs.RecvWR, sends []verbs.SendWR) error {
	return j.q.Post(recvs, sends)
}

func (q countedCQ) Poll(into []verbs.Completion) (int, error) {
	q.c.polls.Add(1)
	return q.CQ.Poll(into)
}

func (q countedCQ) Spin(into []verbs.Completion, d time.Duration, yield bool) (int, error) {
	q.c.spins.Add(1)
	return q.CQ.Spin(into, d, yield)
}

func (q countedCQ) Arm() error {
	q.c.arms.Add(1)
	return q.CQ.Arm()
}

func (q countedCQ) Wait() error {
	q.c.waits.Add(1)
	return q.CQ.Wait()
}

func (c *counted) reset() {
	for _, n := range []*atomic.Int64{&c.posts, &c.sends, &c.signaled, &c.inline, &c.pieces, &c.returns, &c.polls, &c.spins, &c.arms, &c.waits} {
		n.Store(0)
	}
}

func (c *counted) String() string {
	return fmt.Sprintf("posts %d, sends %d (signaled %d, inline %d, pieces %d), receives alone %d; polls %d, spins %d, arms %d, waits %d",
		c.posts.Load(), c.sends.Load(), c.signaled.Load(), c.inline.Load(), c.pieces.Load(), c.returns.Load(),
		c.polls.Load(), c.spins.Load(), c.arms.Load(), c.waits.Load())
}

// dialogue has two ends send n bytes to and fro, so many times.
func dialogue(x, y *link, n, rounds int) error {
	ended := make(chan error, 1)
	turn := func(l *link, first bool) error {
		p := make([]byte, n)
		bufs := [][]byte{p}
		for range rounds {
			if first {
				if _, err := l.Send(0, bufs); err != nil {
					return err
				}
			}
			for got := 0; got < n; {
				k, err := l.Recv(p[got:])
				if err != nil {
					return err
				}
				got += k
			}
			if !first {
				if _, err := l.Send(0, bufs); err != nil {
					return err
				}
			}
		}
		return nil
	}
	go func() { ended <- turn(y, false) }()
	if err := turn(x, true); err != nil {
		return err
	}
	return <-ended
}

// TestDialogueCost: a message of a dialogue is one call that posts one request, together with the receive that has come back, and what the
// endpoints say besides (heartbeats, what was taken) is little. Requests have completions now and then, not each.
func TestDialogueCost(t *testing.T) {
	c := &counted{Provider: sim.New(sim.Config{}).Host("a")}
	d := newDevices(c, anywhere{})
	dialogueCost(t, c, setting{d, d, "127.0.0.1:0"}, 1000)
}

// TestDeviceDialogueCost is the same on a device.
func TestDeviceDialogueCost(t *testing.T) {
	onDevice(t)
	c := &counted{Provider: machine().provider}
	d := newDevices(c, machine().finder)
	s := onDevice(t)
	dialogueCost(t, c, setting{d, d, s.listen}, 100)
}

func dialogueCost(t *testing.T, c *counted, s setting, rounds int) {
	to := newTest(t, Options{Fabric: s.b, Death: emulated})
	at, err := to.Listen(t.Context(), s.listen)
	require.NoError(t, err)
	defer at.Close()
	x, y := joinTo(t, newTest(t, Options{Fabric: s.a, Death: emulated}), at)
	<-x.p.trial.over // which is no part of a dialogue
	<-y.p.trial.over
	for _, n := range []int{128, 256, 1024, 2048, 4096, 16 << 10} {
		require.NoError(t, dialogue(x, y, n, rounds/5))
		c.reset()
		began := time.Now()
		require.NoError(t, dialogue(x, y, n, rounds))
		took := time.Since(began)
		t.Logf("%d bytes, %v a round: %v", n, (took / time.Duration(rounds)).Round(100*time.Nanosecond), c)
		messages := int64(2 * rounds)
		extra := int64(took/laterTime+1)*4 + messages/20 // heartbeats, and bytes that are taken and not answered at once
		require.GreaterOrEqual(t, c.sends.Load(), messages)
		require.LessOrEqual(t, c.sends.Load(), messages+extra)
		require.LessOrEqual(t, c.posts.Load(), messages+extra)
		require.LessOrEqual(t, c.returns.Load(), extra)
		if !x.p.carrier.(*deviceCarrier).a.IWARP() { // there each has one
			require.LessOrEqual(t, c.signaled.Load(), messages/10+extra)
		}
	}
}
