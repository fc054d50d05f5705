package sys

import "net/netip"

// A UDPMessage is a datagram received, or several that the kernel joined (UDP_GRO): all of Segment bytes but the last, which may
// be shorter.
type UDPMessage struct {
	Buf []byte // where to put it; set by the caller
	// Head and Body, if they are not empty, are filled before Buf: so what follows a header of known length lands where it is wanted. A
	// reader that can't do that empties them.
	Head, Body []byte
	N          int // how many bytes are filled
	Segment    int // the size of one datagram; N if there is only one
	From       netip.AddrPort
	ECN        byte // the codepoint of all of them, if ReceiveUDPECN was asked for
	// Truncated: the datagram was longer than the space for it.
	Truncated bool
}
