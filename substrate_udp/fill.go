package udp

import (
	"encoding/binary"
	"time"
)

// transmit sends what may and must be sent now, and sets the timer. Under mu.
func (l *link) transmit(now int64) {
	if l.state == dialing || l.state == gone {
		return
	}
	l.paceAt = 0
	l.roomy = l.near() && !l.collapsed && (l.lastLoss == 0 || now-l.lastLoss > int64(nearForgives))
	l.beside = l.near() && l.cpu != 0 && l.peerCPU.Load() == uint32(l.cpu)
	for more := true; more; {
		b := newBatch()
		l.beginBatch()
		more = l.fill(b, now)
		b.ecn = l.endBatch(len(b.packets))
		if len(b.packets) == 0 {
			b.free()
			break
		}
		b.seal()
		first := l.num - uint64(len(b.packets))
		n, err := l.sock.tr.write(l.remote, b)
		l.sub.count.packetsSent.Add(uint64(n))
		l.sub.count.bytesSent.Add(uint64(b.bytes))
		if n < len(b.packets) {
			l.unsent(first+uint64(n), err, now)
			more = false
		}
		b.free()
	}
	l.flush = false
	l.noteBlocked(now)
	l.schedule(now)
}

func (l *link) noteBlocked(now int64) {
	if l.sent == l.end {
		l.holdAt = 0
	}
	if !l.blocked() {
		l.blockedAt = 0
	} else if l.blockedAt == 0 {
		l.blockedAt = now
	}
}

// unsent is told the packets from num on did not go out, and why.
func (l *link) unsent(num uint64, err error, now int64) {
	switch err {
	case errBusy:
		// The socket's buffer is full. What is not sent is as good as lost, but nobody is to blame.
		for ; num < l.num; num++ {
			l.forget(num, now)
		}
		l.paceAt = now + int64(granularity)
	case errTooBig:
		if l.packets.len() > 0 && l.isLong(l.packets.at(num)) {
			l.mtu.longPause = longPauseMost
			l.noLong(now)
		} else {
			l.shrinkMTU(now)
		}
		for ; num < l.num; num++ {
			l.forget(num, now)
		}
		l.paceAt = now + int64(granularity)
	default:
		// No route, or no permission, for the moment: for all we know the packets got lost. If it lasts, silence will tell.
		l.sub.count.sendErrors.Add(1)
	}
}

// fill puts packets into the batch, and reports whether more could follow at once.
func (l *link) fill(b *batch, now int64) bool {
	if l.resets > 0 {
		l.fillReset(b, now)
		return false
	}
	more := true
	for more && !b.full() {
		if l.train(b, now) {
			l.limited = l.inflight >= l.flight()
			more = !l.limited && min(l.end, l.limit) > l.sent && !l.held(now)
			break
		}
		more = l.nextPacket(b, now)
	}
	last := !more
	if more && b.full() { // perhaps nothing may follow nevertheless
		l.limited = l.inflight >= l.flight()
		last = l.limited || len(l.lost) == 0 && min(l.end, l.limit) == l.sent
	}
	if n := len(b.packets); n > 0 && last && l.wishes() {
		// Nothing follows until an acknowledgement comes: it shall come at once.
		h := b.vec[b.start(n-1)]
		h[1] |= l.ackWish(h[1])
		if b.packets[n-1].sealed {
			reseal(h)
		}
	}
	return more
}

// wishes reports whether the last packet for now is to be acknowledged at once: where a window holds back the rest, and where a small rest waits,
// now or soon, for what was asked for before, and nothing was.
func (l *link) wishes() bool {
	return l.limited || l.sent < l.end && l.sent >= l.limit || (l.streak >= streakLength || l.sent < l.end) && !l.asked()
}

// asked reports whether an acknowledgement is on its way that was to come at once.
func (l *link) asked() bool { return l.inflight > 0 && l.wished > l.largest }

// ackWish is flagAckNow for a packet that is to be acknowledged anyway.
func (l *link) ackWish(flags byte) byte {
	if eliciting(flags) {
		l.wished = l.num - 1
		return flagAckNow
	}
	return 0
}

// ackDue reports whether the next packet takes an acknowledgement along.
func (l *link) ackDue() bool { return l.fresh && len(l.got) > 0 && (l.ackNow || l.unacked > 0) }

// nextPacket builds one packet, if there is anything to send.
func (l *link) nextPacket(b *batch, now int64) bool {
	h := b.header()
	h = putHeader(h, kindPacket, 0, l.peer)
	h = binary.LittleEndian.AppendUint64(h, l.num)
	var flags byte
	withAck := l.ackDue()
	if withAck {
		flags |= flagAck
		h = l.appendAck(h, now)
	}
	size := l.full()
	if probe := l.probeMTU(now); probe > 0 && l.inflight > 0 && l.probes == 0 {
		flags |= flagPad
		return l.addPadding(b, h, flags, probe, now)
	}
	off, n := l.pick(size-len(h)-dataLen, now)
	at := len(b.vec)
	b.vec = append(b.vec, nil)
	fin := l.finDue && !l.finSent && l.sent == l.end && len(l.lost) == 0 && (n == 0 || off+uint64(n) == l.end)
	switch {
	case n > 0:
		var ok bool
		if b.vec, ok = l.gather(b.vec, off, n); !ok {
			// Released: the peer's session has it, so an acknowledgement is all that is missing.
			b.vec = b.vec[:at+1]
			n = 0
			flags |= flagAckNow
			break
		}
		flags |= flagData
	case l.probes > 0 && !fin:
		flags |= flagAckNow
	}
	if fin {
		flags |= flagFin
		l.finSent = true
		if n == 0 {
			off = l.end
		}
	}
	if l.probes > 0 && eliciting(flags) {
		l.probes--
		flags |= flagAckNow
	}
	if !eliciting(flags) && !(withAck && l.ackNow) {
		b.vec = b.vec[:at]
		return false
	}
	if flags&(flagData|flagFin) != 0 {
		h = binary.LittleEndian.AppendUint64(h, off)
	}
	h[1] = flags
	if l.bare {
		uncover(h)
		l.where(h, now)
	}
	if len(h)+n > l.mtu.wire {
		lengthen(h, len(h)+n)
	}
	b.add(h, at, n)
	l.noteSent(sentPacket{at: now, off: off, n: uint32(n), size: uint32(len(h) + n), flags: flags}, now)
	return flags&flagData != 0 || l.probes > 0
}

