package bench

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFrameRoundTrip(t *testing.T) {
	var b bytes.Buffer
	var header [frameHeader]byte
	want := setup{Op: BW, Size: 1024, Lanes: []laneID{{"raw", "tcp"}}, Conns: 2, Addresses: []string{"a:1"}, Block: 4e6}
	require.NoError(t, writeFrame(&b, kindSetup, want))
	require.NoError(t, writeFrame(&b, kindPin, nil))
	f, err := readFrame(&b, &header)
	require.NoError(t, err)
	assert.Equal(t, kindSetup, f.kind)
	var got setup
	require.NoError(t, json.Unmarshal(f.body, &got))
	assert.Equal(t, want, got)
	f, err = readFrame(&b, &header)
	require.NoError(t, err)
	assert.Equal(t, frame{kind: kindPin}, f)
	_, err = readFrame(&b, &header)
	assert.Equal(t, io.EOF, err, "the end between two frames is the end")
}

func TestFrameErrors(t *testing.T) {
	var header [frameHeader]byte
	_, err := readFrame(bytes.NewReader([]byte{'s', 0xff, 0, 0, 0}), &header)
	require.ErrorContains(t, err, "too long")
	for n := 1; n < frameHeader+2; n++ {
		_, err := readFrame(bytes.NewReader([]byte{'s', 0, 0, 0, 2, '{', '}'}[:n]), &header)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
	}
}

func TestCountersFrame(t *testing.T) {
	var header [frameHeader]byte
	var f countersFrame
	want := counters{Objects: 3, Bytes: 1 << 40, CPU: 5}
	f.put(want)
	g, err := readFrame(bytes.NewReader(f[:]), &header)
	require.NoError(t, err)
	got, err := parseCounters(g.body)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	_, err = parseCounters(g.body[1:])
	require.Error(t, err)
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{'s', 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{'c', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var header [frameHeader]byte
		fr, err := readFrame(bytes.NewReader(b), &header)
		if err == nil {
			require.LessOrEqual(t, frameHeader+len(fr.body), len(b))
		}
	})
}
