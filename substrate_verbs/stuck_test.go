package verbs

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs"
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
	ended := busy(x, y)
	a.SetLink(false)
	for range busyCalls {
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

const busyCalls = 3

// busy has x send and both receive, and returns how these calls end.
func busy(x, y *link) <-chan error {
	ended := make(chan error, busyCalls)
	until := func(f func() error) {
		var err error
		for err == nil {
			err = f()
		}
		ended <- err
	}
	go until(func() error { _, err := x.Send(0, [][]byte{make([]byte, 1000)}); return err })
	for _, k := range []*link{x, y} {
		go until(func() error { _, err := k.Recv(make([]byte, 1000)); return err })
	}
	return ended
}

// TestSilentDevice: where requests are neither finished nor given up, a call that waits for the device ends as soon as one that waits for the peer.
func TestSilentDevice(t *testing.T) {
	n := sim.New(sim.Config{})
	a, b := n.Host("a"), n.Host("b")
	o := Options{Death: 500 * time.Millisecond}
	slow := anywhere{software: true} // gives up after 7.5 s
	oa, ob := o, o
	oa.Fabric, ob.Fabric = newDevices(a, slow), newDevices(b, slow)
	x, y, _ := join(t, newTest(t, oa), newTest(t, ob))
	ended := busy(x, y)
	n.Cut(a, b, true)
	for range busyCalls {
		err := await(t, ended)
		require.ErrorIs(t, err, substrate.ErrPathDown)
		require.NotContains(t, err.Error(), "retries")
	}
}

// A slowProvider takes its time to open a device.
type slowProvider struct {
	verbs.Provider
	opening, let chan struct{}
}

func (p slowProvider) Open(string) (verbs.Device, error) {
	close(p.opening)
	<-p.let
	return nil, verbs.ErrNoDevice
}

// TestSlowOpen: while a device is being opened, links over others get memory to send from.
func TestSlowOpen(t *testing.T) {
	s := onSim(sim.Config{})
	x, _, _ := join(t, newTest(t, Options{Fabric: s.a}), newTest(t, Options{Fabric: s.b}))
	await(t, x.p.trial.over) // which asks for memory, too
	slow := slowProvider{s.a.(*devices).provider, make(chan struct{}), make(chan struct{})}
	s.a.(*devices).provider = slow
	opened := make(chan error, 1)
	go func() {
		_, err := s.a.(*devices).adapter(place{device: "other", port: 1})
		opened <- err
	}()
	await(t, slow.opening)
	lent := make(chan []byte, 1)
	go func() { lent <- x.p.carrier.(Lender).Lend(1) }()
	b := await(t, lent)
	require.NotNil(t, b)
	go func() { x.p.carrier.(Lender).Return(b); lent <- nil }()
	await(t, lent)
	close(slow.let)
	require.ErrorIs(t, await(t, opened), verbs.ErrNoDevice)
}

// TestLendToNobody: a carrier whose adapter has no user any more lends nothing.
func TestLendToNobody(t *testing.T) {
	s := onSim(sim.Config{})
	from := New(Options{Fabric: s.a, Death: patience})
	x, _, _ := join(t, from, newTest(t, Options{Fabric: s.b}))
	require.NoError(t, from.Close())
	c := x.p.carrier.(*deviceCarrier)
	require.Nil(t, c.Lend(1))
	require.Zero(t, c.a.users.Load())
}
