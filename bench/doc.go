// Package bench measures ways to make a stream connection beside plain kernel TCP, as the tables of the paper do (section
// 4): round-trip time by ping-pong and one-way bandwidth, for messages of 128 bytes to 32 KiB.
//
// It is built for small, shared, noisy machines, where two runs one after the other differ by more than what is to be
// measured. So everything is relative, and measured together:
//
//   - Client and server are two processes of their own, started for each case (one operation, size and placement). All
//     connections of a case are open at once between these two, and take turns in blocks of about 4 ms: plain TCP, each
//     mode under test, and a second plain TCP connection, in a new random order each round.
//   - Each round yields one ratio to plain TCP. The report has their median, quartiles, and a bootstrap confidence interval
//     of the median; and beside it the same of the second plain connection, the A/A control. What the control doesn't
//     resolve, the measurement doesn't either.
//   - Where the two processes run decides more than what is measured: both on one CPU, on two, or where the scheduler
//     likes. Each placement is a case. How far the two CPUs are apart at the moment is in each row.
//   - The congestion control is pinned, in every mode.
//   - Allocations are counted after the timing, exactly, in both processes. The loops of this package don't allocate.
//   - So is processor time, of both processes and what the kernel does in their name: what else runs on the machine changes it less than
//     anything else here. Whoever spins while he waits uses it, too.
//
// What it doesn't do: it sends the same few buffers again and again, so that they stay in cache (Config.Cold walks through
// 64 MiB instead); and it has one busy connection at a time. Linux only.
package bench
