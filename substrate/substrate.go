// Package substrate is the contract between a session and whatever carries its bytes: kernel TCP, reliable UDP, shared
// memory, active messages over RDMA. A substrate makes Links; a session binds itself to one Link at a time, replaces it
// when it dies, and never depends on which kind it is.
//
// What a Link promises is small on purpose: bytes in order between two processes, until it breaks. It promises nothing
// about delivery: a byte that Send accepted is still the session's to keep until the *peer's session* has acknowledged it.
// Everything that makes a connection survive (replay, acknowledgement, duplicate removal) lives above.
//
// Package substratetest holds the conformance suite that every implementation must pass.
package substrate

import (
	"context"
	"math"
	"net"
	"time"
)

// Unkept is the offset of bytes that are no part of the session's stream: handshakes, frames, records. A link is done with
// such slices when Send returns, whatever its Caps.
const Unkept uint64 = math.MaxUint64

// A Substrate makes links over one kind of transport. Its methods are safe for concurrent use.
type Substrate interface {
	// Name is the short name users see and pin: "tcp", "udp", "shm", "verbs".
	Name() string

	// Caps says what links of this substrate can do.
	Caps() Caps

	// Dial opens a link to address, whose form is the substrate's own (TCP: "host:port"). It respects ctx for its whole
	// length. Its errors are *Error with a class: Refused when the path works but nobody listens, PathDown when the peer can't
	// be reached, Config when address makes no sense here.
	Dial(ctx context.Context, address string) (Link, error)

	// Listen accepts links at address.
	Listen(ctx context.Context, address string) (Listener, error)
}

// A Listener accepts links. Its methods are safe for concurrent use.
type Listener interface {
	// Accept waits for the next link. After Close it returns an error that wraps net.ErrClosed; any other error is
	// transient (for example: out of file descriptors) and Accept may be called again.
	Accept() (Link, error)

	// Addr is the address a peer can pass to Dial; ports chosen by the system are filled in.
	Addr() net.Addr

	// Close stops accepting and unblocks Accept. Links already accepted live on.
	Close() error
}

