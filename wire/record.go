package wire

import (
	"fmt"

	"github.com/sockemu/sockemu/gid"
)

// A Type is the kind of a control record. Types of 128 and above are optional: a receiver that doesn't know one skips it. An
// unknown type below 128 is a protocol violation.
type Type uint8

// The control records.
const (
	TypeState  Type = 1 // where the sender's end of a connection stands
	TypeAttach Type = 2 // proof that the sender holds the connection: its records may travel on this channel
	TypeNak    Type = 3 // answer to Attach: refused
	TypeReset  Type = 4 // the connection has ended abnormally
	TypePing   Type = 5 // answer with a Pong of the same token
	TypePong   Type = 6
	TypeSlot   Type = 7 // the connection's place on the page of memory that the two processes share
)

// Flags of a State.
const (
	StateFin      = 1 << 0 // Sent is final: the stream ends there
	StateClosed   = 1 << 1 // the sender's application will read no more
	StateReply    = 1 << 2 // answer with a State
	StateStarved  = 1 << 3 // a reader waits on link LinkNo and nothing has arrived
	StateLinkDown = 1 << 4 // the sender has no link; those up to LinkNo are dead
	StateFinSeen  = 1 << 5 // the sender knows where the receiver's stream ends
	StateDone     = 1 << 6 // the sender's stream is complete: it knows that the receiver has all of it
	stateFlags    = 1<<7 - 1
)

// AttachAcceptor is a flag of Attach and Nak: of the two ends, the one that had accepted the connection is meant by its sender as its
// own (Attach) or by its receiver (Nak).
const AttachAcceptor = 1 << 0

// Sizes of records.
const (
	RecordHeader  = 4
	MaxRecord     = 256 // longest record accepted, header included
	MACSize       = 16
	stateBody     = gid.Size + 4*8
	attachBody    = gid.Size + MACSize
	shortBody     = gid.Size + 1
	pingBody      = 8
	slotBody      = gid.Size + 4 + 2
	StateSize     = RecordHeader + stateBody
	optionalTypes = 128
)

// Record is one control record; which fields count depends on Type. State records carry everything there is to say about
// one end of a connection, in values that only grow: they may be lost, repeated or overtaken, and the newest is sent again
// on every new channel.
type Record struct {
	Type  Type
	Flags uint8
	GID   gid.GID

	// State.
	LinkNo uint64 // the link the sender receives on (0: none)
	Ack    uint64 // the sender's session has every byte before this offset
	Limit  uint64 // in record mode the peer may send up to this offset
	Sent   uint64 // the sender's application has written this much

	MAC  [MACSize]byte // Attach
	Slot uint32        // Slot: index
	Gen  uint16        // Slot: generation
	Code Status        // Nak, Reset

	Token uint64 // Ping, Pong
}

// Append appends the encoding of r to b.
func (r *Record) Append(b []byte) []byte {
	b = append(b, byte(r.Type), r.Flags, 0, 0)
	at := len(b)
	switch r.Type {
	case TypeState:
		b = append(b, r.GID[:]...)
		b = be.AppendUint64(b, r.LinkNo)
		b = be.AppendUint64(b, r.Ack)
		b = be.AppendUint64(b, r.Limit)
		b = be.AppendUint64(b, r.Sent)
	case TypeAttach:
		b = append(b, r.GID[:]...)
		b = append(b, r.MAC[:]...)
	case TypeNak, TypeReset:
		b = append(b, r.GID[:]...)
		b = append(b, byte(r.Code))
	case TypePing, TypePong:
		b = be.AppendUint64(b, r.Token)
	case TypeSlot:
		b = append(b, r.GID[:]...)
		b = be.AppendUint32(b, r.Slot)
		b = be.AppendUint16(b, r.Gen)
	}
	be.PutUint16(b[at-2:], uint16(len(b)-at))
	return b
}

// ParseRecord decodes the record at the start of b into r and returns how many bytes it took; 0 means that b doesn't hold a
// whole record yet. A record of an unknown optional type is returned with only Type set.
func ParseRecord(b []byte, r *Record) (int, error) {
	if len(b) < RecordHeader {
		return 0, nil
	}
	*r = Record{Type: Type(b[0]), Flags: b[1]}
	n := RecordHeader + int(be.Uint16(b[2:]))
	want := 0
	switch r.Type {
	case TypeState:
		want = stateBody
	case TypeAttach:
		want = attachBody
	case TypeNak, TypeReset:
		want = shortBody
	case TypePing, TypePong:
		want = pingBody
	case TypeSlot:
		want = slotBody
	default:
		if r.Type < optionalTypes {
			return 0, formatError("unknown mandatory record type %d", r.Type)
		}
		if n > MaxRecord {
			return 0, formatError("record of %d bytes, at most %d", n, MaxRecord)
		}
		if len(b) < n {
			return 0, nil
		}
		*r = Record{Type: r.Type}
		return n, nil
	}
	if n != RecordHeader+want {
		return 0, formatError("record type %d of %d bytes, want %d", r.Type, n, RecordHeader+want)
	}
	if r.Flags&^flagsOf(r.Type) != 0 {
		return 0, formatError("record type %d with unknown flags %#x", r.Type, r.Flags)
	}
	if len(b) < n {
		return 0, nil
	}
	body := b[RecordHeader:n]
	if want != pingBody {
		copy(r.GID[:], body)
	}
	switch r.Type {
	case TypeState:
		r.LinkNo, r.Ack, r.Limit, r.Sent = be.Uint64(body[16:]), be.Uint64(body[24:]), be.Uint64(body[32:]), be.Uint64(body[40:])
	case TypeAttach:
		copy(r.MAC[:], body[16:])
	case TypeNak, TypeReset:
		r.Code = Status(body[16])
	case TypePing, TypePong:
		r.Token = be.Uint64(body)
	case TypeSlot:
		r.Slot, r.Gen = be.Uint32(body[16:]), be.Uint16(body[20:])
	}
	return n, nil
}

// flagsOf returns the flags that records of a type may have.
func flagsOf(t Type) uint8 {
	switch t {
	case TypeState:
		return stateFlags
	case TypeAttach, TypeNak:
		return AttachAcceptor
	}
	return 0
}

// String shows the record for logs.
func (r *Record) String() string {
	switch r.Type {
	case TypeState:
		return fmt.Sprintf("STATE %s link=%d ack=%d limit=%d sent=%d flags=%#x", r.GID.Short(), r.LinkNo, r.Ack, r.Limit, r.Sent, r.Flags)
	case TypeAttach:
		return "ATTACH " + r.GID.Short()
	case TypeNak:
		return "NAK " + r.GID.Short() + ": " + r.Code.String()
	case TypeReset:
		return "RESET " + r.GID.Short() + ": " + r.Code.String()
	case TypePing:
		return fmt.Sprintf("PING %d", r.Token)
	case TypePong:
		return fmt.Sprintf("PONG %d", r.Token)
	case TypeSlot:
		return fmt.Sprintf("SLOT %s index=%d gen=%d", r.GID.Short(), r.Slot, r.Gen)
	}
	return fmt.Sprintf("record %d", r.Type)
}
