package verbs

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// TestLateBytes: what arrives after a Recv has given up, for whatever reason, doesn't change its buffer; the next Recv gets it.
func TestLateBytes(t *testing.T) {
	for _, pipes := range []bool{true, false} {
		var a, b *Substrate
		if pipes {
			a, b, _ = two(t, Options{})
		} else {
			s := onSim(sim.Config{Delay: 20 * time.Microsecond, LateWrites: true})
			a, b = newTest(t, Options{Fabric: s.a}), newTest(t, Options{Fabric: s.b})
		}
		from, to, _ := join(t, a, b)
		for round := range 50 {
			given := make([]byte, 1000)
			require.NoError(t, to.SetRecvDeadline(time.Now().Add(time.Duration(round)*10*time.Microsecond)))
			n, err := to.Recv(given)
			require.Zero(t, n)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			_, err = from.Send(0, [][]byte{{1, 2, 3}})
			require.NoError(t, err)
			require.NoError(t, to.SetRecvDeadline(time.Time{}))
			got := make([]byte, 3)
			for k := 0; k < len(got); k += n {
				n, err = to.Recv(got[k:])
				require.NoError(t, err)
			}
			require.Equal(t, []byte{1, 2, 3}, got)
			require.Equal(t, make([]byte, 1000), given)
		}
	}
}
