//go:build !amd64 || race

package sys

import "sync/atomic"

// StoreRelease is p.Store(v), but for what this goroutine loads afterwards: that may be older.
func StoreRelease(p *atomic.Uint64, v uint64) { p.Store(v) }
