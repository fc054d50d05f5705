// Package selector decides which path carries a connection: kernel TCP, reliable UDP, shared memory, RDMA. It is decision
// logic and nothing else: no network, no goroutine, no clock. Its caller probes, rebinds, and passes the time in.
//
// The algorithm, in the order in which things happen to a connection:
//
//  1. It starts on the base path (TCP) and is usable at once. Candidates come from what both ends offer. An address is a
//     candidate, never an answer: it counts when a probe has gone through it end to end (Open MPI's docker0 hangs: ompi #6377).
//  2. The Table of a peer, shared by all connections to it, says which paths are due for a round of probes, remembers the
//     results, and puts every path in a tier: pinned, healthy, suspect, rejected. A result loses weight with age and can't win
//     after 30 s (tailscale #19407: a stale path that kept winning). A path that died is suspect until a later probe succeeds,
//     and held down longer each time.
//  3. A path costs T(n) = send overhead + RTT/2 + n*ns/byte for a message of n bytes (LogGP, Alexandrov et al. 1995). Its score
//     is the mean of T over the sizes that this connection really writes, times (1 + 100*loss), plus twice the jitter: the median of the last
//     rounds'.
//  4. The Binding of a connection compares what was measured in one and the same round, best in turns, a few round trips over each
//     path and then again, so that what a busy machine adds to all paths, or multiplies them by, cancels: the noise is that of the differences, or of the ratios if
//     they vary less, from turn to turn and from round to round; and how large a part of the cost a gain is, is told by the fastest round trip.
//     It moves within the healthy tier only if the other path costs less than 0.8 of the current one, by more than 1 us and twice the noise (or less than
//     half, whatever the noise), in 3 rounds running, and not within the hold-down of 1 s * 2^k after a switch (k: earlier switches in the last minute), nor back to a
//     path that it left by choice within the last minute. Right after connect one solid round suffices, if the gain is more than
//     five sigma and the paths were measured in turns, or it is a third; else, or before the round is over (Glance), it is taken which path is more likely the faster one,
//     by its fastest round trips and by how many turns it won, and measured again after 1 s: the first choice protects nothing and can be taken back
//     (within a minute after six rounds).
//     A round that is too noisy to tell says so, and the next comes soon: after 1 s, 2 s, 4 s, 8 s.
//  5. Tiers beat numbers: a path that dies or fails its probes is left at once, without hysteresis, for the best path measured
//     in the last 30 s, else for the base path. A pin is honoured or fails loudly (NCCL #367: silent fall-back).
//  6. One end of a connection decides. It moves the connection only over a link on which both processes have proved themselves:
//     a choice made by one end alone is how a peer comes to wait for ever (NCCL #234). Link numbers, which only rise, tell a
//     new move from an old one.
//
// Every decision keeps its numbers and a reason for every path that was not taken.
//
// The thresholds of Tailscale (1 %), iroh (5 ms) and pion (10 ms) are made for wide-area paths that differ by milliseconds;
// within a cluster all substrates lie less than 1 ms apart, and message size matters as much as latency.
package selector
