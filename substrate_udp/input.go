package udp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// datagrams takes in what one read brought: a row of datagrams of one sender, mostly packets of one link, which are taken in under one
// lock.
func (s *socket) datagrams(m *sys.UDPMessage, mem *block, now int64) {
	c := &s.sub.count
	c.bytesReceived.Add(uint64(m.N))
	if m.Truncated {
		c.truncated.Add(1)
		return
	}
	n := uint64(0)
	var l *link
	for b := m.Buf[:m.N]; len(b) > 0; n++ {
		k := min(len(b), m.Segment)
		if isLong(b) {
			if n > 0 || !whole(m) {
				c.split.Add(1) // what follows may be its rest, which has no headers
				break
			}
			k = len(b)
		}
		l = s.datagram(l, b[:k], m.From, m.ECN, mem, m.N, now)
		b = b[k:]
		if l != nil && len(b) >= m.Segment {
			k = l.row(b, m, mem, now)
			n += uint64(k / m.Segment)
			b = b[k:]
		}
	}
	c.packetsReceived.Add(n)
	if l != nil {
		l.mu.Unlock()
	}
}

// datagram takes in one datagram. held is nil or the link of the one before, locked; so is what it returns.
func (s *socket) datagram(held *link, b []byte, from netip.AddrPort, ecn byte, mem *block, used int, now int64) *link {
	c := &s.sub.count
	k, id, err := unseal(b)
	switch err {
	case nil:
	case errShort:
		c.truncated.Add(1)
		return held
	case errChecksum:
		c.corrupt.Add(1)
		return held
	case errFormat:
		c.malformed.Add(1)
		return held
	default:
		c.version.Add(1)
		return held
	}
	if held != nil && (k != kindPacket && k != kindLong || held.id != id) {
		held.mu.Unlock()
		held = nil
	}
	switch k {
	case kindPacket, kindLong:
		if held == nil {
			if held = s.find(id); held == nil {
				c.unknown.Add(1)
				s.answerGone(b, id, from, now)
				return nil
			}
			held.mu.Lock()
		}
		var p packet
		if parsePacket(b, &p) != nil {
			c.malformed.Add(1)
			return held
		}
		p.ecn = ecn
		held.touch()
		held.onPacket(&p, from, mem, used, now)
	case kindInit:
		s.onInit(b, from, now)
	case kindGone:
		if l := s.findPeer(id); l != nil {
			l.mu.Lock()
			if l.remote == from {
				l.onReset()
			}
			l.mu.Unlock()
		}
	default:
		s.onAnswer(k, id, b, from, now)
	}
	return held
}

// answerGone tells a peer that its link is not here. The answer is never longer than the question, is not answered itself, and there
// aren't many.
func (s *socket) answerGone(b []byte, id uint64, from netip.AddrPort, now int64) {
	if now-s.goneAt > int64(time.Second) {
		s.goneAt, s.goneNow = now, 0
	}
	if s.goneNow++; s.goneNow > maxGone || len(b) < packetLen || b[1]&flagReset != 0 {
		return
	}
	s.sendOne(from, putHeader(make([]byte, 0, headerLen), kindGone, 0, id))
}

// onPacket takes in a packet of an open link. Called by the reader, under mu.
func (l *link) onPacket(p *packet, from netip.AddrPort, mem *block, used int, now int64) {
	if l.state == dialing || l.state == gone {
		l.sub.count.unknown.Add(1)
		return
	}
	if !l.trusts(p, from) || !l.accepts(p) {
		return
	}
	newest := len(l.got) == 0 || p.num >= l.got[len(l.got)-1].hi
	l.receiver.note(p, now)
	l.receiver.countMark(p, &l.ecn.seen)
	if from != l.remote && newest && p.flags&flagResponse == 0 {
		l.newAddress(from, now)
	}
	if p.flags&flagReset != 0 {
		l.onReset()
		return
	}
	if p.flags&flagAck != 0 {
		if l.onAck(&p.ack, now); l.state == gone {
			return
		}
	}
	if p.flags&flagChallenge != 0 {
		l.leaveHost() // the peer sees another address of ours, so it takes no payload without a checksum
		l.newPathECN()
		l.sendProof(from, flagResponse, p.challenge, now)
	}
	if p.flags&flagResponse != 0 {
		l.proved(p.response, from, now)
	}
	if p.flags&(flagData|flagFin) != 0 {
		l.expect(p.head, len(p.data))
		l.deliver(p, mem, used)
	}
}

