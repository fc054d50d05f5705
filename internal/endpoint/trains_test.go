package endpoint

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTrains: neither a first train that has to wait for memory nor a slow path makes the measurement wrong or long.
func TestTrains(t *testing.T) {
	const rtt = 100 * time.Microsecond
	path := func(first time.Duration, perByte float64) (got float64, asked int) {
		got, err := trains(rtt, func(n int) (time.Duration, error) {
			d := rtt + time.Duration(float64(n)*perByte)
			if asked++; asked == 1 {
				d += first
			}
			return d, nil
		})
		require.NoError(t, err)
		return got, asked
	}
	got, asked := path(0, 1)
	require.InEpsilon(t, 1, got, 0.01)
	require.Equal(t, probeTrains, asked)
	got, asked = path(35*time.Millisecond, 50) // 20 MB/s, as an emulated device
	require.InEpsilon(t, 50, got, 0.01)
	require.Equal(t, leastTrains, asked)
	got, asked = path(0, 8000) // 1 Mb/s
	require.InEpsilon(t, 8000, got, 0.01)
	require.Equal(t, 1, asked)

	broken := errors.New("broken")
	_, err := trains(rtt, func(int) (time.Duration, error) { return 0, broken })
	require.ErrorIs(t, err, broken)
}
