package deadline

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPair(t *testing.T) {
	var p Pair
	at := time.Unix(5, 7)
	require.NoError(t, p.SetDeadline(at))
	require.Equal(t, at.UnixNano(), p.Read.Load())
	require.NoError(t, p.SetReadDeadline(time.Time{}))
	require.Zero(t, p.Read.Load())
	require.Equal(t, at.UnixNano(), p.Write.Load())
}
