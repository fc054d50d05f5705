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
// has not paid of late; then it parks in Go's poller. Who is woken in a stream by an end on the same processor lets that go on first, once
// (giveway.go). A link with nobody in Send or Recv has no goroutine; all links of a
// Substrate share one that hears of dead processes.
//
// The rings lie behind a page of words (type header; the dialling end's ring comes first). A ring has two cursors, which count the
// bytes since the link was made: tail, of what the sender has put there, and head, of what the receiver has taken. Where in the ring a byte lies is the sender's choice: its bytes lie in laps, each
// from the ring's start on, and a lap may end anywhere. A third word, turn, says where the last one began: a byte at position x
// of it lies at x - turn. The rules:
//
//   - A lap is never longer than the ring, and what is on its way in it never lies where the receiver has yet to take bytes of the lap before.
//   - The sender begins a lap only when head says that the receiver has taken a byte of the last one: head > turn. So the receiver has one
//     beginning to pass at most.
//   - The sender writes turn before it writes a tail above it. The receiver reads tail, then turn. So it never misses a beginning.
//
// While both ends run on one processor the sender uses 512 KiB of its ring, again and again: the two take turns there, so
// more brings nothing but misses of the second-level cache. Otherwise it uses all.
//
// Nothing in shared memory is trusted: each end keeps its own cursors to itself, reads the peer's words once, and one that makes
// no sense ends the link with class Protocol. A peer runs as the same user or as root.
//
// Limits: Linux only. A link's memory is up to twice Options.RingSize, taken as it is first used and kept until Close.
package shm
