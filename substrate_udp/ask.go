package udp

import (
	"encoding/binary"
	"time"
)

const (
	askAfter = 250 * time.Millisecond
	askMost  = 20 * time.Second // and up to half as much again
	// enoughAsks is counted no further: askAfter doubled so often is more than askMost.
	enoughAsks = 10
)

// ask makes a receiver whom no more data reaches say something, less and less often. At first that is a probe, which the peer has to
// acknowledge: if its address has changed meanwhile the peer can't know the new one before. Later it is a mere question, and only while a user
// waits in Recv: silence proves nothing then, but a peer that has ended the link, and whose FIN and RESET got lost, says GONE.
func (l *link) ask(now int64) {
	l.askAt = 0
	if l.state != open || l.recvErr() != nil {
		return
	}
	if l.asksSoon() {
		if l.inflight == 0 {
			l.probes = 1
		}
	} else {
		if l.receiver.posted == nil {
			return // the next Recv begins again
		}
		if l.receivedAt != 0 && now-l.receivedAt < l.askInterval()/2 {
			l.askAt = l.nextAsk(l.receivedAt) // the peer has asked, or said something else
			return
		}
		if l.inflight == 0 { // else the probe timeout asks
			l.sendQuestion(now)
		}
	}
	l.asks = min(l.asks+1, enoughAsks)
	if l.asksSoon() || l.receiver.posted != nil {
		l.askAt = l.nextAsk(now)
	}
}

// askRarely is told that a user waits in Recv. Under mu.
func (l *link) askRarely() {
	if l.askAt != 0 || l.state != open {
		return
	}
	for l.asksSoon() {
		l.asks++
	}
	now := l.now()
	l.askAt = askTick(now + int64(askAfter)) // what happened while nobody waited shows soon
	l.schedule(now)
}

// asksSoon reports whether data came so recently that the peer has to answer.
func (l *link) asksSoon() bool {
	return askAfter<<l.asks <= min(l.sub.opts.PathDown, askMost)
}

// askInterval is how long the receiver is silent before it asks. Links that were made at the same time ask at different times, and of two
// ends mostly one only.
func (l *link) askInterval() int64 {
	const spread = int64(askMost) / 2
	return min(int64(askAfter)<<l.asks, int64(askMost)+int64(l.id>>1)%spread)
}

// nextAsk is when a receiver that has been silent from then on asks. Questions, which are no hurry, all links of a process ask at multiples of
// askAfter: so thousands of idle ones wake it no more often than a few.
func (l *link) nextAsk(from int64) int64 {
	at := from + l.askInterval()
	if l.asksSoon() {
		return at
	}
	return askTick(at)
}

func askTick(at int64) int64 {
	const tick = int64(askAfter)
	return (at + tick - 1) / tick * tick
}

// sendQuestion asks for an acknowledgement. It isn't repeated if it gets lost, nor does its loss mean anything.
func (l *link) sendQuestion(now int64) {
	h := putHeader(make([]byte, 0, packetLen), kindPacket, flagAckNow, l.peer)
	h = binary.LittleEndian.AppendUint64(h, l.num)
	l.noteSent(sentPacket{at: now, size: packetLen}, now)
	l.sock.sendOne(l.remote, h)
}
