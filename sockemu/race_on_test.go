//go:build race

package sockemu_test

const (
	// raced: the race detector is on. What it costs depends on the path, so a choice between paths says nothing then.
	raced = true
	// pace slows the cutting down where everything else is slower too: a link must live long enough for a handshake.
	pace = 5
)
