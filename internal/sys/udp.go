package sys

import "net/netip"

// A UDPMessage is a datagram received, or several that the kernel joined (UDP_GRO): all of Segment bytes but the last, which may
// be shorter.
type UDPMessage struct {
	Buf     []byte // where to put it; set by the caller
	N       int    // how many bytes of Buf are filled
	Segment int    // the size of one datagram; N if there is only one
	From    netip.AddrPort
	// Truncated: the datagram was longer than Buf.
	Truncated bool
}
