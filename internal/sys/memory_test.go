package sys

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemory(t *testing.T) {
	b, err := NewMemory(1 << 16)
	require.NoError(t, err)
	require.Len(t, b, 1<<16)
	for i := range b {
		require.Zero(t, b[i])
		b[i] = byte(i)
	}
	require.NoError(t, FreeMemory(b))
}
