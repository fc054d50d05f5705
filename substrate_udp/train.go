package udp

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sockemu/sockemu/internal/sys"
)

// Trains: between namespaces of one host packets are as short as on a wire, but the kernel takes and gives rows of them that fill 64 KiB
// (UDP_SEGMENT, UDP_GRO). What such packets cost is headers. So a row with nothing but payload is built and taken in at one go: in one
// piece of memory, since gathering 88 slices costs the kernel more than the copy, and with one look at the state of the link.

const (
	trainHead  = packetLen + dataLen
	trainBelow = 16 << 10 // longer packets have little to gain
	trainLeast = 4
)

// train puts a row of full packets that carry the next bytes of the stream into the batch, and reports whether it did: there must be enough to
// say, and nothing else. Then the batch has what one system call takes. It does what nextPacket does.
func (l *link) train(b *batch, now int64) bool {
	size := l.mtu.size
	payload := size - trainHead
	avail := min(l.end, l.limit)
	switch {
	case !l.bare, size > trainBelow, avail < l.sent+uint64(trainLeast*payload),
		l.probes > 0, len(l.lost) > 0, l.finDue, l.ecn.marking && l.ecn.state != ecnCapable, l.ackDue(), !l.unpaced(now), l.held(now),
		l.inflight > 0 && l.probeMTU(now) > 0:
		return false
	}
	n := min(int((avail-l.sent)/uint64(payload)), (l.flight()-l.inflight+size-1)/size, (min(maxDatagram, blockSize)-b.bytes)/size,
		maxSegments-len(b.packets), maxOutstanding-l.packets.len())
	if n < trainLeast {
		return false
	}
	if b.mem == nil {
		b.mem = newBlock()
	}
	var h [trainHead]byte
	putHeader(h[:0], kindPacket, flagData, l.peer)
	uncover(h[:])
	l.where(h[:], now)
	num, off := l.num, l.sent
	for i := range n {
		p := b.mem.buf[i*size : (i+1)*size]
		binary.LittleEndian.PutUint64(h[headerLen:], num+uint64(i))
		binary.LittleEndian.PutUint64(h[packetLen:], off)
		copy(p, h[:])
		reseal(p)
		if !l.copyOut(p[trainHead:], off) {
			return false
		}
		off += uint64(payload)
	}
	for i := range n {
		b.vec = append(b.vec, b.mem.buf[i*size:(i+1)*size])
		b.packets = append(b.packets, outPacket{end: len(b.vec), size: size, sealed: true})
	}
	b.bytes += n * size
	sent := sentPacket{at: now, off: l.sent, n: uint32(payload), size: uint32(size), flags: flagData, state: inFlight}
	if l.ecn.marking {
		sent.mark = l.ecn.round
		l.ecn.batch += n
	}
	l.packets.pushRow(sent, num, n)
	if l.inflight == 0 {
		l.progress = now
	}
	l.limited = false
	l.num, l.sent = num+uint64(n), off
	l.inflight += n * size
	l.lastEliciting = now
	l.tokens -= float64(n * size)
	return true
}

// reseal writes the checksum of a packet that says how much of it that covers.
func reseal(p []byte) {
	clear(p[4:8])
	binary.LittleEndian.PutUint32(p[4:], crc32.Update(0, castagnoli, p[:int(p[coverAt])*coverUnit]))
}

// copyOut copies the bytes of the stream from off on that fill p. It returns false if a part was released.
func (s *sender) copyOut(p []byte, off uint64) bool {
	for i := s.find(off); len(p) > 0; i++ {
		if i >= len(s.pieces) || s.pieces[i].start() > off {
			return false
		}
		n := copy(p, s.pieces[i].data[off-s.pieces[i].start():])
		p = p[n:]
		off += uint64(n)
		s.found = i
	}
	return true
}

// pushRow adds n packets in a row like p, the first of them with number num.
func (r *ring) pushRow(p sentPacket, num uint64, n int) {
	for i := range n {
		r.push(p, num+uint64(i))
		p.off += uint64(p.n)
	}
}

// row takes in packets that are what a train has: the next numbers, the next bytes of the stream, and nothing else. b begins with them;
// each has segment bytes. It returns how many bytes it has taken in, and leaves the rest to who takes everything in. It does what datagram
// and onPacket do. Called by the reader, under mu.
func (l *link) row(b []byte, m *sys.UDPMessage, mem *block, now int64) int {
	r := &l.receiver
	segment := m.Segment
	payload := segment - trainHead
	if payload <= 0 || !l.sameHost || m.From != l.remote || m.ECN == sys.CE || l.state != open || r.finSeen ||
		len(r.got) == 0 || len(r.early) > 0 {
		return 0
	}
	last := &r.got[len(r.got)-1]
	num, n, cpu := last.hi, 0, byte(0)
	for ; len(b) >= segment; n++ {
		p := b[:segment]
		if p[0] != version<<4|byte(kindPacket) || p[1] != flagData || p[coverAt] != trainHead/coverUnit ||
			binary.LittleEndian.Uint64(p[8:]) != l.id || binary.LittleEndian.Uint64(p[headerLen:]) != num ||
			binary.LittleEndian.Uint64(p[packetLen:]) != r.next || uint64(payload) > r.advertised-r.next {
			break
		}
		sum := binary.LittleEndian.Uint32(p[4:])
		if reseal(p); binary.LittleEndian.Uint32(p[4:]) != sum {
			binary.LittleEndian.PutUint32(p[4:], sum)
			break
		}
		off, data := r.next, p[trainHead:]
		r.next += uint64(payload)
		if r.placed < len(r.posted) && r.ready.len() == 0 {
			k := copy(r.posted[r.placed:], data)
			r.placed += k
			r.taken += uint64(k)
			off += uint64(k)
			data = data[k:]
		}
		if len(data) > 0 {
			r.append(off, data, mem, m.N)
		}
		num++
		cpu = p[cpuAt]
		b = b[segment:]
	}
	if n == 0 {
		return 0
	}
	last.hi = num
	l.bare = true // who sends such packets takes them
	l.peerCPU.Store(uint32(cpu))
	if m.ECN != sys.NotECT {
		l.ecn.seen[m.ECN&3] += uint32(n)
	}
	r.receivedAt, r.fresh = now, true
	r.unacked += n
	r.unackedBytes += n * payload
	r.batch += n * payload
	l.askAt, l.asks = now+int64(askAfter), 0
	l.expect(trainHead, payload)
	return n * segment
}
