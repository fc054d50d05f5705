//go:build race

package main

// raceOn: the race detector is at work. It slows shared memory down more than the kernel, so that measurements would often decide for
// TCP; tests that need the move then prefer shared memory.
const raceOn = true
