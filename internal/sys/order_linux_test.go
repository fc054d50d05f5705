package sys

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
	// Two that spin get nowhere on one processor, and not far on busy ones: then fewer rounds must do.
	var limit atomic.Int64
	limit.Store(rounds)
	enough := time.Now().Add(2 * time.Second)
	for me := range 2 {
		wg.Go(func() {
			for i := 0; int64(i) < limit.Load(); i++ {
				for spins := 1; at[1-me].Load() < int64(i); spins++ { // begin together
					if spins%(1<<12) == 0 {
						runtime.Gosched()
					}
				}
				if me == 0 && i%256 == 0 && time.Now().After(enough) {
					limit.Store(int64(i) + 1)
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
	for i := range limit.Load() {
		if !saw[0][i] && !saw[1][i] {
			missed++
		}
	}
	require.Zero(t, missed)
	require.Positive(t, limit.Load())
	t.Log(limit.Load(), "rounds")
}
