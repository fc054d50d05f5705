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
	p := Probe{Op: ProbeOp(b[0]), Len: int(be.Uint32(b[4:]))}
	switch {
	case b[1] != 0 || b[2] != 0 || b[3] != 0,
		p.Op == ProbeEcho && p.Len > MaxProbeEcho,
		p.Op == ProbeTrain && p.Len > MaxProbeTrain,
		p.Op != ProbeEcho && p.Op != ProbeTrain:
		return Probe{}, formatError("probe %x", b)
	}
	return p, nil
}
