package rdma

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
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
