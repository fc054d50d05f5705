// Package udp is the substrate over UDP with a reliability of its own: faster than kernel TCP from Go where system calls and copies
// are what counts, and not bound to a pair of addresses. A link retransmits from the session's own slices; large writes it sends from the
// writer's (borrow.go).
//
// One socket serves a listener and its links, another all links that are dialled; datagrams find their link by a random 64-bit
// connection id, so a peer's address may change (path.go). One goroutine reads each socket, and
// lends its place to a user who waits in Recv while all that comes is for him (turns.go); large payloads then land in his own buffer
// (landing.go), between namespaces of one host a packet takes a whole row of datagrams (long.go), rows of short ones are
// taken in at one go (train.go), and he looks a moment longer before he sleeps if the peer is on another processor of his host, or gives
// way to it once he is woken if it is on his own (local.go). Whoever calls Send makes the system call
// himself; what the windows hold back is sent by the reader as acknowledgements come in, or by a timer of the runtime. An idle link
// has neither goroutine nor buffers, and a timer only while a user waits in Recv (ask.go).
//
// # Wire format, version 1
//
// All numbers are little-endian. Every datagram begins with 16 bytes:
//
//	0      version << 4 | kind
//	1      flags (PACKET), else 0
//	2      PACKET and LONG, between processes of one host: 1 + the number of the sender's processor modulo 255; else 0
//	3      PACKET and LONG: how many units of 4 bytes the checksum covers; 0: all of the datagram
//	4..7   CRC-32C of what is covered, these four bytes taken as 0: UDP's own checksum has only 16 bits
//	8..15  connection id
//
// Datagrams that are too short, of another version or with a wrong checksum are dropped and counted. The kinds:
//
//	1 INIT    id 0; from the dialer: its id u64, window u32, host token u32, cookie 40 bytes or 0,
//	          capabilities u32; zeros up to 1200 bytes
//	2 RETRY   the dialer's id; cookie 40 bytes: a time u64 and HMAC-SHA-256(secret, time, address, port, id)
//	3 ACCEPT  the dialer's id; the listener's id u64, window u32, host token u32 or 0; capabilities u32, but only
//	          if the INIT had some
//	4 REFUSE  the dialer's id: nobody accepts links here
//	5 PACKET  the receiver's id; everything else
//	6 GONE    an id for which a PACKET or LONG came, but which is not known here
//	7 LONG    a PACKET in a row of datagrams
//
// A dialer sends INIT, gets RETRY, sends INIT with the cookie, gets ACCEPT. Until the cookie has shown that the address is true the
// listener keeps nothing, and answers with less than it was sent. A cookie is good for 10 s and for one link. The INIT is repeated after
// 50 ms, 100 ms, ... up to 1 s; ACCEPT is repeated for each of them. Windows are the number of bytes that the other may send.
//
// Capabilities: bit 0 says that this end sees and sends codepoints of ECN, and knows their counts in ACKs; bit 1 that it sends and takes
// LONG. Bits that are not known mean nothing. Both ends have a capability or neither uses it; an end that knows of none sends 0 and gets none, so older ones work on.
//
// A host token is made of the kernel's boot id and the address and port that its sender uses (0: not known). If an INIT comes from those that
// its token was made for, the ends are processes of one host, perhaps in two network namespaces, and nothing repeats their datagrams; then
// the listener tells its own token, and the dialer checks it likewise. Between such ends the checksum may cover a PACKET up to its payload
// only: what guards kernel TCP there, the checksum of UDP and of whatever wire there may be, remains, and another one cost as much as the
// kernel's copy. Either end stops that, and takes no such packets any more, when
// the peer's address changes; an end whose packets are not acknowledged four probe timeouts in a row stops sending them.
//
// A PACKET goes on with a number u64, different for each PACKET of one direction, and then the blocks that its flags name, in this order:
//
//	0x04 ACK        largest number received u64; next byte of the stream wanted u64; window behind that u32; delay since
//	                largest came, in 8 us, u16; n u16 <= 64, with 0x8000 if counts follow; numbers received in a row before
//	                largest u32; counts: packets received with ECT(0), ECT(1), CE, u32 each, modulo 2^32;
//	                n times: numbers missing below u32 > 0, and received below those u32 > 0
//	0x10 CHALLENGE  token u64: who receives it sends it back to where it came from
//	0x20 RESPONSE   token u64
//	0x01 DATA       offset in the stream u64; the rest of the datagram, not empty, is bytes of the stream
//	0x02 FIN        without DATA: offset u64. The stream ends with this packet: no Send or Recv any more
//	0x08 ACKNOW     nothing; the packet shall be acknowledged at once
//	0x40 RESET      nothing; the link is broken
//	0x80 PAD        the rest is padding: a probe whether this length arrives. Not with DATA or FIN
//
// A LONG is a PACKET of up to 65280 bytes, between processes of one host that both know of it, over a path whose MTU is less: a row of datagrams,
// handed to the kernel at once (UDP_SEGMENT), of which only the first has a header. That has the packet's number in 6 bytes and its length u16
// behind them, and the checksum leaves out the payload. A datagram of the row has (length - 1) / 64 bytes, so there are 65 or some more. The
// receiver takes a LONG only if its kernel gives it as many bytes as the length says at once (UDP_GRO), which were more than 64
// datagrams: kernels join no more than 64, so nothing has taken this row apart. Whatever else begins with such a header is dropped
// and counted, up to the end of what was received at once.
//
// Packets with DATA, FIN, ACKNOW or PAD are acknowledged: after each batch of datagrams read that holds two (256, or 2 MiB, between
// processes of one host whose round trip is below 1 ms), or one out of order, or one with ACKNOW or FIN, or that came with CE; else within 1 ms, unless a packet
// takes the ACK along. ACKs wait for no window and no pacing. What is lost is sent again in packets with new numbers; the receiver drops
// numbers that it has seen, and bytes that it has.
//
// # Behaviour and constants
//
//   - Loss (RFC 9002): a packet is lost when one sent 3 later (up to 64, learnt from packets that turn up late), or 9/8 of the
//     round-trip time (up to twice, learnt likewise; at least 100 us) later, is acknowledged; all gaps at once. When all that was lost turns
//     up the window is given back. Probe timeout: SRTT + max(4 RTTVAR, 100 us) +
//     2 ms (the peer's delay, and what the runtime's timers are late), 20 ms at least between processes of one host (they wait for
//     processors), doubled up to 500 ms, two probes each.
//   - A link breaks with class PathDown when nothing gets through for max(8 SRTT, Options.PathDown), when the peer says GONE, or when its
//     host reports the port closed for a second. When no more data comes its receiver
//     asks after 250 ms, 500 ms, ... up to Options.PathDown (20 s at most) whether the path is still there, which also tells the peer a new
//     address. After that silence breaks no idle link: the session above notices it. But while a user waits in Recv the link asks on, 250 ms
//     after he came and then at twice the interval each time up to 20 to 30 s, unless something came from the peer meanwhile: a PACKET with ACKNOW only, which is
//     sent once, at a multiple of 250 ms, so that thousands of idle links seldom wake the process. So a peer that ended the link, and whose FIN and RESET got lost, says GONE; that is shorter, and it says so 1000 times
//     a second at most.
//   - Congestion: CUBIC (RFC 9438) with HyStart++ (RFC 9406), 32 packets at first. Where the round trip is 5 ms or more, and no longer than
//     ever (by 2 ms or a 32nd), losses up to 3 % of all bytes are ignored, and up to 15 % take 5 % of the window. Pacing at 1.25 windows per round trip (2 in slow
//     start) in bursts of 1 ms, only where the round trip is 1 ms or more or a packet was lost in the last second.
//   - ECN (RFC 3168; RFC 9000, section 13.4), not between processes of one host: packets with DATA, FIN, ACKNOW or PAD are sent with ECT(0).
//     A link, and each path that it moves to, begins with about 10, and goes on when the counts of an ACK show that they came through; two probe
//     timeouts in a row make it look again. It stops, until the next path, where counts miss what is acknowledged (cleared on the way), have ECT(1) or,
//     for 8 round trips and 32 packets, nothing but CE (changed on the way), exceed what was sent or run backwards (a peer that lies), or
//     where all packets with ECT(0) are lost. CE takes 15 % of the window (RFC 8511), 30 % in slow start, once per round trip. On paths of 5 ms
//     or more where ECN isn't off, bursts are 2 ms or 10 packets instead of 60 KiB: they would be marked.
//   - Flow: 1 MiB at first, up to Options.Window or half the socket's buffer as the user keeps up, 2 MiB between processes of one host whose
//     round trip is below 1 ms: that is still in the cache when it is read. A closed window is probed. Between such processes as much may be in
//     flight whatever CUBIC says, as long as nothing was lost for 10 s: there is nothing but the receiver's own buffer that could overflow;
//     but 256 KiB at most where both ends are on one processor: they take turns, and that fits its second-level cache.
//   - Packets fill the MTU on loopback; elsewhere they begin with 1232 bytes and longer ones are probed for up to the MTU of the first hop
//     (RFC 8899). Three timeouts in a row with longer packets, and 150 ms, lead
//     back to 1200, and to new probes after 5 s.
//   - LONG is used when a probe of that length was acknowledged; it is sent 10 ms after the link was made, where the round trip is below 1 ms.
//     When one is lost and nothing that long sent later arrives the link goes on without, at once, and probes again after 1 s, then 2 s, up to a minute. What is
//     sent after a timeout is never LONG; nor is anything when the peer's address has changed.
//   - Sends in a quick row (8 of them, 50 us apart) are joined to full packets while a packet with ACKNOW is in flight, for at most 200 us.
//     The last packet for now has ACKNOW if a window holds back what follows, or in such a row if no other one with it is in flight.
//   - Close sends what is left and FIN, from a copy, for 2 s at most.
//
// Limits: ECN on Linux only; a listener on all addresses of a host with several answers from the one that the route chooses; no protection against somebody who reads the path and wants to break links (the session's own encryption guards what is
// carried). Off Linux one system call moves one datagram.
//
// The simulator: go test ./substrate_udp -run TestSimulator -udp.seeds=5000
package udp
