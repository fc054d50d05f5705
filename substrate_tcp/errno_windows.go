package tcp

import "syscall"

// refusals: the peer's host answered that nobody listens there. Windows has its own number (WSAECONNREFUSED); the ECONNREFUSED
// of package syscall is an invented one that no call returns.
var refusals = []syscall.Errno{10061}
