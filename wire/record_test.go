package wire

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func head(t Type, flags byte, n int) []byte {
	return append([]byte{byte(t), flags, byte(n >> 8), byte(n)}, make([]byte, min(n, 600))...)
}

func TestParseRecord(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		n    int
		want error
	}{
		"state":                     {head(TypeState, stateFlags, stateBody), StateSize, nil},
		"more follows":              {append(head(TypePing, 0, 8), 1, 2, 3), 12, nil},
		"nothing":                   {nil, 0, nil},
		"half a header":             {[]byte{1, 0, 0}, 0, nil},
		"header of a state":         {head(TypeState, 0, stateBody)[:4], 0, nil},
		"most of a state":           {head(TypeState, 0, stateBody)[:StateSize-1], 0, nil},
		"state with unknown flag":   {head(TypeState, 1<<7, stateBody), 0, ErrFormat},
		"ping with a flag":          {head(TypePing, 1, 8), 0, ErrFormat},
		"state too long":            {head(TypeState, 0, stateBody+1), 0, ErrFormat},
		"state too short":           {head(TypeState, 0, stateBody-1), 0, ErrFormat},
		"bad length, header only":   {[]byte{1, 0, 255, 255}, 0, ErrFormat}, // before the body is waited for
		"attach too short":          {head(TypeAttach, 0, 16), 0, ErrFormat},
		"reset too long":            {head(TypeReset, 0, 18), 0, ErrFormat},
		"type 0":                    {head(0, 0, 0), 0, ErrFormat},
		"unknown mandatory":         {head(8, 0, 0), 0, ErrFormat},
		"unknown mandatory 127":     {head(127, 0, 0)[:4], 0, ErrFormat},
		"optional":                  {head(128, 0, 10), 14, nil},
		"optional, empty":           {head(255, 0, 0), 4, nil},
		"optional, incomplete":      {head(128, 0, 10)[:13], 0, nil},
		"optional, longest":         {head(128, 0, MaxRecord-RecordHeader), MaxRecord, nil},
		"optional, too long":        {head(128, 0, MaxRecord-RecordHeader+1), 0, ErrFormat},
		"optional, 64 KiB, no body": {[]byte{128, 0, 255, 255}, 0, ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			var r Record
			n, err := ParseRecord(c.in, &r)
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.n, n)
		})
	}
}

// TestOptionalRecordIsBlank: "A record of an unknown optional type is returned with only Type set."
func TestOptionalRecordIsBlank(t *testing.T) {
	r := Record{Token: 5, Code: 9, Ack: 1}
	n, err := ParseRecord(head(200, 3, 20), &r)
	require.NoError(t, err)
	require.Equal(t, 24, n)
	require.Equal(t, Record{Type: 200}, r)
}

func drawRecord(t *rapid.T) Record {
	r := Record{Type: Type(rapid.Uint8Range(1, 7).Draw(t, "type"))}
	u64 := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
	if r.Type != TypePing && r.Type != TypePong {
		r.GID = drawID(t)
	}
	switch r.Type {
	case TypeState:
		r.Flags = rapid.Uint8Max(stateFlags).Draw(t, "flags")
		r.LinkNo, r.Ack, r.Limit, r.Sent = u64("link"), u64("ack"), u64("limit"), u64("sent")
	case TypeAttach:
		copy(r.MAC[:], rapid.SliceOfN(rapid.Byte(), MACSize, MACSize).Draw(t, "mac"))
	case TypeNak, TypeReset:
		r.Code = Status(rapid.Byte().Draw(t, "code"))
	case TypeSlot:
		r.Slot, r.Gen = rapid.Uint32().Draw(t, "slot"), rapid.Uint16().Draw(t, "gen")
	default:
		r.Token = u64("token")
	}
	return r
}

// TestRecordsRoundTrip: a stream of records comes out as it went in, in whatever pieces it arrives.
func TestRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 10).Draw(t, "records")
		var stream []byte
		for i := range want {
			at := len(stream)
			stream = want[i].Append(stream)
			require.LessOrEqual(t, len(stream)-at, MaxRecord)
		}
		var have []byte
		var got []Record
		for len(stream) > 0 {
			k := rapid.IntRange(1, len(stream)).Draw(t, "piece")
			have, stream = append(have, stream[:k]...), stream[k:]
			for {
				var r Record
				n, err := ParseRecord(have, &r)
				require.NoError(t, err)
				if n == 0 {
					break
				}
				got, have = append(got, r), have[n:]
			}
		}
		require.Empty(t, have)
		require.Equal(t, want, got)
	})
}

func TestFrameHeader(t *testing.T) {
	for name, c := range map[string]struct {
		in     []byte
		sealed bool
		t      FrameType
		n      int
		want   error
	}{
		"data":                {[]byte{1, 0, 1, 2}, false, FrameData, 258, nil},
		"empty data":          {[]byte{1, 0, 0, 0}, false, FrameData, 0, nil},
		"longest":             {[]byte{1, 1, 0, 0}, false, FrameData, MaxPayload, nil},
		"too long":            {[]byte{1, 1, 0, 1}, false, 0, 0, ErrFormat},
		"16 MiB":              {[]byte{2, 255, 255, 255}, false, 0, 0, ErrFormat},
		"sealed, longest":     {[]byte{2, 1, 0, 16}, true, FrameCtrl, MaxBody, nil},
		"sealed, too long":    {[]byte{2, 1, 0, 17}, true, 0, 0, ErrFormat},
		"sealed without tag":  {[]byte{1, 0, 0, 15}, true, 0, 0, ErrFormat},
		"bare":                {[]byte{3, 0, 0, 0}, false, FrameBare, 0, nil},
		"bare, padded":        {[]byte{3, 0, 0, 63}, false, FrameBare, 63, nil},
		"bare with a body":    {[]byte{3, 0, 0, 64}, false, 0, 0, ErrFormat},
		"bare, but sealed":    {[]byte{3, 0, 0, 16}, true, 0, 0, ErrFormat},
		"type 0":              {[]byte{0, 0, 0, 0}, false, 0, 0, ErrFormat},
		"type 4":              {[]byte{4, 0, 0, 0}, false, 0, 0, ErrFormat},
		"three bytes":         {[]byte{1, 0, 0}, false, 0, 0, ErrFormat},
		"nothing":             {nil, true, 0, 0, ErrFormat},
		"the body is not its": {[]byte{1, 0, 0, 2, 9, 9, 9, 9}, false, FrameData, 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ft, n, err := ParseFrameHeader(c.in, c.sealed)
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.t, ft)
			require.Equal(t, c.n, n)
			if err == nil {
				var b [FrameHeader]byte
				PutFrameHeader(b[:], ft, n)
				require.Equal(t, c.in[:FrameHeader], b[:])
			}
		})
	}
}

func TestMagicIsNoText(t *testing.T) {
	require.Len(t, Magic, 8)
	require.True(t, bytes.HasSuffix([]byte(Magic), []byte("\n")))
	require.NotEqual(t, byte(0x16), Magic[0], "TLS")
	require.GreaterOrEqual(t, Magic[0], byte(0x80), "text")
}
