// Package netem emulates network paths in user space: rate and queue, delay and jitter, loss alone and in bursts,
// reordering, duplication, corruption, paths that swallow large datagrams or everything. Linux has this in its netem queue
// discipline (tc-netem(8)); many kernels are built without it, and none of it works in virtual time.
//
// From the bottom up:
//
//   - Impairment says what one direction of a path does; Parse reads it from "rate=20mbit,delay=25ms,loss=1%".
//   - Pipe decides the fate of each packet. It is a pure function of the seed, the packet's number, its size and its time of
//     arrival: no clock, no goroutine.
//   - Network joins net.PacketConns in memory. It works in a bubble of testing/synctest, where its time is virtual.
//   - ForwardUDP forwards datagrams between real sockets.
//   - NewPath joins two network namespaces, so that the kernel's own TCP runs over the emulated path (Linux, root).
package netem
