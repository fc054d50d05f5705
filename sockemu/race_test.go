//go:build race

package sockemu_test

// pace slows the cutting down where everything else is slower too: a link must live long enough for a handshake.
const pace = 5
