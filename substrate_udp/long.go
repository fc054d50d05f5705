package udp

import (
	"encoding/binary"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// Long packets: between namespaces of one host datagrams are as short as on a wire, but the kernel carries rows of them (UDP_SEGMENT) as what
// they were when they were sent, and gives them to the receiver in one (UDP_GRO). So a packet of ours may take a whole row: it has one header,
// in the first datagram, and the rest of the row is nothing but payload. Then a veth pair costs what loopback costs.
//
// A row is taken only whole. That is more than its length: if something took it apart on the way, and the receiver's kernel put datagrams
// together again, some of them may be missing, or in another order, and no checksum would tell. But the kernel never joins more than
// mostJoined datagrams. A row has more, so what arrives in one was never taken apart.

const (
	longNumBits = 48 // of a long packet's number; its length is in the bits above

	mostJoined    = 64          // UDP_GRO_CNT_MAX; a row has more, and less than twice as many, which UDP_MAX_SEGMENTS is since Linux 6.9
	longSize      = 65536 - 256 // what the kernel carries in one, with all headers, is less than 64 KiB
	longAbove     = 32 << 10    // where datagrams are longer there is little to gain
	longPause     = time.Second // without long packets, when they begin to vanish; then twice as long, each time,
	longPauseMost = time.Minute // up to this
)

// segmentOf is the length of the datagrams that carry a long packet of n bytes: the longest that makes enough of them. It is shorter than
// any path's MTU, and than any INIT: no part of a row is taken for one.
func segmentOf(n int) int { return (n - 1) / mostJoined }

// whole reports whether what was received is a row as it was sent.
func whole(m *sys.UDPMessage) bool { return m.N > mostJoined*m.Segment }

// isLong reports whether b begins with the header of a long packet.
func isLong(b []byte) bool { return len(b) > 0 && b[0] == version<<4|byte(kindLong) }

// lengthen makes the packet whose header is h a long one of n bytes.
func lengthen(h []byte, n int) {
	h[0] = version<<4 | byte(kindLong)
	binary.LittleEndian.PutUint16(h[headerLen+longNumBits/8:], uint16(n))
}

// isLong reports whether a packet that was sent was a long one.
func (l *link) isLong(p *sentPacket) bool { return l.mtu.long > 0 && int(p.size) > l.mtu.most }

// full is the length of a full packet now.
func (l *link) full() int {
	if l.probes > 0 || !l.bare || l.num >= 1<<longNumBits {
		return l.mtu.wire // also if it may be the length that doesn't get through
	}
	return l.mtu.size
}

// allowLong begins to look whether the path carries long packets.
func (m *mtu) allowLong(now int64) {
	if m.most < longAbove {
		m.long, m.longAt, m.longPause = longSize, now+int64(mtuSettle), longPause
	}
}

// probeMTU is the length of a probe to send now, 0 for none.
func (l *link) probeMTU(now int64) int {
	m := &l.mtu
	if m.longAt != 0 && now >= m.longAt && l.probesLong() {
		return m.long
	}
	return m.due(now)
}

// probesLong reports whether the path is one that may be probed for long packets.
func (l *link) probesLong() bool { return l.bare && l.near() && l.num < 1<<longNumBits }

// sentLong notes that a long probe went out.
func (m *mtu) sentLong(now int64, timeout time.Duration) {
	m.longAt = now + int64(4*timeout)
	if m.longTries++; m.longTries >= mtuTries {
		m.longTries = 0
		m.pauseLong(now)
	}
}

// pauseLong lets long packets be for a while.
func (m *mtu) pauseLong(now int64) {
	m.longAt = now + int64(m.longPause)
	m.longPause = min(2*m.longPause, longPauseMost)
}

// growLong learns that a long packet has arrived.
func (l *link) growLong(now int64) {
	m := &l.mtu
	if m.long == 0 || m.size > m.wire {
		return
	}
	m.size, m.longAt, m.longTries = m.long, 0, 0
	l.cc.SetSegment(m.size)
	l.sub.count.longPaths.Add(1)
}

// noLong sends no long packets for a while: they vanish, or can't be sent.
func (l *link) noLong(now int64) {
	m := &l.mtu
	if m.long == 0 {
		return
	}
	if m.size > m.wire {
		m.size = m.wire
		l.cc.SetSegment(m.size)
		l.sub.count.longLost.Add(1)
	}
	m.longTries = 0
	m.pauseLong(now)
}

// leaveHost is told that one of the ends has another address now: whatever was proved of the old ones is void.
func (l *link) leaveHost() {
	l.sameHost, l.bare = false, false
	m := &l.mtu
	if m.size > m.wire {
		m.size = m.wire
		l.cc.SetSegment(m.size)
	}
	m.longAt = 0
}
