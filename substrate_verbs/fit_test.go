package verbs

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/rdma"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate"
)

// settled waits for the measurement of a link's path, which must have come to an end.
func settled(t *testing.T, l *link) *trial {
	select {
	case <-l.p.trial.over:
	case <-time.After(patience):
		t.Fatal("still measuring")
	}
	return &l.p.trial
}

// TestFit: a path is measured while it carries a stream that is not disturbed, is told of, and the next one between the same adapters begins with it.
func TestFit(t *testing.T) {
	s := onSim(sim.Config{})
	to := newTest(t, Options{Fabric: s.b, Death: emulated})
	at, err := to.Listen(t.Context(), s.listen)
	require.NoError(t, err)
	defer at.Close()
	from := newTest(t, Options{Fabric: s.a, Death: emulated})
	x, y := joinTo(t, from, at)
	require.Equal(t, gatherMost, x.Gather(), "the constants come first")
	soon, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	require.Contains(t, from.Describe(soon, at.Addr().String()), "not measured yet")
	before := x.p.carrier.(fitted).Thresholds()
	for over := false; !over; {
		require.NoError(t, dialogue(x, y, 700, 20))
		select {
		case <-x.p.trial.over:
			over = true
		default:
		}
	}
	got := settled(t, x)
	require.NoError(t, got.err)
	require.Positive(t, got.fit.Samples)
	require.Positive(t, got.fit.Post)
	now := x.p.carrier.(fitted).Thresholds()
	require.Equal(t, got.fit.Thresholds, now)
	require.LessOrEqual(t, now.Inline, before.Inline)
	require.Equal(t, now.Gather, x.Gather())
	require.NoError(t, dialogue(x, y, 700, 20))

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	about := from.Describe(ctx, at.Addr().String())
	require.Contains(t, about, sim.DeviceName)
	require.Contains(t, about, "times each")
	require.Empty(t, from.Describe(ctx, "127.0.0.1:1"))
	settled(t, y)

	// Another process pair, the same adapters.
	other := newTest(t, Options{Fabric: s.a, Death: emulated})
	z, _ := joinTo(t, other, at)
	require.Equal(t, now, z.p.carrier.(fitted).Thresholds())
	require.Equal(t, got.fit, settled(t, z).fit)
	require.Zero(t, z.p.trial.sent.Load())
}

// TestTryLate: who gives up waiting for an answer isn't hurt when it comes.
func TestTryLate(t *testing.T) {
	s := onSim(sim.Config{Delay: time.Millisecond})
	to := newTest(t, Options{Fabric: s.b, Death: emulated})
	at, err := to.Listen(t.Context(), s.listen)
	require.NoError(t, err)
	defer at.Close()
	x, y := joinTo(t, newTest(t, Options{Fabric: s.a, Death: emulated}), at)
	settled(t, x)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = x.p.try(ended, make([]byte, 100))
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, dialogue(x, y, 100, 5))
	_, _, err = x.p.try(t.Context(), make([]byte, 100))
	require.NoError(t, err)
	require.Equal(t, x.p.trial.sent.Load(), x.p.trial.back.Load())
}

// TestFitAtEnd: a path that ends while it is measured, or before, ends at once.
func TestFitAtEnd(t *testing.T) {
	s := onSim(sim.Config{Delay: time.Millisecond})
	to := newTest(t, Options{Fabric: s.b, Death: emulated})
	at, err := to.Listen(t.Context(), s.listen)
	require.NoError(t, err)
	defer at.Close()
	from := newTest(t, Options{Fabric: s.a, Death: emulated})
	x, _ := joinTo(t, from, at)
	require.NoError(t, from.Close())
	got := settled(t, x)
	require.Zero(t, got.fit.Samples)
}

// TestNoFit: carriers without thresholds have none.
func TestNoFit(t *testing.T) {
	o := Options{Fabric: NewPipes(activemsg.PipeConfig{})}
	x, _, _ := join(t, newTest(t, o), newTest(t, o))
	require.ErrorContains(t, settled(t, x).err, "unsupported")
	require.Equal(t, gatherMost, x.Gather())
}

// TestTryHostile: answers that nobody asked for, and questions without a number, break the protocol.
func TestTryHostile(t *testing.T) {
	for name, say := range map[string]func(p *peer) error{
		"never tried": func(p *peer) error { return p.ep.TryShort(msgTried, [4]uint64{1 << 50}) },
		"zero":        func(p *peer) error { return p.ep.TryShort(msgTried, [4]uint64{}) },
		"short":       func(p *peer) error { return p.ep.TrySend(msgTry, [][]byte{make([]byte, dataHead-1)}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := onSim(sim.Config{})
			to := newTest(t, Options{Fabric: s.b, Death: emulated})
			at, err := to.Listen(t.Context(), s.listen)
			require.NoError(t, err)
			defer at.Close()
			x, y := joinTo(t, newTest(t, Options{Fabric: s.a, Death: emulated}), at)
			require.NoError(t, say(x.p))
			_, err = y.Recv(make([]byte, 1))
			require.Equal(t, substrate.Protocol, substrate.ClassOf(err))
		})
	}
}

var _ rdma.Exchange = new(peer).try
