package sys

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAlarm(t *testing.T) {
	a, err := NewAlarm()
	require.NoError(t, err)
	begin := time.Now()
	require.NoError(t, a.Set(20*time.Millisecond))
	require.NoError(t, a.Wait())
	require.GreaterOrEqual(t, time.Since(begin), 20*time.Millisecond)
	for _, at := range []time.Duration{-1, 0} {
		require.NoError(t, a.Set(at))
		require.NoError(t, a.Wait())
	}

	rang := make(chan error, 1)
	require.NoError(t, a.Set(time.Hour))
	go func() { rang <- a.Wait() }()
	require.NoError(t, a.Set(time.Millisecond), "replaces the time set before, also for who waits already")
	require.NoError(t, <-rang)

	go func() { rang <- a.Wait() }()
	require.NoError(t, a.Close())
	require.Error(t, <-rang)
	require.Error(t, a.Set(0))
}