// acksDue reports whether so much was received that it is to be acknowledged. Between two processes of one host nothing gets lost but where a
// buffer is too small, and an acknowledgement is a system call and a wake-up at the other end: there it goes with the news of the
// window, and when the sender asks for it.
func (l *link) acksDue() bool {
	if l.near() {
		return l.unacked >= ackRarely || l.unackedBytes >= ackRarelyBytes
	}
	return l.unacked >= 2
}

// onReset is told that the peer has no such link (any more). Under mu.
func (l *link) onReset() {
	if l.state == closing {
		l.leave() // that's all we wanted
		return
	}
	if l.finSeen && l.receiver.next == l.finOff {
		l.leave() // it had ended before
		return
	}
	l.fail(substrate.PathDown, errReset)
}

// afterBatch does what one batch of datagrams asks for: one acknowledgement, whatever the number of packets, and what it allows
// to be sent. It reports whether a user waited for what came, and of how long a stream that is a part: 0 unless it is much, while nothing goes the other
// way.
func (l *link) afterBatch(now int64) (waits bool, stream uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.receiver
	if waits = r.placed > 0; waits || r.ready.len() > 0 || r.finSeen {
		r.wake.wake()
	}
	if !waits && r.calls != r.callsThen && l.una == l.end {
		waits = true // he keeps up, and sends nothing that needs acknowledgements in time
	}
	r.callsThen = r.calls
	if l.end != r.endThen {
		r.endThen, r.streamFrom = l.end, r.next
	}
	if r.batch >= streamAbove {
		stream = r.next - r.streamFrom
	}
	r.batch = 0
	if l.acksDue() {
		r.ackNow = true
	}
	if r.unacked > 0 && !r.ackNow && r.ackAt == 0 {
		r.ackAt = now + int64(maxAckDelay)
	}
	if r.ackNow || l.sent < l.end || len(l.lost) > 0 || l.probes > 0 || l.finDue && !l.finSent {
		l.transmit(now)
	} else {
		l.noteBlocked(now)
		l.schedule(now)
	}
	return waits, stream
}

// reports takes in errors that the network reported. They can be forged by whoever guesses two ports, so they end only a dial; an open
// link is made to look for itself.
func (s *socket) reports() {
	var p [packetLen]byte
	for {
		about, err, ok := s.tr.reported(p[:])
		if !ok {
			return
		}
		if len(about) < packetLen || about[0]>>4 != version {
			continue
		}
		refused := errors.Is(err, syscall.ECONNREFUSED)
		switch kind(about[0] & 15) {
		case kindInit:
			if l := s.find(binary.LittleEndian.Uint64(about[headerLen:])); l != nil && refused {
				l.mu.Lock()
				if l.state == dialing {
					l.fail(substrate.Refused, err)
				}
				l.mu.Unlock()
			}
		case kindPacket, kindLong:
			if l := s.findPeer(binary.LittleEndian.Uint64(about[8:])); l != nil && refused {
				l.mu.Lock()
				l.onRefused(s.sub.now())
				l.mu.Unlock()
			}
		}
	}
}

// refusedFor is how long the peer's port must seem closed: a translator (NAT) that has moved the peer to another port says so, too, until
// the peer's next packet comes from there.
const refusedFor = time.Second

// onRefused is told that the peer's port is closed. The link probes, and believes it when all probes come to nothing for a while. Under mu.
func (l *link) onRefused(now int64) {
	switch {
	case l.state == closing:
		l.leave()
	case l.state != open:
	case l.refusedAt == 0 || l.refusedAt < l.receivedAt:
		l.refusedAt = now
		l.probes = 1
		l.transmit(now)
	case now-l.refusedAt > max(int64(refusedFor), suspectRTTs*int64(l.rtt.smooth)):
		l.fail(substrate.PathDown, errNoSocket)
	}
}
