//go:build !race

package sys

// Publishing is for the race detector.
func Publishing() {}

// Observed is for the race detector.
func Observed() {}

// Fence is for the race detector, too.
func Fence() {}
