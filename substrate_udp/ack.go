package udp

import (
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// What became of a packet sent.
const (
	settled  = iota // acknowledged, or it never asked for that
	inFlight        // not known yet
	lost            // declared lost; it may still turn up
)

// A sentPacket is remembered until its fate is settled.
type sentPacket struct {
	at    int64
	off   uint64
	n     uint32 // bytes of the stream
	size  uint32 // bytes of the datagram
	flags byte
	state uint8
	mark  uint8 // the validation in which it was sent with ECT(0), see ecn; 0: it wasn't
}

// A ring holds packets by number: base is the lowest of them.
type ring struct {
	items []sentPacket // a power of two
	base  uint64
	count int
}

func (r *ring) len() int { return r.count }

// push adds the packet with number num, which follows the last one.
func (r *ring) push(p sentPacket, num uint64) {
	if r.count == 0 {
		if p.state == settled {
			r.base = num + 1
			return // nothing to remember
		}
		r.base = num
	}
	if r.count == len(r.items) {
		bigger := make([]sentPacket, max(64, 2*len(r.items)))
		for i := range r.count {
			n := r.base + uint64(i)
			bigger[n&uint64(len(bigger)-1)] = *r.at(n)
		}
		r.items = bigger
	}
	r.count++
	*r.at(num) = p
}

func (r *ring) at(num uint64) *sentPacket { return &r.items[num&uint64(len(r.items)-1)] }

// trim forgets settled packets at the front, and lost ones sent before old.
func (r *ring) trim(old int64) {
	for r.count > 0 {
		if p := r.at(r.base); p.state == inFlight || p.state == lost && p.at >= old {
			return
		}
		r.base++
		r.count--
	}
}

// onAck takes in an acknowledgement. Under mu.
func (l *link) onAck(a *ack, now int64) {
	if a.largest >= l.num || a.next > l.sent {
		l.fail(substrate.Protocol, errBreach)
		return
	}
	var (
		acked, largestNew = 0, int64(-1)
		marked            int // newly acknowledged packets that were sent with ECT(0)
		delivered         int
		sentAt            int64
		wasLimited        = l.limited || l.inflight >= l.cc.Window()
	)
	a.each(func(lo, hi uint64) bool {
		if hi <= l.packets.base {
			return false
		}
		// Those beyond the end are pure ACKs. The lowest come first: then what is acknowledged in order only moves una.
		for n := max(lo, l.packets.base); n < min(hi, l.packets.base+uint64(l.packets.count)); n++ {
			p := l.packets.at(n)
			if p.state == settled {
				continue
			}
			if n == a.largest {
				largestNew = p.at
			}
			if p.mark != 0 && p.mark == l.ecn.round {
				marked++
			}
			if p.state == inFlight && p.flags&^flagAckNow == flagData && p.off == l.una && len(l.acked) == 0 && len(l.lost) == 0 {
				// The usual case, in short.
				p.state = settled
				l.una += uint64(p.n)
				acked += int(p.size)
				delivered += int(p.n)
				l.inflight -= int(p.size)
				sentAt = max(sentAt, p.at)
				l.largest = max(l.largest, n)
				if l.isLong(p) {
					l.mtu.longSaw = n
				}
				continue
			}
			if l.isLong(p) {
				l.mtu.longSaw = max(l.mtu.longSaw, n)
			}
			sentAt = max(sentAt, p.at)
			l.largest = max(l.largest, n)
			if p.state == inFlight {
				l.inflight -= int(p.size)
				acked += int(p.size)
				delivered += int(p.n)
			} else {
				l.spurious(now)
			}
			p.state = settled
			l.settlePacket(p, now)
		}
		return true
	})
	if largestNew >= 0 {
		l.rtt.add(time.Duration(now-largestNew), a.delay, now)
	}
	l.onMarks(a, marked, sentAt, now)
	if acked > 0 {
		l.timeouts, l.collapsed = 0, false
		l.progress = now
		l.cc.OnAck(time.Duration(now), time.Duration(sentAt), acked, l.rtt.latest, l.rtt.least, wasLimited)
		l.measure(delivered, wasLimited, now)
	}
	l.advance(a)
	l.detectLoss(now)
	l.packets.trim(now - 2*int64(l.rtt.smooth) - int64(maxAckDelay))
	if l.finSent && l.finAcked && l.una == l.end && l.state == closing {
		l.leave()
		return
	}
	if l.sender.wake.waiting && l.wakes() {
		l.sender.wake.wake()
	}
}

// settlePacket notes what an acknowledged packet carried.
func (l *link) settlePacket(p *sentPacket, now int64) {
	if p.n > 0 {
		lo, hi := p.off, p.off+uint64(p.n)
		if len(l.lost) > 0 {
			l.lost.remove(lo, hi)
		}
		if lo = max(lo, l.una); lo < hi {
			if lo == l.una && len(l.acked) == 0 {
				l.una = hi
			} else {
				l.acked.add(lo, hi)
			}
		}
	}
	if p.flags&flagFin != 0 {
		l.finAcked, l.finSent = true, true
	}
	if p.flags&flagPad != 0 {
		l.growMTU(int(p.size), now)
	}
}

// advance takes in the cumulative part of an acknowledgement: what has arrived in order, and the window.
func (l *link) advance(a *ack) {
	l.una = max(l.una, a.next)
	for len(l.acked) > 0 && l.acked[0].lo <= l.una {
		l.una = max(l.una, l.acked[0].hi)
		l.acked = append(l.acked[:0], l.acked[1:]...)
	}
	if len(l.lost) > 0 {
		l.lost.remove(0, l.una)
	}
	l.settle()
	if limit := a.next + uint64(a.window); limit > l.limit {
		l.limit = limit
		l.windowProbes = 0
	}
}

// spurious learns from a packet that was declared lost and wasn't: the path reorders more than was thought. When all that was lost
// in one round trip turns up, the window was reduced for nothing.
func (l *link) spurious(now int64) {
	l.sub.count.spurious.Add(1)
	l.lostCount--
	l.threshold = min(l.threshold+1, maxThreshold)
	if l.patience < maxPatience && now >= l.patienceAt {
		l.patience++
		l.patienceAt = now + int64(l.rtt.smooth)
	}
	if l.doubt--; l.doubt == 0 {
		l.cc.OnSpurious(time.Duration(now))
	}
}

const (
	minThreshold = 3
	maxThreshold = 64
	maxPatience  = 8 // eighths of a round-trip time beyond the first (RFC 8985, section 6.2)
)

// detectLoss declares lost what RFC 9002, section 6.1, says: all packets that enough later ones, or enough time, have overtaken, at
// once. Under mu.
func (l *link) detectLoss(now int64) {
	l.lossAt = 0
	r := max(l.rtt.smooth, l.rtt.latest)
	delay := int64(max(r+r/8*time.Duration(1+l.patience), r+granularity))
	var sentAt int64
	bytes, packets := 0, 0
	vanish := false
	largest := l.largest
	for n := l.packets.base; n < min(largest, l.packets.base+uint64(l.packets.count)); n++ {
		p := l.packets.at(n)
		if p.state != inFlight {
			continue
		}
		if n+l.threshold > largest && p.at+delay > now {
			l.lossAt = p.at + delay
			break // later ones were sent later
		}
		counts := l.lose(p)
		if l.isLong(p) && n > l.mtu.longSaw {
			vanish, counts = true, false // shorter ones got through, so it is their length that matters
		}
		if counts {
			bytes += int(p.size)
			packets++
			sentAt = max(sentAt, p.at)
		}
	}
	if vanish && l.mtu.size > l.mtu.wire {
		l.noLong(now)
	}
	if bytes > 0 {
		l.lastLoss = now
		if sentAt >= l.eventAt {
			l.eventAt, l.doubt = now, 0
		}
		l.doubt += packets
		l.cc.OnLoss(time.Duration(now), time.Duration(sentAt), bytes)
	}
}

// lose declares a packet lost, and reports whether that says anything about congestion.
func (l *link) lose(p *sentPacket) bool {
	p.state = lost
	l.inflight -= int(p.size)
	l.lostMarked(p)
	l.lostCount++
	l.sub.count.lost.Add(1)
	l.again(p)
	return p.flags&flagPad == 0
}

// again queues what a packet carried for another one.
func (l *link) again(p *sentPacket) {
	if p.n > 0 {
		lo, hi := max(p.off, l.una), p.off+uint64(p.n)
		l.acked.missing(lo, hi, func(lo, hi uint64) { l.lost.add(lo, hi) })
	}
	if p.flags&flagFin != 0 && !l.finAcked {
		l.finSent = false
	}
}

// forget takes back a packet that was never sent.
func (l *link) forget(num uint64, now int64) {
	if num < l.packets.base || num >= l.packets.base+uint64(l.packets.count) {
		return
	}
	p := l.packets.at(num)
	if p.state != inFlight {
		return
	}
	p.state = settled
	l.inflight -= int(p.size)
	l.again(p)
	p.flags = 0 // it acknowledges nothing
}

// appendAck adds an ACK block. Under mu.
func (l *link) appendAck(h []byte, now int64) []byte {
	r := &l.receiver
	window := uint64(0)
	if limit := max(r.taken+uint64(r.window), r.advertised); limit > r.next {
		window = limit - r.next
		r.advertised = limit
	}
	room := min(l.mtu.wire/2, ackLen+maxRanges*rangeLen)
	at := len(h)
	h = putAck(h, r.got, r.next, uint32(window), time.Duration(now-r.receivedAt), room)
	if l.ecn.reportsMarks() {
		h = putMarks(h, at, l.ecn.seen)
	}
	return h
}

// measure keeps the rate at which bytes were acknowledged while the sender had enough to say.
func (l *link) measure(bytes int, limited bool, now int64) {
	if !limited && l.end == l.sent {
		l.rateAt = 0
		return
	}
	if l.rateAt == 0 {
		l.rateAt, l.rateBytes = now, 0
		return
	}
	l.rateBytes += bytes
	if d := now - l.rateAt; d >= max(int64(l.rtt.smooth), int64(5*time.Millisecond)) {
		l.rate = float64(l.rateBytes) / time.Duration(d).Seconds()
		l.rateAt, l.rateBytes = now, 0
	}
}
