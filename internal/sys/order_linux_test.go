package sys

import (
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestFence: of two that first write and then look, each for the other's word, one sees it, also under the race detector.
func TestFence(t *testing.T) {
	const rounds = 200_000
	type word struct {
		atomic.Uint32
		_ [60]byte
	}
	f, err := SharedMemory("fence", 64*int(unsafe.Sizeof([2]word{})))
	require.NoError(t, err)
	defer f.Close()
	mem, err := MapShared(f, 64*int(unsafe.Sizeof([2]word{})))
	require.NoError(t, err)
	defer Unmap(mem)
	// Used in turn, so that the two needn't agree on each round. Words of Go's own memory have a fence of their own under the race detector.
	words := unsafe.Slice((*[2]word)(unsafe.Pointer(&mem[0])), 64)
	var saw [2][rounds]bool
	var wg sync.WaitGroup
	var at [2]atomic.Int64
	for me := range 2 {
		wg.Go(func() {
			for i := range rounds {
				for at[1-me].Load() < int64(i) { // begin together
				}
				w := &words[i%len(words)]
				w[me].Store(uint32(i + 1))
				Fence()
				saw[me][i] = w[1-me].Load() == uint32(i+1)
				at[me].Store(int64(i + 1))
			}
		})
	}
	wg.Wait()
	missed := 0
	for i := range rounds {
		if !saw[0][i] && !saw[1][i] {
			missed++
		}
	}
	require.Zero(t, missed)
}
