//go:build !windows

package tcp

import "syscall"

// refusals: the peer's host answered that nobody listens there.
var refusals = []syscall.Errno{syscall.ECONNREFUSED}
