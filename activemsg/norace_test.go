//go:build !race

package activemsg

// raceOn: the race detector is at work, which allocates.
const raceOn = false
