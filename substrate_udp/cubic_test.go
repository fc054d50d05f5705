package udp

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const testSegment = 1000

// TestCubicCurve compares congestion avoidance with the formula of RFC 9438 where CUBIC is ahead of Reno: a long, fast path.
func TestCubicCurve(t *testing.T) {
	c := NewCubic(testSegment).(*cubic)
	const rtt = 100 * time.Millisecond
	c.window = 2000 * testSegment
	start := 10 * time.Second
	c.OnLoss(start, start-rtt, testSegment)
	require.InDelta(t, 1400*testSegment, c.window, 1)
	k := math.Cbrt(2000 * (1 - cubicBeta) / cubicC)
	now := start
	for now < start+time.Duration(2*k*float64(time.Second)) {
		now += rtt
		// A whole window is acknowledged in each round trip, in pieces.
		for left := c.Window(); left > 0; left -= 10 * testSegment {
			c.OnAck(now, now-rtt, min(left, 10*testSegment), rtt, rtt, true)
		}
		at := (now - start).Seconds()
		want := (cubicC*math.Pow(at-k, 3) + 2000) * testSegment
		require.InEpsilon(t, want, c.window, .03, "after %.1f s of K = %.1f s", at, k)
	}
}

// TestCubicBounds: whatever happens the window stays sane, falls by beta at most once per round trip, and does not grow for a sender
// that doesn't use it.
func TestCubicBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := NewCubic(testSegment).(*cubic)
		now := time.Second
		rtt := time.Duration(rapid.IntRange(1, 1000).Draw(t, "rtt")) * 100 * time.Microsecond
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 100).Draw(t, "ms")) * time.Millisecond
			before := c.window
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				c.OnLoss(now, now-rtt, testSegment)
				require.GreaterOrEqual(t, c.window, min(before, before*cubicBeta-1))
				once := c.window
				c.OnLoss(now, now-rtt, testSegment)
				if once < before {
					require.Equal(t, once, c.window)
				}
				require.GreaterOrEqual(t, c.window, min(before, before*cubicBeta-1))
			case 1:
				c.OnCollapse(now)
			case 3:
				c.OnMark(now, now-rtt, 1)
				require.GreaterOrEqual(t, c.window, min(before, before*cubicBeta-1))
				once := c.window
				c.OnMark(now, now-rtt, 1)
				require.Equal(t, once, c.window)
				require.LessOrEqual(t, once, max(before, minimumPackets*testSegment))
			case 2:
				c.OnAck(now, now-rtt, testSegment, rtt, rtt, false)
				require.Equal(t, before, c.window)
			default:
				n := rapid.IntRange(1, 100).Draw(t, "packets") * testSegment
				c.OnAck(now, now-rtt, n, rtt+time.Duration(rapid.IntRange(0, 20).Draw(t, "queue"))*time.Millisecond, rtt, true)
				require.GreaterOrEqual(t, c.window, before)
				require.LessOrEqual(t, c.window, 1.5*before+float64(n))
			}
			require.GreaterOrEqual(t, c.Window(), minimumPackets*testSegment)
			require.LessOrEqual(t, c.Window(), maximumWindow)
		}
	})
}

// TestHyStart: delay that grows ends slow start before anything is lost; delay that doesn't, does not.
func TestHyStart(t *testing.T) {
	for _, grows := range []bool{true, false} {
		c := NewCubic(testSegment).(*cubic)
		now, rtt := time.Second, 20*time.Millisecond
		for range 12 {
			sent := now
			now += rtt
			for left := c.Window(); left > 0; left -= testSegment {
				c.OnAck(now, sent, testSegment, rtt, 20*time.Millisecond, true)
			}
			if grows {
				rtt += 5 * time.Millisecond
			}
		}
		require.Equal(t, !grows, c.SlowStart())
	}
}

// TestSpuriousLoss: the window that a loss took is given back once, unless it has grown beyond that meanwhile.
func TestSpuriousLoss(t *testing.T) {
	c := NewCubic(testSegment).(*cubic)
	before := c.window
	c.OnSpurious(time.Second)
	require.Equal(t, before, c.window)
	c.OnLoss(2*time.Second, time.Second, testSegment)
	require.Less(t, c.window, before)
	for range 2 {
		c.OnSpurious(3 * time.Second)
		require.Equal(t, before, c.window)
		require.True(t, c.SlowStart())
	}
	c.OnLoss(5*time.Second, 4*time.Second, testSegment)
	c.window = 2 * before
	c.OnSpurious(6 * time.Second)
	require.Equal(t, 2*before, c.window)
}

// TestLossWithoutQueue: on a long path the window ignores few losses, gives in a little to more, and obeys as ever when packets wait
// or very many are lost; on a short path always.
func TestLossWithoutQueue(t *testing.T) {
	const rtt = 50 * time.Millisecond
	for _, c := range []struct {
		name  string
		rtt   time.Duration
		queue time.Duration
		loss  int // percent
		left  float64
	}{
		{"few", rtt, 0, 1, 1},
		{"some", rtt, 0, 8, weakBeta},
		{"many", rtt, 0, 30, cubicBeta},
		{"few, late by a little", rtt, 1500 * time.Microsecond, 1, 1},
		{"few, and a queue", rtt, 3 * time.Millisecond, 1, cubicBeta},
		{"few on a short path", time.Millisecond, 0, 1, cubicBeta},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := NewCubic(testSegment).(*cubic)
			w.window, w.ssthresh = 100*testSegment, testSegment
			now := time.Second
			for range 100 {
				now += c.rtt
				// One packet in a hundred finds the path delayed for a moment: that is no queue.
				w.OnAck(now, now-c.rtt, (100-c.loss)*testSegment, c.rtt+c.queue, c.rtt, false)
				w.OnAck(now, now-c.rtt, 0, c.rtt+time.Second, c.rtt, false)
				w.lost += float64(c.loss * testSegment)
			}
			before := w.window
			w.OnLoss(now, now, testSegment)
			require.InDelta(t, c.left*before, w.window, 1)
		})
	}
}
