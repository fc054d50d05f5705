package activemsg

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waiting for what must happen.
const patience = time.Minute

// calm is for tests in real time: a busy machine isn't taken for a dead peer.
var calm = Config{Death: patience}

// A maker makes the two ends of a carrier.
type maker func(t testing.TB) (a, b Carrier)

func pipes(t testing.TB) (a, b Carrier) { return Pipe(PipeConfig{}) }

// small has the fewest slots that work well, to run out of credits often.
func small(t testing.TB) (a, b Carrier) {
	return Pipe(PipeConfig{Payload: 64, Slots: ControlSlots + 4})
}

// tiny has a single slot for data.
func tiny(t testing.TB) (a, b Carrier) {
	return Pipe(PipeConfig{Payload: 40, Slots: ControlSlots + 1})
}

// looked is a pipe whose users look for messages by themselves.
func looked(t testing.TB) (a, b Carrier) { return Pipe(PipeConfig{Look: 500 * time.Microsecond}) }

// framedPair runs over links in memory.
func framedPair(t testing.TB) (a, b Carrier) {
	n := fault.New(fault.Config{Seed: 1})
	t.Cleanup(func() { n.Close() })
	l, err := n.Host("b").Listen(t.Context(), "b:1")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	linkA, err := n.Host("a").Dial(ctx, "b:1")
	require.NoError(t, err)
	linkB, err := l.Accept()
	require.NoError(t, err)
	return framedOver(t, linkA, linkB, FramedConfig{}, FramedConfig{Payload: 3000, Slots: 60})
}

func framedOver(t testing.TB, la, lb substrate.Link, ca, cb FramedConfig) (a, b Carrier) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan Carrier)
	go func() {
		c, err := Framed(ctx, lb, cb)
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	a, err := Framed(ctx, la, ca)
	require.NoError(t, err)
	b = <-got
	require.NotNil(t, b)
	require.Equal(t, a.Limits(), b.Limits())
	return a, b
}

var makers = map[string]maker{"pipe": pipes, "small": small, "tiny": tiny, "framed": framedPair, "looked": looked}

// endpoints joins two endpoints that are closed with the test.
func endpoints(t testing.TB, m maker, ha, hb *Handlers, ca, cb Config) (a, b *Endpoint) {
	x, y := m(t)
	a, err := New(x, ha, ca)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	b, err = New(y, hb, cb)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return a, b
}

// each runs a test over every carrier.
func each(t *testing.T, f func(t *testing.T, m maker)) {
	for name, m := range makers {
		t.Run(name, func(t *testing.T) { f(t, m) })
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// await receives from c.
func await[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing happened")
	}
	return v
}
