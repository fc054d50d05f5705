package session

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLaneExcludes relies on the race detector: n has no other guard.
func TestLaneExcludes(t *testing.T) {
	l := newLane()
	var wg sync.WaitGroup
	n, tries := 0, 0
	for i := range 8 {
		wg.Go(func() {
			for range 2000 {
				if i%4 == 0 {
					if !l.tryLock() {
						continue
					}
					tries++
				} else {
					l.lock()
				}
				n++
				l.unlock()
			}
		})
	}
	wg.Wait()
	require.Equal(t, 6*2000+tries, n)
	require.True(t, l.tryLock(), "free again")
	require.False(t, l.tryLock())
	l.unlock()
}

func TestLaneOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane()
		l.lock()
		var got []int
		for i := range 20 {
			go func() {
				l.lock()
				got = append(got, i)
				time.Sleep(time.Second) // held while waiting
				l.unlock()
			}()
			synctest.Wait()
		}
		require.False(t, l.tryLock())
		start := time.Now()
		l.unlock()
		// Who comes now queues up behind all of them.
		l.lock()
		require.Equal(t, 20*time.Second, time.Since(start))
		l.unlock()
		for i := range 20 {
			require.Equal(t, i, got[i])
		}
	})
}

// TestLaneIsIdle: waiting for a lane lets virtual time pass; for a sync.Mutex it would not.
func TestLaneIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane()
		l.lock()
		time.AfterFunc(24*time.Hour, l.unlock)
		start := time.Now()
		l.lock()
		require.Equal(t, 24*time.Hour, time.Since(start))
		l.unlock()
	})
}

func TestSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSignal()
		s.raise()
		s.raise()
		wait(s, time.Time{}) // both count as one
		start := time.Now()
		wait(s, start.Add(time.Minute))
		require.Equal(t, time.Minute, time.Since(start))
		wait(s, start) // long past
		require.Equal(t, time.Minute, time.Since(start))
		time.AfterFunc(time.Second, s.raise)
		wait(s, start.Add(time.Hour))
		require.Equal(t, time.Minute+time.Second, time.Since(start))
	})
}

func BenchmarkLane(b *testing.B) {
	l := newLane()
	b.ReportAllocs()
	for b.Loop() {
		l.lock()
		l.unlock()
	}
}
