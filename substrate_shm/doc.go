// Package shm is the substrate for two processes on one host: a ring of shared memory each way, no system call per message while
// both ends are awake.
//
// A link begins as a UNIX socket in a directory that both processes see, which works across network namespaces and containers. The
// dialling end makes a sealed memory file (memfd_create(2)) and hands it over with two event counters (eventfd(2)); from then on
// the socket carries nothing and only tells that the other process has died.
//
// Addresses have the form HOST:/path/of/socket. HOST is made of the kernel's boot id, so that an address that comes from another
// host is refused at once and not looked for here.
//
// Who waits spins first, for some ten microseconds at most, unless the other end was last seen on the same processor or spinning
// has not paid of late; then it parks in Go's poller. A link with nobody in Send or Recv has no goroutine; all links of a
// Substrate share one that hears of dead processes.
//
// Nothing in shared memory is trusted: each end keeps its own cursors to itself, and one of the peer's that makes no sense ends
// the link with class Protocol. A peer runs as the same user or as root.
//
// Limits: Linux only. A link's memory is up to twice Options.RingSize, taken as it is first used and kept until Close.
package shm
