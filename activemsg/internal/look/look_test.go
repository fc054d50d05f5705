package look

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const most = 100 * time.Microsecond

// wait plays waits for something that comes after d, and returns for how long it was looked for, all in all, and how often it came while
// somebody looked.
func wait(l *Looker, d, wakeUp time.Duration, times int) (looked time.Duration, met int) {
	for range times {
		limit := l.Limit()
		if d <= limit {
			looked += d
			met++
			l.Took(d)
			continue
		}
		looked += limit
		l.Took(d + wakeUp)
	}
	return looked, met
}

func TestDialogue(t *testing.T) {
	l := New(most)
	_, met := wait(&l, 40*time.Microsecond, 30*time.Microsecond, 100)
	require.Equal(t, 100, met)
	// A pause doesn't end it.
	wait(&l, time.Second, 0, 1)
	_, met = wait(&l, 40*time.Microsecond, 30*time.Microsecond, 100)
	require.Equal(t, 100, met)
	// It gets faster: so does giving up.
	wait(&l, time.Microsecond, 0, 100)
	require.Less(t, l.Limit(), most/5)
}

// TestSlow: what comes ten times a second is not looked for, but for a try now and then.
func TestSlow(t *testing.T) {
	l := New(most)
	looked, met := wait(&l, 100*time.Millisecond, 0, 10*again)
	require.Zero(t, met)
	require.Less(t, looked, 15*most)
	require.Greater(t, looked, 5*most)
	// Then a dialogue begins: it is noticed within a few rounds, although each wake-up adds to its time.
	_, met = wait(&l, 5*time.Microsecond, 60*time.Microsecond, 100)
	require.Greater(t, met, 90)
}

// TestWakeUp: a wake-up that takes longer than one looks hides how fast the other end is. It is found out all the same.
func TestWakeUp(t *testing.T) {
	l := New(most)
	wait(&l, time.Second, 0, 20)
	_, met := wait(&l, time.Microsecond, 10*most, 10*again)
	require.Greater(t, met, 0)
}

func TestNever(t *testing.T) {
	for _, l := range []Looker{{}, New(0), New(-1)} {
		for range 2 * again {
			require.Zero(t, l.Limit())
			l.Took(0)
		}
	}
}
