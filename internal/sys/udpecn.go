package sys

// The codepoints of ECN in the two low bits of an IP packet's traffic class (RFC 3168, section 5).
const (
	NotECT = 0 // the sender doesn't know of ECN
	ECT1   = 1
	ECT0   = 2 // the sender does
	CE     = 3 // congestion experienced, says a router
)
