package udp

import (
	"encoding/binary"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// ecn is explicit congestion notification (RFC 3168) as in RFC 9000, section 13.4: packets say that their ends know of it, routers mark
// them instead of dropping them, the receiver counts the marks, and its ACKs tell. Before the sender believes in a path it looks whether
// the codepoints come through, and it goes on looking: it stops where they don't, or where the counts can't be true. Under the link's mu.
type ecn struct {
	peer bool  // both ends take part
	seen marks // what was received

	// Of the path to the peer.
	state   ecnState
	round   uint8  // marks the packets of one validation; never 0
	tried   int    // packets sent with ECT(0) in this validation that ask for an acknowledgement
	missed  int    // and of those, the lost ones
	from    uint64 // the first packet on this path
	adopt   bool   // the next counts are where those of this path begin
	heard   bool   // counts have come, the last
	largest uint64 // with this packet, and
	last    marks  // these
	sent    uint64 // packets sent with ECT(0) on this path
	counted uint64 // those that the counts speak of
	acked   uint64 // those that are acknowledged
	clean   bool   // one has arrived as it was sent
	lost    uint64 // packets lost before
	row     uint64 // packets in a row that came back as CE
	full    int    // round trips in which nothing else did
	fullEnd int64  // packets sent after it belong to the next of them

	marking bool // packets that are being made will carry ECT(0)
	batch   int  // how many of those ask for an acknowledgement
}

type ecnState uint8

const (
	ecnOff     ecnState = iota // one end doesn't know of it, or the path was found bad
	ecnTesting                 // the first packets are out
	ecnCapable
)

// Bounds of a validation.
const (
	ecnTries  = 10 // packets are sent with ECT(0) before one must have come back (RFC 9000, appendix A.4)
	ecnDoubt  = 2  // probe timeouts in a row after which a path is validated anew: it may have begun to drop such packets
	ecnBurst  = 10 // packets sent at once at least, see burst (RFC 9002, section 7.7)
	ecnRounds = 8  // round trips, and
	ecnRow    = 32 // packets, of nothing but CE after which the path marks everything, whatever is sent
)

// marks counts packets by codepoint. Counts go round at 2^32.
type marks [4]uint32

// marksLen is the length of the counts in an ACK: ECT(0), ECT(1), CE.
const marksLen = 12

// rangesMarked is the bit in an ACK's number of ranges that says that counts follow.
const rangesMarked = 1 << 15

// The capabilities that an end tells in INIT and ACCEPT.
const (
	capECN  = 1 << 0
	capLong = 1 << 1
)

// capabilities are what this end can do.
func (s *socket) capabilities() (caps uint32) {
	if !s.sub.opts.NoECN && s.tr.ecn() {
		caps |= capECN
	}
	if s.tr.rows() {
		caps |= capLong
	}
	return caps
}

// agree takes in the peer's capabilities when the link opens.
func (l *link) agree(caps uint32) {
	both := caps & l.sock.capabilities()
	l.ecn.peer = both&capECN != 0
	if both&capLong != 0 && l.sameHost {
		l.mtu.allowLong(l.now())
	}
	if !l.sameHost || !l.remote.Addr().IsLoopback() { // nothing between two processes of one host marks there
		l.validateECN()
	}
}

// validateECN begins to look whether codepoints come through. The counts go on.
func (l *link) validateECN() {
	e := &l.ecn
	if !e.peer {
		return
	}
	if e.round++; e.round == 0 {
		e.round = 1
	}
	e.state, e.tried, e.missed = ecnTesting, 0, 0
}

// newPathECN forgets the old path. Counts for what is on its way there may still come.
func (l *link) newPathECN() {
	e := &l.ecn
	e.from, e.adopt = l.num, true
	e.sent, e.counted, e.acked = uint64(l.packets.len())+batchPackets, 0, 0
	e.clean, e.row, e.full, e.lost = false, 0, 0, l.lostCount
	l.validateECN()
}

// beginBatch decides about the packets that are made until endBatch.
func (l *link) beginBatch() {
	e := &l.ecn
	e.marking = e.state == ecnCapable || e.state == ecnTesting && e.tried < ecnTries && l.timeouts < ecnDoubt
}

// endBatch returns the codepoint of the n packets. Those that only acknowledge carry none: their loss says nothing to their sender
// either (RFC 3168, section 6.1.4).
func (l *link) endBatch(n int) byte {
	e := &l.ecn
	e.marking = false
	if e.batch == 0 {
		return sys.NotECT
	}
	e.tried += e.batch
	e.sent += uint64(n)
	e.batch = 0
	return sys.ECT0
}

// burst is how many bytes may be sent at once on a path that is paced: a row of packets for the kernel to cut, or what rate is in 1 ms. On a
// long path where routers may mark them that would be a queue of our own making, so there it is no more than the timer asks for, once the
// first window is out.
func (l *link) burst(rate float64) float64 {
	most := max(rate*time.Millisecond.Seconds(), float64(max(holdBytes, l.mtu.size)))
	if l.ecn.state == ecnOff || l.rtt.least < longRTT || l.una == 0 {
		return most
	}
	return min(most, max(2*rate*timerSlack.Seconds(), float64(ecnBurst*l.mtu.size)))
}

// lostMarked is told that a packet was declared lost. A path that loses all packets that know of ECN, and takes others, drops them.
func (l *link) lostMarked(p *sentPacket) {
	e := &l.ecn
	if p.mark == 0 || p.mark != e.round || e.state != ecnTesting {
		return
	}
	if e.missed++; e.missed >= e.tried {
		l.stopECN(&l.sub.count.ecnLost)
	}
}

// stopECN ends ECN on this path.
func (l *link) stopECN(why *counter) {
	l.ecn.state = ecnOff
	why.Add(1)
}

// onMarks takes in the counts of an ACK that newly acknowledges packets, acked of them sent with ECT(0) in this validation, the latest at
// sentAt. It follows RFC 9000, section 13.4.2.1.
func (l *link) onMarks(a *ack, acked int, sentAt, now int64) {
	e := &l.ecn
	if e.state == ecnOff || e.heard && a.largest <= e.largest {
		return // ACKs may overtake each other
	}
	e.heard, e.largest = true, a.largest
	if a.largest < e.from {
		return
	}
	var d marks
	for i := range d {
		d[i] = a.marks[i] - e.last[i]
	}
	e.last = a.marks
	if e.adopt {
		e.adopt = false
		return
	}
	c := &l.sub.count
	e.counted += uint64(d[sys.ECT0]) + uint64(d[sys.ECT1]) + uint64(d[sys.CE])
	e.acked += uint64(acked) // in sum: an ACK with many gaps may count more packets than it has room to name
	switch {
	case e.counted > e.sent: // also where counts run backwards
		l.stopECN(&c.ecnFalse)
		return
	case d[sys.ECT1] > 0:
		l.stopECN(&c.ecnMangled)
		return
	case e.counted < e.acked:
		l.stopECN(&c.ecnBleached)
		return
	case e.state == ecnTesting && acked > 0:
		e.state = ecnCapable
		c.ecnPaths.Add(1)
	}
	if d[sys.ECT0] > 0 {
		e.clean, e.row, e.full = true, 0, 0
	}
	if d[sys.CE] == 0 || e.state != ecnCapable {
		return
	}
	c.ecnMarks.Add(uint64(d[sys.CE]))
	if sentAt == 0 {
		sentAt = now - int64(l.rtt.smooth)
	}
	l.cc.OnMark(time.Duration(now), time.Duration(sentAt), int(d[sys.CE]))
	if d[sys.ECT0] > 0 {
		return
	}
	e.row += uint64(d[sys.CE])
	if sentAt >= e.fullEnd {
		e.fullEnd = now
		e.full++
	}
	if e.full < ecnRounds || e.row < ecnRow {
		return
	}
	// What is left of the window would hardly be marked by a queue.
	l.stopECN(&c.ecnMangled)
	if !e.clean && l.lostCount <= e.lost {
		// Never was a mark true, and nothing was lost: what a new link may do isn't more than this one might do without ECN.
		l.cc = l.sub.opts.Controller(l.mtu.size)
	}
}

// count notes the codepoint of a packet that was received.
func (r *receiver) countMark(p *packet, m *marks) {
	if p.ecn == sys.NotECT {
		return
	}
	m[p.ecn&3]++
	if p.ecn == sys.CE && eliciting(p.flags) {
		r.ackNow = true // RFC 9000, section 13.2.1
	}
}

// reportsMarks tells whether ACKs have counts.
func (e *ecn) reportsMarks() bool { return e.peer && e.seen != marks{} }

// putMarks puts counts into the ACK block that begins at b[at:].
func putMarks(b []byte, at int, m marks) []byte {
	n := binary.LittleEndian.Uint16(b[at+rangesAt:])
	binary.LittleEndian.PutUint16(b[at+rangesAt:], n|rangesMarked)
	b = append(b, make([]byte, marksLen)...)
	c := b[at+ackLen:]
	copy(c[marksLen:], c)
	for i, codepoint := range [...]int{sys.ECT0, sys.ECT1, sys.CE} {
		binary.LittleEndian.PutUint32(c[4*i:], m[codepoint])
	}
	return b
}

// parseMarks takes them out of b.
func parseMarks(b []byte, m *marks) (rest []byte, err error) {
	if len(b) < marksLen {
		return nil, errShort
	}
	for i, codepoint := range [...]int{sys.ECT0, sys.ECT1, sys.CE} {
		m[codepoint] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return b[marksLen:], nil
}
