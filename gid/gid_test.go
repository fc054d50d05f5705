package gid

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTextRoundTrip(t *testing.T) {
	g := New()
	require.False(t, g.IsZero())
	back, err := Parse(g.String())
	require.NoError(t, err)
	require.Equal(t, g, back)

	b, err := json.Marshal(g)
	require.NoError(t, err)
	var j GID
	require.NoError(t, json.Unmarshal(b, &j))
	require.Equal(t, g, j)
	require.Equal(t, g.String()[:8], g.Short())
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "00", New().String() + "0", "zz345678901234567890123456789012"} {
		_, err := Parse(s)
		require.Error(t, err, "%q", s)
	}
}

func TestFresh(t *testing.T) {
	require.NotEqual(t, New(), New())
	require.NotEqual(t, NewProcessID(), NewProcessID())
	require.True(t, GID{}.IsZero())
	require.True(t, ProcessID{}.IsZero())
}
