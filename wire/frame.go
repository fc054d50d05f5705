package wire

// A FrameType is the kind of a frame on a data link in record mode.
type FrameType uint8

// The frames. A link begins in record mode, each direction for itself, and leaves it for good with FrameBare.
const (
	FrameData FrameType = 1 // application bytes, the next ones of the stream
	FrameCtrl FrameType = 2 // control records, about this link's connection only
	FrameBare FrameType = 3 // after this frame: application bytes and nothing else; its body is padding
)

// Sizes of frames.
const (
	FrameHeader = 4
	MaxPayload  = 64 << 10 // longest payload, before sealing
	TagSize     = 16       // what sealing adds
	MaxBody     = MaxPayload + TagSize
	MaxPadding  = 63 // of FrameBare: enough to begin the stream at a multiple of 64
)

// PutFrameHeader writes the header of a frame whose body (tag included) has n bytes.
func PutFrameHeader(b []byte, t FrameType, n int) {
	be.PutUint32(b, uint32(t)<<24|uint32(n))
}

// ParseFrameHeader decodes the header of a frame; sealed says whether its body must hold a tag.
func ParseFrameHeader(b []byte, sealed bool) (t FrameType, n int, err error) {
	if len(b) < FrameHeader {
		return 0, 0, formatError("frame header of %d bytes", len(b))
	}
	v := be.Uint32(b)
	t, n = FrameType(v>>24), int(v&0xffffff)
	low, high := 0, MaxPayload
	if sealed {
		low, high = TagSize, MaxBody
	}
	switch {
	case t < FrameData || t > FrameBare:
		return 0, 0, formatError("unknown frame type %d", t)
	case n < low || n > high:
		return 0, 0, formatError("frame of %d bytes, want %d..%d", n, low, high)
	case t == FrameBare && (sealed || n > MaxPadding):
		return 0, 0, formatError("bad switch to bare mode")
	}
	return t, n, nil
}
