// Package activemsg carries active messages between two processes: each message names the handler that the peer runs for it.
// It follows Illinois Fast Messages 2.x (Lauria, Pakin, Chien: Efficient Layering for High Speed Communication: Fast Messages
// 2.x, HPDC 1998) and adds what clusters have learned since: errors, peers that die, and credits that can't deadlock.
//
//	var h activemsg.Handlers
//	h.Stream(1, func(in *activemsg.In) {
//		var head [8]byte
//		io.ReadFull(in, head[:])                   // the message is still arriving
//		io.ReadFull(in, where(head))               // where the rest goes may depend on what came first
//	})
//	ep, err := activemsg.New(carrier, &h, activemsg.Config{})
//	out, err := ep.Begin(ctx, 1, 8+len(body))
//	out.Piece(head)                                    // gathered, not copied
//	out.Piece(body)
//	err = out.End()                                    // the pieces are the caller's again
//
// # Messages and handlers
//
// A message is cut into segments. Its handler starts when the first of them has come. There are two kinds of handlers:
//
//   - Stream handlers run in a goroutine of their own and Read the message piece by piece, waiting for what has not come yet.
//     Several run at a time; the segments of their messages may come interleaved.
//   - Quick handlers get messages of one segment, whole, in the order in which they were sent, one at a time, on a goroutine that receives. They
//     must not wait for anything: neither for locks that are held while messages are sent nor for credit. They may send with
//     TryShort and TrySend.
//
// # Flow control
//
// A segment occupies one of the receiver's slots until its handler has read it, and a sender has one credit per slot: who
// has none waits in turn (Piece, End, Short) or is told so (TryShort, TrySend). Credits come back in the header of every segment that goes
// the other way, or by themselves when half of them are due or the sender has none left. Slots for control are set apart and their number is
// bounded by what can be under way (see ControlSlots), so credits, heartbeats and adverts never wait for a handler.
//
// With Config.Manual nothing is handled but inside Extract, whose caller says how many bytes it is willing to take: the peer's
// senders wait for the rest. A handler that doesn't read holds slots; when more than half of them are held and the oldest stands still,
// its message is moved to ordinary memory, up to Config.Buffer bytes in all, so that messages for other handlers get through. Only beyond that does
// everybody wait for it: handlers at both ends that wait for credits then may wait for each other, so answer with TryShort or TrySend.
//
// Who waits for a message does so best with Wait: over a carrier that can be polled it looks for messages itself, and nobody must wake it.
//
// Small messages that are sent while the carrier is busy are handed to it together, in one call; none waits for company.
//
// # Placement
//
// A receiver that knows what comes next can Post a buffer for it, and the sender's Place puts the bytes there with no copy in between
// that the carrier can avoid. A post is an offer: when the sender has passed the offset already, it goes unused until it is cancelled. It pays
// from Endpoint.Direct bytes on.
//
// # Failure
//
// Messages arrive in order and once, until the path breaks; then everything fails with a *substrate.Error of class PathDown (the path broke or
// went silent), PeerGone (the peer closed its endpoint) or Protocol. A silent peer is noticed within Config.Death, less than a
// second unless configured. What was sent may or may not have been handled: only an answer from the peer's handler tells.
//
// # Carriers
//
// Pipe joins two endpoints of one process, Framed uses any substrate.Link (shared memory, TCP), package rdma below this one an RDMA queue
// pair. A carrier is trusted, the peer is not: whatever it sends, the worst is an error. The format of segments, and more on all of this:
// docs/activemsg.md.
package activemsg
