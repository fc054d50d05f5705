package netem

import (
	"encoding/binary"
	"fmt"

	"github.com/sockemu/sockemu/internal/sys"
)

// An ECN is a packet's codepoint of explicit congestion notification (RFC 3168): whether its ends know of it, and whether a router
// was congested.
type ECN uint8

// The codepoints, as in the low bits of an IP packet's traffic class.
const (
	NotECT = ECN(sys.NotECT)
	ECT1   = ECN(sys.ECT1)
	ECT0   = ECN(sys.ECT0)
	CE     = ECN(sys.CE)
)

// String is the name that the RFC gives it.
func (e ECN) String() string {
	if names := [...]string{NotECT: "Not-ECT", ECT1: "ECT(1)", ECT0: "ECT(0)", CE: "CE"}; int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("ECN(%d)", uint8(e))
}

// passed returns the codepoint of a packet behind the path, if it was e before: the queue was longer than Mark or not.
func (im *Impairment) passed(e ECN, long bool) ECN {
	switch {
	case im.Bleach:
		return NotECT
	case im.Mangle:
		return CE
	case long && e != NotECT:
		return CE
	}
	return e
}

// ecnOf is the codepoint of an IP packet.
func ecnOf(b []byte) ECN {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return ECN(b[1] & 3)
	case len(b) >= 40 && b[0]>>4 == 6:
		return ECN(b[1] >> 4 & 3)
	}
	return NotECT
}

// setECN changes the codepoint of an IP packet, and with it the checksum of an IPv4 header (RFC 1624).
func setECN(b []byte, e ECN) {
	switch {
	case ecnOf(b) == e:
	case b[0]>>4 == 6:
		b[1] = b[1]&^0x30 | byte(e)<<4
	default:
		was := binary.BigEndian.Uint16(b)
		b[1] = b[1]&^3 | byte(e)
		sum := uint32(^binary.BigEndian.Uint16(b[10:])) + uint32(^was) + uint32(binary.BigEndian.Uint16(b))
		sum = sum&0xffff + sum>>16
		sum += sum >> 16
		binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	}
}
