//go:build race

package sockemu_test

// pace slows the cutting down where everything else is slower too: a link must live long enough for a handshake.
const pace = 5

// anySubstrate admits all of them. The race detector slows shared memory down more than the kernel, so that measurements would
// often decide for TCP.
const anySubstrate = "prefer:shm"
