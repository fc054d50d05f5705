//go:build race

package sockemu

import (
	"runtime"
	"unsafe"
)

// The race detector takes what comes before a write(2) for earlier than what comes after a read(2), so programs may hand memory over by a message to
// themselves. Of shared memory, and of system calls that package syscall doesn't make, it knows nothing; so it is told here.
var order byte

// ordered is called when a Read has brought something: it is later than what came before each Write.
func ordered() { runtime.RaceAcquire(unsafe.Pointer(&order)) }

// orders is called before each Write.
func orders() { runtime.RaceReleaseMerge(unsafe.Pointer(&order)) }
