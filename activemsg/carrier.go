package activemsg

import "time"

// A Carrier moves segments between two endpoints, in order, none lost or doubled until it breaks. Send is called by one
// goroutine at a time, Recv by one; Done and Close by any.
type Carrier interface {
	// Limits says what the path can take. It doesn't change.
	Limits() Limits

	// Send transmits a segment: the header and the bytes of payload, no more than Limits.Payload. It is done with both when it
	// returns. It may wait for the local transmitter but must not wait for the peer to handle what it has received: the
	// endpoint sees to it that the peer has a slot. For the peer's Recv it may wait only as far as Limits.Waits says.
	Send(head *[HeaderLen]byte, payload [][]byte) error

	// Recv waits for segments and puts as many as have arrived into batch, at least one. It returns an error, of which a
	// *substrate.Error is passed on as it is, when no more will come.
	Recv(batch []Segment) (int, error)

	// Done gives the slot of a segment back to the carrier: nobody looks at its Payload any more. The peer may use the slot after the next
	// Send, which can tell it so; until then the carrier may put off what it has to do for that. Slots come back in any order.
	Done(s *Segment)

	// Close frees the carrier and ends Send and Recv, also those that wait. What was sent just before still goes out if
	// the path is good; for that Close may wait a tenth of a second. Segments that are not Done may still be looked at.
	Close() error
}

// Limits are the bounds of a Carrier.
type Limits struct {
	Payload int           // most bytes after the header of one segment
	Slots   int           // segments that each end can hold between Recv and Done; ControlSlots and a power of two are used
	Inline  int           // payloads up to so many bytes cost least; 0: no difference
	Direct  int           // bytes from which on Place costs less than segments; 0 is 32 KiB, what copying costs as much as an advert and its answer
	Chunk   int           // most bytes that Place is given at a time, so that heartbeats get through in between; 0 is 1 MiB
	Look    time.Duration // most time to look for a segment before sleeping; 0: never. For a Poller
	Waits   int           // if not 0: with more unreleased bytes under way, headers included, Send may have to wait until the peer is in Recv
}

// A Batcher is a Carrier that sends several segments at less cost together than one by one.
type Batcher interface {
	Carrier

	// SendBatch is Send of each of the segments in turn. Their Slots mean nothing.
	SendBatch(batch []Segment) error
}

// A Poller is a Carrier whose segments can be taken by whoever waits for one, without a goroutine in between that sleeps in Recv. An endpoint
// uses these three instead of Recv.
type Poller interface {
	Carrier

	// Poll takes segments that have arrived, as Recv does. If there are none it looks for them for d, or less, and returns 0. One goroutine at a
	// time calls it or Arm.
	Poll(batch []Segment, d time.Duration) (int, error)

	// Arm makes the next segment end Sleep. One may have come just before, so Poll once more before sleeping.
	Arm() error

	// Sleep waits for a segment that comes after Arm, or the end of the carrier. It may also return without reason. One goroutine at a time
	// calls it, while others Poll.
	Sleep() error
}

// A Segment is what a Carrier received.
type Segment struct {
	Head    [HeaderLen]byte
	Payload []byte // until Done
	Slot    uint64 // the carrier's own
}

// A Placer is a Carrier that can put bytes into buffers of the other end, past all slots.
type Placer interface {
	Carrier

	// Expose lets the peer write into buf by the key returned, until Hide. It fails with an error that wraps errors.ErrUnsupported
	// if buf isn't memory that the carrier can expose.
	Expose(buf []byte) (Key, error)

	// Hide takes the permission back. When it returns no write of the peer changes the buffer any more. It is called once for each Key,
	// also after Close.
	Hide(Key)

	// Place writes the payload to where k begins in the peer's buffer. It is visible there before any segment that is sent later. It
	// is called as Send is, and is done with the payload when it returns.
	Place(k Key, payload [][]byte) error
}

// A Forgetter is a Carrier that keeps the memory of segments until they are Done, also after Close.
type Forgetter interface {
	Carrier

	// Forget says, after Close, that nobody looks at any segment any more, whether it is Done or not.
	Forget()
}

// A Patient is a Carrier whose Send waits for a device, which may stop working without a word.
type Patient interface {
	Carrier

	// Patience says how long the device may do nothing while Send waits; then the path is down. It is called before the first Send, with Config.Death.
	Patience(d time.Duration)
}

// A Tuner is a Carrier that measures from how many bytes on Place costs less than segments; it takes the place of Limits.Direct.
type Tuner interface {
	Carrier

	// Direct may change at any time.
	Direct() int
}

// A Key names an exposed buffer, or with a larger Addr and smaller Len the rest of one.
type Key struct {
	Addr uint64
	RKey uint32
	Len  uint32
}
