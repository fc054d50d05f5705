//go:build race

package sys

import "sync/atomic"

// order is what the race detector sees of the order that words in mapped memory make: of that memory itself it sees nothing.
var order atomic.Uint64

// Publishing tells the race detector, before a word in mapped memory is written, that whoever reads it comes after what was done until now.
func Publishing() { order.Add(1) }

// Observed tells the race detector, after a word in mapped memory was read, that what its writer did before lies before.
func Observed() { order.Add(1) }
