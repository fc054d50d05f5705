package activemsg

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the length of the header in front of each segment, in bytes.
const HeaderLen = 24

// A header says what a segment is. All numbers are little-endian:
//
//	 0  u8  id        handler, or the kind of a control segment
//	 1  u8  flags
//	 2  u16 message   number of the message among those that its sender has open; 0 if it is one segment
//	 4  u32 length    of the payload
//	 8  u32 seq       number of this data segment, from 0, wrapping; control segments have none
//	12  u32 released  how many of the other direction's data segments the sender of this one has done with
//	16  u64 arg       first segments: the most bytes that the message will have; control: depends on the kind
type header struct {
	id       uint8
	flags    uint8
	message  uint16
	length   uint32
	seq      uint32
	released uint32
	arg      uint64
}

// Flags of a segment.
const (
	flagFirst   = 1 << iota // starts a message
	flagLast                // ends it
	flagAbort               // with flagLast: the sender gave up in the middle
	flagControl             // is for the endpoint itself

	flagsKnown = flagFirst | flagLast | flagAbort | flagControl
)

// Kinds of control segments.
const (
	controlGrant  = iota // nothing but the released count
	controlPing          // arg comes back in a pong
	controlPong          //
	controlBye           // the sender closes its endpoint
	controlPost          // advert of a posted buffer: arg is its place in the table, the payload says what
	controlCancel        // arg: an advert that shall not be used any more
	controlPlaced        // arg: an advert that is used up, low 32 bits; bytes placed, high 32 bits
	controlKinds
)

func (h *header) put(b *[HeaderLen]byte) {
	b[0], b[1] = h.id, h.flags
	binary.LittleEndian.PutUint16(b[2:], h.message)
	binary.LittleEndian.PutUint32(b[4:], h.length)
	binary.LittleEndian.PutUint32(b[8:], h.seq)
	binary.LittleEndian.PutUint32(b[12:], h.released)
	binary.LittleEndian.PutUint64(b[16:], h.arg)
}

// parse reads a header whose segment brought payload bytes, and checks it as far as it can be checked by itself.
func (h *header) parse(b *[HeaderLen]byte, payload int) error {
	*h = header{
		id: b[0], flags: b[1],
		message:  binary.LittleEndian.Uint16(b[2:]),
		length:   binary.LittleEndian.Uint32(b[4:]),
		seq:      binary.LittleEndian.Uint32(b[8:]),
		released: binary.LittleEndian.Uint32(b[12:]),
		arg:      binary.LittleEndian.Uint64(b[16:]),
	}
	switch {
	case h.flags&^flagsKnown != 0:
		return fmt.Errorf("unknown flags %#x", h.flags)
	case uint64(h.length) != uint64(payload):
		return fmt.Errorf("a segment of %d bytes says it has %d", payload, h.length)
	case h.flags&flagControl != 0 && (h.flags != flagControl || h.id >= controlKinds || h.message != 0 || h.seq != 0):
		return fmt.Errorf("malformed control segment of kind %d", h.id)
	case h.flags&flagControl != 0 && payload != controlLen(h.id):
		return fmt.Errorf("control segment of kind %d with %d bytes", h.id, payload)
	case h.flags&flagAbort != 0 && h.flags != flagAbort|flagLast:
		return fmt.Errorf("flags %#x contradict each other", h.flags)
	case h.flags&flagFirst != 0 && h.flags&flagLast != 0 && h.message != 0:
		return fmt.Errorf("a message of one segment has number %d", h.message)
	case int(h.message) >= maxOpen:
		return fmt.Errorf("message number %d is out of range", h.message)
	}
	return nil
}

// seq is the number of a data segment whose header was parsed.
func (s *Segment) seq() uint32 { return binary.LittleEndian.Uint32(s.Head[8:]) }

func controlLen(kind uint8) int {
	if kind == controlPost {
		return advertLen
	}
	return 0
}
