//go:build race

package sockemu_test

// raced: the race detector is on. What it costs depends on the path, so a choice between paths says nothing then.
const raced = true
