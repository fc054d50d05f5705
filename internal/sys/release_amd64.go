//go:build !race

package sys

import (
	"sync/atomic"
	"unsafe"
)

// StoreRelease is p.Store(v), but for what this goroutine loads afterwards: that may be older. An atomic Store is a locked exchange on this
// processor, which waits for all earlier stores to reach the cache: some 6 ns, and a multiple of that after a copy into memory that another
// processor reads. A plain store of a word is whole and keeps its place among the others (Intel SDM vol. 3A, 9.2.2), and Go's compiler
// keeps stores in order. Elsewhere, and under the race detector, it is Store.
func StoreRelease(p *atomic.Uint64, v uint64) { *(*uint64)(unsafe.Pointer(p)) = v }
