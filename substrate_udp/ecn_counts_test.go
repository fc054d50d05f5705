package udp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A marksModel plays a peer that received packets with codepoints, for a link that sends. It may lie.
type marksModel struct {
	l    *link
	got  spans
	seen marks
	now  int64
}

func newMarksModel(segment int) *marksModel {
	l := &link{sub: New(Options{}), state: open}
	l.threshold = minThreshold
	l.cc = NewCubic(segment)
	l.ecn.peer = true
	l.validateECN()
	l.rtt.add(20*time.Millisecond, 0, 1)
	l.mtu.size, l.mtu.wire = segment, segment
	return &marksModel{l: l, now: int64(time.Second)}
}

// send makes n packets.
func (m *marksModel) send(n, size int) {
	l := m.l
	l.beginBatch()
	for range n {
		l.noteSent(sentPacket{at: m.now, size: uint32(size), flags: flagAckNow}, m.now)
	}
	l.endBatch(n)
}

// ack brings an acknowledgement of packet num and those before it, with counts.
func (m *marksModel) ack(t require.TestingT, num uint64, counts marks) {
	m.got.add(num, num+1)
	b := putAck(nil, m.got, 0, 1000, 0, 10_000)
	if counts != (marks{}) {
		b = putMarks(b, 0, counts)
	}
	var a ack
	rest, err := parseAck(b, &a)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.Equal(t, marks{0, counts[1], counts[2], counts[3]}, a.marks)
	m.l.onAck(&a, m.now)
}

// TestLyingCounts: whatever a peer counts, marks only ever take from the window, an acknowledgement gives no more than it would without, the
// link goes on, and ECN that was given up stays so.
func TestLyingCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 1000
		liar := newMarksModel(size)
		for range rapid.IntRange(1, 40).Draw(t, "rounds") {
			n := rapid.IntRange(1, 50).Draw(t, "packets")
			first := liar.l.num
			liar.send(n, size)
			liar.now += int64(20 * time.Millisecond)
			for i := range n {
				if rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
					continue
				}
				counts := liar.seen
				for c := range counts {
					counts[c] += uint32(rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Uint32()).Draw(t, "count"))
				}
				if rapid.Bool().Draw(t, "kept") {
					liar.seen = counts
				}
				was, state := liar.l.cc.Window(), liar.l.ecn.state
				marked := liar.l.sub.count.ecnMarks.Load()
				liar.ack(t, first+uint64(i), counts)
				now := liar.l.cc.Window()
				if liar.l.sub.count.ecnMarks.Load() > marked && liar.l.ecn.state == ecnCapable {
					require.LessOrEqual(t, now, was, "a mark never opens the window")
				}
				require.LessOrEqual(t, now, was+size+1, "nor does a count more than what it acknowledges")
				require.GreaterOrEqual(t, now, minimumPackets*size)
				require.LessOrEqual(t, liar.l.ecn.counted, liar.l.ecn.sent+4<<32)
				if state == ecnOff {
					require.Equal(t, ecnOff, liar.l.ecn.state, "given up for good on this path")
					require.Equal(t, marked, liar.l.sub.count.ecnMarks.Load())
				}
			}
		}
		require.LessOrEqual(t, liar.l.sub.count.ecnMarks.Load(), liar.l.num)
	})
}

// TestImpossibleCounts: each kind of lie is found and named.
func TestImpossibleCounts(t *testing.T) {
	for name, c := range map[string]struct {
		counts []marks // of the first acknowledgement, the second, ...
		told   func(c *counters) *counter
	}{
		"none":           {[]marks{{}}, func(c *counters) *counter { return &c.ecnBleached }},
		"too few":        {[]marks{{2: 1}, {2: 1}}, func(c *counters) *counter { return &c.ecnBleached }},
		"too many":       {[]marks{{2: 11}}, func(c *counters) *counter { return &c.ecnFalse }},
		"far too many":   {[]marks{{2: 1, 3: 1<<32 - 1}}, func(c *counters) *counter { return &c.ecnFalse }},
		"backwards":      {[]marks{{2: 2}, {2: 1}}, func(c *counters) *counter { return &c.ecnFalse }},
		"forgotten":      {[]marks{{2: 2}, {}}, func(c *counters) *counter { return &c.ecnFalse }},
		"the other ECT":  {[]marks{{1: 1}}, func(c *counters) *counter { return &c.ecnMangled }},
		"true":           {[]marks{{2: 1}, {2: 2}, {2: 2, 3: 1}}, func(c *counters) *counter { return &c.ecnPaths }},
		"ahead of gaps":  {[]marks{{2: 5}, {2: 5}, {2: 5}, {2: 5}, {2: 5}}, func(c *counters) *counter { return &c.ecnPaths }},
		"behind by gaps": {[]marks{{2: 5}, {2: 5}, {2: 5}, {2: 5}, {2: 5}, {2: 5}}, func(c *counters) *counter { return &c.ecnBleached }},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMarksModel(1000)
			m.send(10, 1000)
			m.now += int64(20 * time.Millisecond)
			for i, counts := range c.counts {
				m.ack(t, uint64(i), counts)
			}
			require.EqualValues(t, 1, c.told(&m.l.sub.count).Load())
		})
	}
}

// TestCountsGoRound: counts pass 2^32 without anybody noticing.
func TestCountsGoRound(t *testing.T) {
	m := newMarksModel(1000)
	m.l.ecn.last = marks{2: 1<<32 - 3, 3: 1<<32 - 1}
	m.send(10, 1000)
	for i, counts := range []marks{{2: 1<<32 - 2, 3: 1<<32 - 1}, {2: 1<<32 - 2, 3: 0}, {2: 0, 3: 1}} {
		m.ack(t, uint64(i), counts)
	}
	require.Equal(t, ecnCapable, m.l.ecn.state)
	require.EqualValues(t, 2, m.l.sub.count.ecnMarks.Load())
	require.EqualValues(t, 5, m.l.ecn.counted)
}

// TestAckOvertaken: an older acknowledgement with its smaller counts may come later.
func TestAckOvertaken(t *testing.T) {
	m := newMarksModel(1000)
	m.send(4, 1000)
	old := putMarks(putAck(nil, spans{{0, 2}}, 0, 1000, 0, 500), 0, marks{2: 2})
	m.got.add(0, 2)
	m.ack(t, 2, marks{2: 3})
	var a ack
	_, err := parseAck(old, &a)
	require.NoError(t, err)
	m.l.onAck(&a, m.now)
	m.ack(t, 3, marks{2: 3, 3: 1})
	require.Equal(t, ecnCapable, m.l.ecn.state)
	require.EqualValues(t, 1, m.l.sub.count.ecnMarks.Load())
}
