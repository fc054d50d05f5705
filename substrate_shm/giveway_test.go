package shm

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestStreams: what counts as a stream is long, comes in bulk, and is not answered.
func TestStreams(t *testing.T) {
	for name, c := range map[string]struct {
		each     uint64 // bytes between two waits
		answered uint64 // a Send after so many bytes; 0: never
		want     bool
	}{
		"a stream of small messages":        {each: 8 << 10, want: true},
		"a stream of large ones":            {each: 256 << 10, want: true},
		"messages now and then":             {each: 128},
		"a dialogue of small messages":      {each: 128, answered: 128},
		"a dialogue of large ones":          {each: 128 << 10, answered: 1 << 20},
		"a stream that is answered at ends": {each: 64 << 10, answered: 16 << 20, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			var back atomic.Uint64
			w := courtesy{back: &back}
			base, since, streams := uint64(0), uint64(0), false
			for base < 64<<20 {
				streams = w.streams(base) || streams
				base, since = base+c.each, since+c.each
				if c.answered > 0 && since >= c.answered {
					back.Add(1)
					since = 0
				}
			}
			assert.Equal(t, c.want, streams)
			back.Add(1)
			assert.False(t, w.streams(base), "it ends with an answer")
		})
	}
}

// TestStreamDriesUp: a stream from which messages come only now and then is none.
func TestStreamDriesUp(t *testing.T) {
	var back atomic.Uint64
	c, base := courtesy{back: &back}, uint64(0)
	for range 1000 {
		base += 8 << 10
		c.streams(base)
	}
	require.True(t, c.streams(base))
	for range 2 * streamWaits {
		base += 128
		c.streams(base)
	}
	require.False(t, c.streams(base))
}

// TestGiveAway: beside a process that keeps the processor for 4 ms whenever it is given away, that costs little time.
func TestGiveAway(t *testing.T) {
	const hogs, work = 4 * time.Millisecond, 20 * time.Microsecond // work: between two waits
	var now, away time.Duration
	var c courtesy
	turn := hogs
	yield := func() { now, away = now+turn, away+turn }
	clock := func() time.Duration { return now }
	for now < 10*time.Second {
		c.give(clock, yield)
		now += work
	}
	assert.Less(t, away, now/50)
	assert.Positive(t, away)

	turn = 100 * time.Microsecond // it is gone
	now += 2 * time.Second
	given := 0
	for range 1000 {
		before := away
		c.give(clock, yield)
		if away > before {
			given++
		}
	}
	assert.Equal(t, 1000, given)
}
