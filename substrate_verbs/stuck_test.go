package verbs

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate"
)

// TestStuckDevice: a device that takes its time to let go of a broken queue pair keeps neither its links, nor the next queue pair, nor for long Close.
func TestStuckDevice(t *testing.T) {
	n := sim.New(sim.Config{})
	a, b := n.Host("a"), n.Host("b")
	from := New(Options{Fabric: newDevices(a, anywhere{}), Death: patience, closeWait: 10 * time.Millisecond})
	to := newTest(t, Options{Fabric: newDevices(b, anywhere{})})
	x, y, l := join(t, from, to)
	letGo := a.Hold()
	t.Cleanup(letGo)
	t.Cleanup(b.Hold())
	ended := make(chan error, 3)
	go func() {
		for {
			if _, err := x.Send(0, [][]byte{make([]byte, 1000)}); err != nil {
				ended <- err
				return
			}
		}
	}()
	for _, k := range []*link{x, y} {
		go func() {
			for {
				if _, err := k.Recv(make([]byte, 1000)); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	a.SetLink(false)
	for range cap(ended) {
		require.ErrorIs(t, await(t, ended), substrate.ErrPathDown)
	}
	require.NoError(t, x.Close())
	select {
	case <-x.p.gone:
		t.Fatal("the queue pair isn't stuck")
	default:
	}

	a.SetLink(true)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again, err := from.Dial(ctx, l.Addr().String())
	require.NoError(t, err)
	require.NotSame(t, x.p, again.(*link).p)
	require.NoError(t, from.Close())
	letGo()
	await(t, x.p.gone)
	await(t, again.(*link).p.gone)
}
