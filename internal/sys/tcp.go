package sys

import "time"

// TCPState is the state of a TCP connection, as the kernel numbers it.
type TCPState uint8

// The states that somebody asks about; the others have numbers too.
const (
	TCPEstablished TCPState = 1
	TCPClosed      TCPState = 7 // after a reset, seen or sent
	TCPCloseWait   TCPState = 8 // the peer has ended its side in an orderly way
)

// TCPStats is what the kernel knows about one TCP connection. A zero field is unknown.
type TCPStats struct {
	State     TCPState
	RTT       time.Duration // smoothed round-trip time
	RTTVar    time.Duration // its mean deviation
	SinceAck  time.Duration // since the last acknowledgement arrived: the age of the figures above
	Delivered uint32        // segments the peer has acknowledged
	SegsOut   uint32        // segments sent, repeated ones included
	Retrans   uint32        // segments repeated
	// DeliveryRate is in bytes per second: the best recent one. It says what the path can do only if AppLimited is false, else
	// how little the sender had to say.
	DeliveryRate uint64
	AppLimited   bool
}