// A Link is one ordered path between two processes.
//
// Send and Recv may run at the same time in two goroutines, but there is at most one Send and at most one Recv (or Drain)
// at any moment. The other methods may be called at any time from any goroutine.
type Link interface {
	// Send transmits the gather list bufs, whose first byte stands at stream offset off, and returns how many bytes the
	// link took. It blocks until it has taken all of them, or the send deadline passes, or the link breaks or is interrupted;
	// then n tells how many were taken before, and err why no more (os.ErrDeadlineExceeded for the deadline).
	//
	// If Caps.Retains is false the link is done with the slices when Send returns. If it is true the link may keep them, to
	// retransmit or to DMA from them, and they stay unchanged until Release says that they are not needed any more, or Close
	// has returned: no second copy is made below the session's send buffer. off is for such links; a byte-stream link ignores it. Bytes sent
	// at offset Unkept are never kept. The offsets of other Sends follow each other without a gap.
	Send(off uint64, bufs [][]byte) (n int, err error)

	// Release tells the link that the peer's session has acknowledged everything before off: slices below it, if the link
	// kept any, go back to the session when Release returns.
	Release(off uint64)

	// Recv fills p with the next bytes, as far as they have arrived, and blocks until there is at least one. A link that can
	// places bytes directly into p (a posted buffer). It returns io.EOF when the peer ended the link in an orderly way, an
	// *Error of class PathDown or PeerGone when it broke, os.ErrDeadlineExceeded when the receive deadline passed. Bytes that
	// arrived before an end are returned before the error.
	Recv(p []byte) (n int, err error)

	// Drain fills p with bytes that have already arrived, without blocking, even after Interrupt or after the link
	// broke (as far as the transport kept them). It returns 0, nil when there are none now and 0, err when there never will be.
	Drain(p []byte) (n int, err error)

	// SetSendDeadline and SetRecvDeadline bound present and future calls; the zero time means none.
	SetSendDeadline(t time.Time) error
	SetRecvDeadline(t time.Time) error

	// Interrupt makes a blocked Send and Recv, and every later one, return at once with ErrInterrupted. It doesn't close the
	// link: Drain still works. It is how a session stops delivery from an old link *before* it announces a resume offset.
	Interrupt()

	// Close frees the link. Bytes that Send took may or may not reach the peer; a link that kept slices is done with them when Close
	// returns, and sends what it still wants to send from a copy. It doesn't block on the network.
	Close() error

	// Cost says what this path costs now, as far as the substrate can tell by itself (TCP: the kernel's estimates).
	Cost() Cost

	// LocalAddr and RemoteAddr are the physical addresses of the moment; applications never see them.
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

// A Keeper is a Link that holds by itself what it took and its peer's end hasn't: in the ring of shared memory a byte stays
// where it is until the other process has it. The session then needs no copy for replay: after the link's end it takes back
// from Kept what it must send again.
//
// Positions count the bytes that Send took since the link was made.
type Keeper interface {
	Link

	// Taken returns the position before which the peer's end of the link has every byte: its Recv or Drain has returned them, or
	// is just returning them. It never falls and is never above what Send took, whatever the peer does. It is cheap, and may be
	// called at any time from any goroutine.
	Taken() uint64

	// Kept returns everything from position from, which is not below an earlier Taken, to the last byte that Send took. The
	// slices are good until Close. It is called after Interrupt, when no Send runs any more.
	Kept(from uint64) [][]byte
}

// A Gatherer is a Keeper whose Send costs so much, whatever its length, that small writes in quick succession are better gathered and handed to
// it together, as they are for the kernel's TCP.
type Gatherer interface {
	Keeper

	// Gather is the length up to which a write counts as small. It doesn't change.
	Gather() int
}

// A Mover is the part of a Link that moves bytes; see there.
type Mover interface {
	Send(off uint64, bufs [][]byte) (n int, err error)
	Recv(p []byte) (n int, err error)
}

// A Sole is a Link that is told when nobody but its user keeps Send and Recv apart from Close.
type Sole interface {
	Link

	// Sole returns the link's Send and Recv for a user who promises that Close is called after the last of them has returned: after
	// Interrupt that is soon. They are those of the link, without what they do so that Close may come at any time.
	Sole() Mover
}

// A Describer is a Substrate that can say more of its paths than their addresses.
type Describer interface {
	// Describe says in words by which device the path to an address leads that was dialled before, and how it is tuned; "" if it doesn't
	// know. It may wait, until ctx ends, for a measurement that is under way.
	Describe(ctx context.Context, address string) string
}

// A Borrower is a Link with Caps.Retains that also sends from memory which it may keep for a while only: that of a Write which has not returned
// yet. What the peer has by then need never be copied.
type Borrower interface {
	Link

	// Borrows is the length from which a write is better sent so. It doesn't change.
	Borrows() int

	// Borrow is Send of p. The link may keep p, which nobody changes, until Return. Return follows whatever Borrow returned, and before another Send
	// or Borrow.
	Borrow(off uint64, p []byte) (n int, err error)

	// Return says that bufs has the bytes that Borrow took from off on, and that the peer's session has acknowledged those before off.
	// The link is done with the borrowed memory when Return returns, and keeps bufs as if they had been sent from there.
	Return(off uint64, bufs [][]byte)
}

// Caps says what the links of a substrate can do. The zero Caps is a plain byte stream.
type Caps struct {
	// Retains: Send keeps the slices until Release (UDP retransmits from them, verbs posts from them).
	Retains bool
	// SameHost: only processes on one host can be joined.
	SameHost bool
	// MaxSend is the number of bytes above which a Send is better split by the caller; 0 means no opinion.
	MaxSend int
}

// Source says where the figures of a Cost come from.
type Source uint8

// The sources of a Cost. Priors only order probes; nothing is chosen on one (design, section 3).
const (
	SourceNone Source = iota
	SourcePrior
	SourceKernel
	SourceProbe
)

// String names the source as it is shown to users.
func (s Source) String() string {
	switch s {
	case SourcePrior:
		return "prior"
	case SourceKernel:
		return "kernel"
	case SourceProbe:
		return "probe"
	}
	return "none"
}

// Cost is a LogGP-like model of a path: the time to move n bytes one way is about SendOverhead + RTT/2 + n*PerByte. A
// zero field is unknown.
type Cost struct {
	RTT          time.Duration // round-trip time of a small message
	Jitter       time.Duration // mean deviation of RTT
	SendOverhead time.Duration // CPU time of the sender per message
	PerByte      float64       // nanoseconds per byte at full rate
	Loss         float64       // fraction of packets lost, 0..1
	Samples      int           // how many measurements stand behind it
	Age          time.Duration // how old the newest of them is
	Source       Source
}

// OneWay estimates the time to move a message of n bytes to the peer.
func (c Cost) OneWay(n int) time.Duration {
	return c.SendOverhead + c.RTT/2 + time.Duration(float64(n)*c.PerByte)
}
