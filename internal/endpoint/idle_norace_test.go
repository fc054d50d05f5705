//go:build !race

package endpoint

// raceOn: the race detector is at work, which costs time and memory.
const raceOn = false
