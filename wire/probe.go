package wire

// A link of KindProbe carries, after its handshake, requests of the dialer and answers of the listener, in order. A request for
// an echo carries bytes that come back with the answer; the bytes of a train are thrown away and answered by the header alone.

// A ProbeOp says what is asked.
type ProbeOp uint8

// The operations.
const (
	ProbeEcho  ProbeOp = 1
	ProbeTrain ProbeOp = 2
)

// Bounds of a probe.
const (
	ProbeHeader   = 8
	MaxProbeEcho  = 4 << 10
	MaxProbeTrain = 4 << 20
)

// Probe is the header of a request and of its answer.
type Probe struct {
	Op  ProbeOp
	Len int // bytes that follow the request
}

// Append appends p to b.
func (p Probe) Append(b []byte) []byte {
	return be.AppendUint32(append(b, byte(p.Op), 0, 0, 0), uint32(p.Len))
}

// ParseProbe decodes a header.
func ParseProbe(b []byte) (Probe, error) {
	if len(b) != ProbeHeader {
		return Probe{}, formatError("probe header of %d bytes, want %d", len(b), ProbeHeader)
	}
	op, n := ProbeOp(b[0]), be.Uint32(b[4:]) // not an int yet: that may have 32 bits, and a sign
	switch {
	case b[1] != 0 || b[2] != 0 || b[3] != 0,
		op == ProbeEcho && n > MaxProbeEcho,
		op == ProbeTrain && n > MaxProbeTrain,
		op != ProbeEcho && op != ProbeTrain:
		return Probe{}, formatError("probe %x", b)
	}
	return Probe{Op: op, Len: int(n)}, nil
}
