// Package verbs is the narrow contract between what moves messages by RDMA and what drives the hardware: devices, registered memory, completion
// queues and reliable connected queue pairs, no more than active messages need.
//
// There are two providers. Package libibverbs is the real one, which finds the library at run time; package sim is a deterministic
// network in memory that breaks on demand.
//
// # The rules of verbs
//
// A queue pair takes work by Post and tells of it in completion queues. Four things are easily got wrong, and the sim holds its users to them:
//
//   - The memory of a work request belongs to the device until its completion was polled, or a later one's of the same queue. Only a
//     request with FlagInline is done with its memory when Post returns.
//   - A request without FlagSignaled has no completion of its own if it succeeds, but still takes its place in the queue until a later one's
//     completion was polled. A full queue of such requests never empties.
//   - What the peer writes into memory is visible only when a completion of a later receive on the same queue pair was polled.
//   - After the first completion with an error the queue pair is dead. All that was queued completes with StatusFlushed, and
//     whether the peer has got what failed isn't known.
//
// A message needs a receive request at the peer when it comes. If there is none the sender's device tries again for a while (RNR,
// receiver not ready): a sender that counts what the peer has posted never sees that.
//
// There is no shared receive queue: each pair of processes has one queue pair for all its connections, and its receive requests bound what the
// peer can send, which one queue for several peers couldn't. The queue pairs of iWARP devices are joined by the kernel, see Joiner.
package verbs
