package rdma

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// TestNothingStays: however an endpoint ends, its registered memory is given back, also where segments were never handled.
func TestNothingStays(t *testing.T) {
	const quick, stream = 1, 2
	for name, c := range map[string]struct {
		manual bool
		send   func(e *activemsg.Endpoint) error
	}{
		"breach of the protocol": {false, func(e *activemsg.Endpoint) error {
			for range 5 { // the others come behind the first
				if err := e.TryShort(77, [4]uint64{}); err != nil {
					return err
				}
			}
			return nil
		}},
		"not extracted": {true, func(e *activemsg.Endpoint) error { return e.TryShort(quick, [4]uint64{}) }},
		"in a handler": {false, func(e *activemsg.Endpoint) error {
			out, err := e.Begin(t.Context(), stream, 1<<20)
			if err != nil {
				return err
			}
			if err := out.Piece(make([]byte, 100_000)); err != nil {
				return err
			}
			go out.End()
			return nil
		}},
		"quick": {false, func(e *activemsg.Endpoint) error { return e.TryShort(quick, [4]uint64{}) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulated(t, sim.Config{})
			x, y := s.connect(t, ConnConfig{}, ConnConfig{})
			came := make(chan struct{}, 1)
			var h activemsg.Handlers
			h.Quick(quick, func(*activemsg.Msg) { came <- struct{}{} })
			h.Stream(stream, func(in *activemsg.In) {
				came <- struct{}{}
				<-in.Endpoint().Done()
			})
			a, err := activemsg.New(x, &h, activemsg.Config{Death: patience})
			require.NoError(t, err)
			defer a.Close()
			b, err := activemsg.New(y, &h, activemsg.Config{Death: patience, Manual: c.manual})
			require.NoError(t, err)
			require.NoError(t, c.send(a))
			select {
			case <-came:
			case <-b.Arrived():
			case <-b.Done():
			}
			require.NoError(t, b.Close())
			require.Zero(t, s.b.Usage().Registered)
		})
	}
}

// An eventless device can't tell what happens to it.
type eventless struct {
	verbs.Device
	fail chan struct{}
}

var errNoEvents = errors.New("no events")

func (d eventless) NextEvent() (verbs.Event, error) {
	<-d.fail
	return verbs.Event{}, errNoEvents
}

// TestUnwatched: over a device whose events are lost there are no carriers: they would never hear that its port is down.
func TestUnwatched(t *testing.T) {
	n := sim.New(sim.Config{})
	fail := make(chan struct{})
	s := &setup{adapter(t, eventless{open(t, n, "a"), fail}, Config{}), adapter(t, open(t, n, "b"), Config{}), n}
	a, _ := s.connect(t, ConnConfig{}, ConnConfig{})
	close(fail)
	s.a.events.Wait()
	_, err := a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, errNoEvents)
	_, err = s.a.Prepare(ConnConfig{})
	require.ErrorIs(t, err, errNoEvents)
}
