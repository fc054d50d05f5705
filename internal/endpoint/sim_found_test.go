package endpoint

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Schedules that random ones have found.

// TestDuellingDialers: after both ends have moved both dial; an attempt of the acceptor that was made before it knew of the link in
// use replaced that link, again and again.
func TestDuellingDialers(t *testing.T) {
	t.Parallel()
	ms := time.Millisecond
	sc := schedule{
		Seed: 2, Seal: true, NetBuffer: 1 << 10, SendBuffer: 16 << 20, RecvBuffer: 64 << 10, AckEvery: 4 << 10, Delay: 60 * ms, Rate: 1 << 20, Piece: 100,
		Bytes: [2]int{1000, 200_000}, Chunk: [2]int{1 << 10, 100_000}, Pause: [2]time.Duration{0, 20 * ms}, ReadPause: [2]time.Duration{15 * ms, 3 * ms},
		HalfClose: [2]bool{true, true}, DialerListens: true, SimultaneousEnd: true,
		Events: []event{
			{At: 88 * ms, Kind: "cut-one", For: 171 * ms, N: 15564, Dir: 1}, {At: 241 * ms, Kind: "cut", For: 45 * ms, N: 306, Dir: 1},
			{At: 241 * ms, Kind: "reset-after", For: 940 * ms, N: 3, Dir: 3}, {At: 390 * ms, Kind: "cut", For: ms, N: 99, Dir: 1},
			{At: 446 * ms, Kind: "stall", For: 2 * ms, N: 12, Dir: 2}, {At: 447 * ms, Kind: "export-b", For: 2 * ms, N: 39488, Dir: 3},
			{At: 448 * ms, Kind: "reset-after", For: 96 * ms, N: 3, Dir: 2}, {At: 449 * ms, Kind: "stall", For: 21 * ms, N: 27, Dir: 1},
			{At: 736 * ms, Kind: "export-a", For: 29 * ms, N: 10, Dir: 1}, {At: 739 * ms, Kind: "export-b", For: ms, N: 20213, Dir: 2},
		},
	}
	for sc.Seed = range uint64(fewer(20, 3)) {
		synctest.Test(t, func(t *testing.T) { require.NoError(t, sc.run()) })
	}
}

// TestReturnUnheard: an end that can't dial came back to its process while nothing of that got through, and its peer, with nothing to say, kept
// a link that was dead: the end that had come back didn't know its number any more.
func TestReturnUnheard(t *testing.T) {
	t.Parallel()
	ms := time.Millisecond
	sc := schedule{
		Seed: 376, NetBuffer: 1 << 10, SendBuffer: 16 << 20, RecvBuffer: 64 << 10, AckEvery: 64 << 10, Delay: 60 * ms, Jitter: ms, Duplicate: 0.5,
		Bytes: [2]int{1, 60_000}, Chunk: [2]int{1 << 10, 9000}, Pause: [2]time.Duration{29 * ms, 2 * ms}, ReadPause: [2]time.Duration{3 * ms, 10 * ms},
		HalfClose: [2]bool{true, true}, SimultaneousEnd: true,
		Events: []event{
			{At: 195 * ms, Kind: "blackhole", For: 308 * ms, N: 20, Dir: 2}, {At: 196 * ms, Kind: "return-b", For: 4 * ms, N: 1, Dir: 3},
			{At: 373 * ms, Kind: "stall", For: 202 * ms, Dir: 2},
		},
	}
	synctest.Test(t, func(t *testing.T) { require.NoError(t, sc.run()) })
}
