package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestProbeBounds: a length beyond the bounds is refused, also where an int has 32 bits and 0xffffffff would be -1.
func TestProbeBounds(t *testing.T) {
	for _, p := range []struct {
		op   ProbeOp
		n    uint32
		good bool
	}{
		{ProbeEcho, 0, true}, {ProbeEcho, MaxProbeEcho, true}, {ProbeEcho, MaxProbeEcho + 1, false}, {ProbeEcho, 1 << 31, false}, {ProbeEcho, 1<<32 - 1, false},
		{ProbeTrain, MaxProbeTrain, true}, {ProbeTrain, MaxProbeTrain + 1, false}, {ProbeTrain, 1 << 31, false}, {ProbeTrain, 1<<32 - 1, false},
		{0, 1, false}, {ProbeTrain + 1, 1, false},
	} {
		got, err := ParseProbe(be.AppendUint32([]byte{byte(p.op), 0, 0, 0}, p.n))
		if p.good {
			require.NoError(t, err)
			require.Equal(t, Probe{p.op, int(p.n)}, got)
		} else {
			require.ErrorIs(t, err, ErrFormat, "%d of %d bytes: %v", p.op, p.n, got)
		}
	}
}
