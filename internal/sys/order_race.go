//go:build race

package sys

import "sync/atomic"

// order is what the race detector sees of the order that words in mapped memory make: of that memory itself it sees nothing.
var order atomic.Uint64

// Publishing tells the race detector, before a word in mapped memory is written, that whoever reads it comes after what was done until now.
func Publishing() { order.Add(1) }

// Observed tells the race detector, after a word in mapped memory was read, that what its writer did before lies before.
func Observed() { order.Add(1) }

// Fence keeps a Store of package atomic before it and a Load behind it in that order, as the package promises. Under the race detector they
// aren't in mapped memory: the Store is one of release semantics there, which a processor lets a later Load overtake. Two ends that first
// write and then look, each for the other's word, then both miss it, and sleep.
func Fence() { order.Add(1) }
