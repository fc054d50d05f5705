package udp

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sockemu/sockemu/internal/sys"
)

// Landing: a user who reads the socket himself, in Recv, has the payload of large packets put into his own buffer by the kernel, where it
// is likely that a header of known length comes first. That saves the copy out of our memory, which costs as much as the kernel's. When
// something else comes it is put together again and goes the usual way; what the buffer holds beyond the bytes that Recv returns is
// scratch, as io.Reader allows.

// landAbove is the payload from which it is worth it.
const landAbove = 4 << 10

// aim prepares the next read for the user of l. Under mu, by who has the turn.
func (s *socket) aim(l *link) {
	n := l.lastHead
	if n == 0 || len(l.posted) < landAbove {
		return
	}
	s.aimed = l
	s.msgs[0].Head, s.msgs[0].Body = s.head[:n], l.posted
}

func (s *socket) unaim() {
	if s.aimed != nil {
		s.aimed = nil
		s.msgs[0].Head, s.msgs[0].Body = nil, nil
	}
}

// landed takes in a datagram that was received with the aim at a user's buffer.
func (s *socket) landed(m *sys.UDPMessage, now int64) {
	l, mem := s.aimed, s.mem[0]
	if !m.Truncated && m.N > len(m.Head) && (m.Segment >= m.N || isLong(m.Head) && whole(m)) && l.land(m, mem, now) {
		c := &s.sub.count
		c.packetsReceived.Add(1)
		c.bytesReceived.Add(uint64(m.N))
		return
	}
	again := newBlock()
	defer again.drop()
	n := copy(again.buf[:], m.Head)
	n += copy(again.buf[n:], m.Body)
	copy(again.buf[n:], m.Buf)
	m.Buf = again.buf[:]
	m.Truncated = m.Truncated || m.N > len(again.buf)
	s.datagrams(m, again, now)
}

// land takes in the packet if it is what was expected: the next bytes of the stream, in order, with nothing special. Else it changes
// nothing and returns false. It does what onPacket does.
func (l *link) land(m *sys.UDPMessage, mem *block, now int64) bool {
	h, n := m.Head, m.N-len(m.Head)
	if kind(h[0]) != version<<4|kindPacket && !isLong(h) || binary.LittleEndian.Uint64(h[8:]) != l.id || h[1]&flagData == 0 ||
		h[1]&^(flagData|flagAck|flagAckNow) != 0 {
		return false
	}
	direct := m.Body[:min(n, len(m.Body))]
	rest := m.Buf[:n-len(direct)]
	var p packet
	if b, err := parseBlocks(h, &p); err != nil || len(b) != 0 || p.row != 0 && p.row != m.N || isLong(h) != (m.Segment < m.N) || !intact(h, direct, rest, p.bare) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.receiver
	if l.state != open || m.From != l.remote || p.bare && !l.sameHost || r.finSeen || p.off != r.next || p.off+uint64(n) > r.advertised ||
		r.ready.len() > 0 || len(r.early) > 0 || r.placed > 0 || len(r.posted) == 0 ||
		p.num < r.floor || len(r.got) > 0 && p.num < r.got[len(r.got)-1].hi {
		return false
	}
	l.touch()
	p.ecn = m.ECN
	l.trusts(&p, m.From)
	r.note(&p, now)
	r.unackedBytes += n
	r.batch += n
	r.countMark(&p, &l.ecn.seen)
	if p.flags&flagAck != 0 {
		if l.onAck(&p.ack, now); l.state == gone {
			return true
		}
	}
	l.askAt, l.asks = l.receivedAt+int64(askAfter), 0
	r.next += uint64(n)
	r.placed = len(direct)
	r.taken += uint64(len(direct))
	if len(rest) > 0 {
		r.append(r.next-uint64(len(rest)), rest, mem, m.N)
	}
	l.expect(len(h), n)
	return true
}

// expect notes the shape of a packet with payload: the next one is likely to have it, too. A short one between long ones, the end of a
// message, changes nothing.
func (r *receiver) expect(head, payload int) {
	switch {
	case payload >= landAbove:
		r.lastHead, r.shorts = head, 0
	case payload > 0:
		if r.shorts++; r.shorts > 1 {
			r.lastHead = 0
		}
	}
}

// intact checks the checksum of a packet in three parts.
func intact(h, a, b []byte, bare bool) bool {
	sum := crc32.Update(0, castagnoli, h[:4])
	sum = crc32.Update(sum, castagnoli, zeros[:])
	sum = crc32.Update(sum, castagnoli, h[8:])
	if !bare {
		sum = crc32.Update(sum, castagnoli, a)
		sum = crc32.Update(sum, castagnoli, b)
	}
	return sum == binary.LittleEndian.Uint32(h[4:])
}

// touch puts the link in the list of those that have something to do after the batch. By who has the turn.
func (l *link) touch() {
	if !l.touched {
		l.touched = true
		l.sock.touched = append(l.sock.touched, l)
	}
}
