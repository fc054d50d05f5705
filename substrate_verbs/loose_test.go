package verbs

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// TestLoose: what the peer's end has taken is freed when more is sent, and if no more is, all but a little.
func TestLoose(t *testing.T) {
	s := onSim(sim.Config{})
	x, y, _ := join(t, newTest(t, Options{Fabric: s.a}), newTest(t, Options{Fabric: s.b}))
	held := func() int {
		x.snd.Lock()
		defer x.snd.Unlock()
		return x.out.Len()
	}
	p := make([]byte, 128)
	for range 100 {
		require.NoError(t, dialogue(x, y, len(p), 1))
		require.LessOrEqual(t, held(), len(p), "the answer says that it was taken")
	}
	one := int(x.sent.Load())
	for range 20 { // now nothing is answered, but told in the end
		_, err := x.Send(0, [][]byte{p})
		require.NoError(t, err)
	}
	for got := 0; got < 20*len(p); {
		n, err := y.Recv(make([]byte, len(p)))
		require.NoError(t, err)
		got += n
	}
	require.Eventually(t, func() bool { return x.taken.Load() == uint64(one+20*len(p)) }, patience, laterTime)
	require.LessOrEqual(t, held(), looseMost)
}

// TestTakenBack: a peer that has "taken" what it was never sent, as that was taken back, breaks its path and nothing else.
func TestTakenBack(t *testing.T) {
	s := onSim(sim.Config{})
	x, y, _ := join(t, newTest(t, Options{Fabric: s.a}), newTest(t, Options{Fabric: s.b}))
	require.NoError(t, dialogue(x, y, 100, 3))
	x.taken.Store(x.sent.Load() + 50)
	_, err := x.Send(0, [][]byte{make([]byte, 100)})
	require.ErrorContains(t, err, errTakenTooMuch.Error())
}

// TestHot: data for a link that has ended is refused, also if the last data was for it.
func TestHot(t *testing.T) {
	s := onSim(sim.Config{})
	from := newTest(t, Options{Fabric: s.a})
	x, y, l := join(t, from, newTest(t, Options{Fabric: s.b}))
	other, _ := joinTo(t, from, l)
	data := func(id uint32) error {
		b := make([]byte, dataHead+1)
		binary.LittleEndian.PutUint32(b, id)
		return y.p.data(b)
	}
	require.NoError(t, data(y.id))
	require.Same(t, y, y.p.hot.Load())
	require.NoError(t, data(other.theirs))
	require.NotSame(t, y, y.p.hot.Load())
	require.NoError(t, data(y.id))
	require.NoError(t, x.Close())
	require.Eventually(t, func() bool { return y.ctl.Load()&ended != 0 }, patience, laterTime)
	require.ErrorIs(t, data(y.id), errNoLink)
	require.NoError(t, data(other.theirs))
}
