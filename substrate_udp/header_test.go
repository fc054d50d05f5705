package udp

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawSpans draws a set, and the numbers in it.
func drawSpans(t *rapid.T) (spans, map[uint64]bool) {
	var s spans
	in := make(map[uint64]bool)
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		lo := rapid.Uint64Range(0, 300).Draw(t, "lo")
		hi := lo + rapid.Uint64Range(0, 20).Draw(t, "size")
		if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
			s.remove(lo, hi)
			for x := lo; x < hi; x++ {
				delete(in, x)
			}
		} else {
			s.add(lo, hi)
			for x := lo; x < hi; x++ {
				in[x] = true
			}
		}
	}
	return s, in
}

// TestSpans compares with a set of single numbers.
func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, in := drawSpans(t)
		for i, e := range s {
			require.Less(t, e.lo, e.hi)
			require.True(t, i == 0 || s[i-1].hi < e.lo, "%v", s)
		}
		missing := make(map[uint64]bool)
		s.missing(50, 250, func(lo, hi uint64) {
			for x := lo; x < hi; x++ {
				missing[x] = true
			}
		})
		for x := range uint64(330) {
			require.Equal(t, in[x], s.contains(x), "%d in %v", x, s)
			require.Equal(t, x >= 50 && x < 250 && !in[x], missing[x], "%d missing in %v", x, s)
		}
	})
}

// TestAckRanges: what is put into an ACK comes out of it, the highest ranges first, whatever the room.
func TestAckRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _ := drawSpans(t)
		if len(s) == 0 {
			return
		}
		var counts marks
		if rapid.Bool().Draw(t, "marks") {
			counts = marks{0, rapid.Uint32().Draw(t, "ECT(1)"), rapid.Uint32().Draw(t, "ECT(0)"), rapid.Uint32().Draw(t, "CE")}
		}
		room := rapid.IntRange(ackLen, ackLen+70*rangeLen).Draw(t, "room")
		b := putAck(nil, s, 7, 9, time.Second, room)
		require.LessOrEqual(t, len(b), room)
		full := len(b)+rangeLen > room
		if counts != (marks{}) {
			b = putMarks(append(make([]byte, 3), b...), 3, counts)[3:]
		}
		var a ack
		rest, err := parseAck(append(b, 1, 2), &a)
		require.NoError(t, err)
		require.Equal(t, []byte{1, 2}, rest)
		require.Equal(t, ack{largest: s[len(s)-1].hi - 1, next: 7, window: 9, delay: 0xffff * ackUnit, first: a.first, more: a.more, marks: counts}, a)
		var got spans
		a.each(func(lo, hi uint64) bool {
			got = append(got, span{lo, hi})
			return true
		})
		slices.Reverse(got)
		require.Equal(t, s[len(s)-len(got):], got)
		require.True(t, len(got) == len(s) || len(got) == maxRanges+1 || full)
	})
}

func TestSealAndUnseal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload")
		h := putHeader(nil, kindPacket, flagData, 99)
		seal(h, [][]byte{payload[:len(payload)/2], payload[len(payload)/2:]})
		b := append(h, payload...)
		k, id, err := unseal(b)
		require.NoError(t, err)
		require.Equal(t, kindPacket, k)
		require.EqualValues(t, 99, id)
		i := rapid.IntRange(0, len(b)*8-1).Draw(t, "bit")
		b[i/8] ^= 1 << (i % 8)
		_, _, err = unseal(b)
		require.Error(t, err)
	})
}

func FuzzParsePacket(f *testing.F) {
	h := binary.LittleEndian.AppendUint64(putHeader(nil, kindPacket, flagAck|flagData, 1), 5)
	h = putAck(h, spans{{1, 4}, {6, 7}, {9, 20}}, 100, 200, time.Millisecond, 500)
	f.Add(append(binary.LittleEndian.AppendUint64(h, 3), "hello"...))
	f.Add(putMarks(putAck(h[:packetLen:packetLen], spans{{1, 4}, {6, 7}}, 100, 200, 0, 500), packetLen, marks{2: 7, 3: 1<<32 - 1}))
	f.Add(longPacket(1, 2, 3, make([]byte, 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		unseal(b)
		var p packet
		if parsePacket(b, &p) != nil {
			return
		}
		require.LessOrEqual(t, len(p.data), len(b)-packetLen)
		require.Equal(t, isLong(b) || p.row > 0, p.row == len(b))
		require.GreaterOrEqual(t, p.off+uint64(len(p.data)), p.off)
		if p.flags&flagAck == 0 {
			return
		}
		last := p.ack.largest + 1
		p.ack.each(func(lo, hi uint64) bool {
			require.Less(t, lo, hi)
			require.LessOrEqual(t, hi, last)
			last = lo
			return true
		})
	})
}
