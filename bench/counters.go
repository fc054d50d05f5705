package bench

import "runtime"

// counters are the heap allocations of this process since its start.
type counters struct{ Objects, Bytes uint64 }

// memStats is static because it is large and would otherwise go to the heap that it counts. Only the goroutine that
// handles a worker's commands reads it.
var memStats runtime.MemStats

// readCounters counts exactly, which takes stopping the world: runtime/metrics only counts what has left the caches of the
// threads. It doesn't allocate.
func readCounters() counters {
	runtime.ReadMemStats(&memStats)
	return counters{Objects: memStats.Mallocs, Bytes: memStats.TotalAlloc}
}

func (c counters) sub(d counters) counters { return counters{c.Objects - d.Objects, c.Bytes - d.Bytes} }
