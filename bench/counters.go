package bench

import (
	"runtime"
	"syscall"
)

// counters are the heap allocations of this process since its start, and the processor time in ns that it and the kernel for it have used.
type counters struct{ Objects, Bytes, CPU uint64 }

// memStats is static because it is large and would otherwise go to the heap that it counts. Only the goroutine that
// handles a worker's commands reads it.
var memStats runtime.MemStats

// readCounters counts exactly, which takes stopping the world: runtime/metrics only counts what has left the caches of the
// threads. It doesn't allocate.
func readCounters() counters {
	runtime.ReadMemStats(&memStats)
	return counters{Objects: memStats.Mallocs, Bytes: memStats.TotalAlloc, CPU: cpuTime()}
}

// cpuTime can't fail: getrusage(2) only knows wrong arguments.
func cpuTime() uint64 {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return uint64(r.Utime.Nano() + r.Stime.Nano())
}

func (c counters) sub(d counters) counters {
	return counters{c.Objects - d.Objects, c.Bytes - d.Bytes, c.CPU - d.CPU}
}