// addPadding adds a probe for a longer packet.
func (l *link) addPadding(b *batch, h []byte, flags byte, size int, now int64) bool {
	pad := padding[:size-len(h)]
	at := len(b.vec)
	h[1] = flags
	b.vec = append(b.vec, nil, pad)
	if size == l.mtu.long {
		uncover(h)
		l.where(h, now)
		lengthen(h, size)
		l.mtu.sentLong(now, l.rtt.timeout())
	} else {
		l.mtu.sent(now, l.rtt.timeout())
	}
	b.add(h, at, len(pad))
	l.noteSent(sentPacket{at: now, size: uint32(size), flags: flags}, now)
	return true
}

var padding [blockSize]byte

// noteSent keeps account of a packet, which gets the next number.
func (l *link) noteSent(p sentPacket, now int64) {
	if p.flags&flagAck != 0 {
		l.unacked, l.unackedBytes, l.ackNow, l.fresh, l.ackAt = 0, 0, false, false, 0
	}
	l.num++
	if eliciting(p.flags) {
		if l.inflight == 0 {
			l.progress = now
		}
		p.state = inFlight
		if l.ecn.marking {
			p.mark = l.ecn.round
			l.ecn.batch++
		}
		l.inflight += int(p.size)
		l.lastEliciting = now
		l.tokens -= float64(p.size)
	}
	l.packets.push(p, l.num-1)
}

// pick chooses the bytes for the next packet of up to space bytes of payload.
func (l *link) pick(space int, now int64) (off uint64, n int) {
	l.limited = false
	if space <= 0 || l.una == l.end || l.packets.len() >= maxOutstanding {
		return 0, 0
	}
	if l.probes == 0 {
		if l.inflight >= l.flight() {
			l.limited = true
			return 0, 0
		}
		if !l.paced(now) {
			// Whom only pacing holds back uses the window (RFC 9002, section 7.8).
			l.limited = l.inflight+int(min(l.end, l.limit)-l.sent) >= l.flight()
			return 0, 0
		}
	}
	for len(l.lost) > 0 {
		s := l.lost[0]
		n = int(min(s.hi-s.lo, uint64(space)))
		l.lost.remove(s.lo, s.lo+uint64(n))
		return s.lo, n
	}
	if avail := min(l.end, l.limit); avail > l.sent {
		n = int(min(avail-l.sent, uint64(space)))
		if l.held(now) {
			return 0, 0
		}
		off = l.sent
		l.sent += uint64(n)
		return off, n
	}
	if l.probes > 0 && l.una < l.sent {
		// Something to make the peer talk: the oldest byte it may lack.
		n = int(min(l.sent-l.una, uint64(space)))
		if len(l.acked) > 0 {
			n = int(min(uint64(n), l.acked[0].lo-l.una))
		}
		return l.una, n
	}
	return 0, 0
}

// held reports whether a small rest waits for more to come, or for the acknowledgement that was asked for: a row of small Sends is joined.
func (l *link) held(now int64) bool {
	if l.streak < streakLength || !l.asked() || l.flush || l.probes > 0 || l.finDue || l.end-l.sent >= holdBytes {
		l.holdAt = 0
		return false
	}
	if l.holdAt == 0 {
		l.holdAt = now + int64(holdTime)
	}
	return true
}

// unpaced reports whether the link needs no pacing.
func (l *link) unpaced(now int64) bool {
	return l.rtt.samples == 0 || l.rtt.least < paceAboveRTT && (l.lastLoss == 0 || now-l.lastLoss > int64(lossRecent))
}

// paced reports whether pacing lets a packet go. Only long or lossy paths are paced; see RFC 9002, section 7.7.
func (l *link) paced(now int64) bool {
	l.paceAt = 0
	r := l.rtt.smooth
	if l.unpaced(now) {
		return true
	}
	rate := 1.25 * float64(l.cc.Window()) / max(r, granularity).Seconds()
	if l.cc.SlowStart() {
		rate *= 1.6
	}
	burst := l.burst(rate)
	l.tokens = min(l.tokens+rate*time.Duration(now-l.toksAt).Seconds(), burst)
	l.toksAt = now
	if l.tokens > 0 {
		return true
	}
	l.paceAt = now + int64((burst/4-l.tokens)/rate*1e9) + 1
	return false
}

// fillReset makes a packet that breaks the link at the peer. It is repeated: nobody acknowledges it.
func (l *link) fillReset(b *batch, now int64) {
	l.resetAt = 0
	at := len(b.vec)
	h := putHeader(b.header(), kindPacket, flagReset, l.peer)
	h = binary.LittleEndian.AppendUint64(h, l.num)
	b.vec = append(b.vec, nil)
	b.add(h, at, 0)
	l.noteSent(sentPacket{at: now, size: packetLen}, now)
	if l.resets--; l.resets == 0 {
		l.linger = now + int64(resetInterval)
		l.resets = -1
	} else {
		l.resetAt = now + int64(resetInterval)
	}
}
