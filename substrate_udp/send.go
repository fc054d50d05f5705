package udp

import (
	"slices"

	"github.com/sockemu/sockemu/substrate"
)

// A sender is the sending half of a link. Offsets are those of the link's own stream, which begins with 0. Under the link's mu.
type sender struct {
	wake wakeup
	want int // the room that a waiting Send wants

	pieces []piece // what isn't acknowledged, in order, from index head on
	head   int
	found  int    // the one that find returned
	copies *block // where small pieces, and those at offset Unkept, are copied to
	filled int

	borrowed [1][]byte // by the Borrow that runs
	loan     uint64    // where in the link's stream that of the last one begins

	una   uint64 // all before it is acknowledged
	sent  uint64 // all before it was sent at least once
	end   uint64 // all before it was taken by Send
	limit uint64 // what the peer's window allows

	lost  spans // to be sent again
	acked spans // acknowledged beyond una

	finDue, finSent, finAcked bool

	num     uint64 // the next packet number
	packets ring   // packets sent whose fate isn't settled
	largest uint64 // the highest number acknowledged
	wished  uint64 // the last packet that asked for an acknowledgement since nothing could follow

	inflight      int // bytes of those that ask for an acknowledgement
	lastEliciting int64
	progress      int64 // when the last of them was acknowledged, or the first was sent after all were
	timeouts      int   // probe timeouts in a row
	collapsed     bool  // and what they say was taken in
	windowProbes  int
	blockedAt     int64
	probes        int // packets to send whatever the window says
	lossAt        int64
	lastLoss      int64
	lostCount     uint64
	threshold     uint64 // packets acknowledged after one that make it lost
	patience      int    // and how much later than others it may come, see maxPatience
	patienceAt    int64
	eventAt       int64 // the last time that loss meant congestion
	doubt         int   // packets lost since, but for those that turned up

	cc      Controller
	limited bool // the window held back the last flight
	roomy   bool // nearWindow may be in flight whatever cc says
	beside  bool // the peer is on the same processor
	mtu     mtu

	tokens float64 // pacing, in bytes
	toksAt int64
	paceAt int64 // when there will be some

	streak    int   // Sends in quick succession
	streakAt  int64 // the last one
	holdAt    int64 // when a small rest is sent at the latest
	flush     bool  // now, that is
	resetAt   int64
	rate      float64 // bytes per second that were acknowledged when the sender had enough to say
	rateAt    int64
	rateBytes int
}

// A piece is a slice that Send took. It ends before offset end of the stream.
type piece struct {
	end  uint64
	data []byte // without what was released from its front
	sess uint64 // the session's offset behind it; Unkept if the memory is ours
	mem  *block
}

func (p *piece) start() uint64 { return p.end - uint64(len(p.data)) }

// Send takes what may be in flight, and sendAhead bytes more. What can't be sent at once is sent as acknowledgements come in.
func (l *link) Send(off uint64, bufs [][]byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.send(off, bufs)
}

// send is Send. Under mu.
func (l *link) send(off uint64, bufs [][]byte) (n int, err error) {
	if err := l.sendErr(); err != nil {
		return 0, err
	}
	now := l.now()
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	if total == 0 {
		return 0, nil
	}
	if now-l.streakAt < streakGap {
		l.streak++
	} else {
		l.streak = 0
	}
	for _, b := range bufs {
		for len(b) > 0 {
			room := l.room()
			if room <= 0 {
				l.transmit(now)
				if room = l.room(); room <= 0 {
					l.want = min(wakeRoom, total-n)
					l.sock.reclaim()
					l.sender.wake.wait(&l.mu)
					if err := l.sendErr(); err != nil {
						return n, err
					}
					now = l.now()
					continue
				}
			}
			k := min(len(b), room)
			if off == substrate.Unkept {
				l.enqueue(off, b[:k])
			} else {
				l.enqueue(off+uint64(n+k), b[:k])
			}
			n += k
			b = b[k:]
		}
	}
	l.streakAt = now
	if len(l.lost) == 0 && !l.ackNow && l.held(now) {
		l.schedule(now)
		return n, nil
	}
	l.transmit(now)
	if l.streak > 0 {
		l.streakAt = l.now() // the time that transmit took is not the user's
	}
	return n, nil
}

// room is the number of bytes that Send may take now.
func (l *link) room() int { return l.capacity() - int(l.end-l.una) }

// wakes reports whether there is room enough for a Send that waits for some.
func (l *link) wakes() bool {
	c := l.capacity()
	return c-int(l.end-l.una) >= max(min(l.want, c/2), 1)
}

// capacity is the number of bytes that Send may have taken and the peer not acknowledged.
func (l *link) capacity() int {
	flight := min(l.flight(), int(l.limit-l.una))
	ahead := sendAhead
	switch {
	case l.borrowed[0] != nil && l.near():
		ahead = 0 // what is not sent when Borrow returns must be copied
	case l.beside:
		ahead = besideAhead
	}
	return flight + ahead
}

// flight is the number of bytes that may be in flight. Between processes of one host nothing lies but the receiver's own buffer, which his
// window guards: there a link needn't find out slowly what there is, as long as nothing gets lost. Ends on one processor take turns, so
// what is in flight should still be in its cache.
func (l *link) flight() int {
	n := l.cc.Window()
	if l.roomy {
		n = max(n, nearWindow)
	}
	if l.beside {
		n = min(n, besideWindow)
	}
	return n
}

// enqueue takes a slice that ends at the session's offset sess.
func (l *link) enqueue(sess uint64, b []byte) {
	if sess != substrate.Unkept && len(b) >= copyBelow {
		l.end += uint64(len(b))
		l.push(piece{l.end, b, sess, nil})
		return
	}
	for len(b) > 0 {
		if l.sender.copies == nil || l.sender.filled == blockSize {
			l.dropCopies()
			l.sender.copies, l.sender.filled = newBlock(), 0
		}
		at := l.sender.filled
		n := copy(l.sender.copies.buf[at:], b)
		l.sender.filled += n
		l.end += uint64(n)
		b = b[n:]
		if i := len(l.pieces) - 1; i >= l.head && l.pieces[i].mem == l.sender.copies {
			l.pieces[i].data = l.pieces[i].data[:len(l.pieces[i].data)+n]
			l.pieces[i].end = l.end
			continue
		}
		l.sender.copies.hold()
		l.push(piece{l.end, l.sender.copies.buf[at:l.sender.filled:blockSize], substrate.Unkept, l.sender.copies})
	}
}

func (s *sender) push(p piece) {
	if s.head > 0 && len(s.pieces) == cap(s.pieces) {
		n := copy(s.pieces, s.pieces[s.head:])
		clear(s.pieces[n:])
		s.pieces, s.head = s.pieces[:n], 0
	}
	s.pieces = append(s.pieces, p)
}

func (s *sender) dropCopies() {
	if s.copies != nil {
		s.copies.drop()
		s.copies = nil
	}
}

// settle lets go of what is acknowledged.
func (s *sender) settle() {
	for s.head < len(s.pieces) && s.pieces[s.head].end <= s.una {
		if m := s.pieces[s.head].mem; m != nil {
			m.drop()
		}
		s.pieces[s.head] = piece{}
		s.head++
	}
	if s.head == len(s.pieces) {
		s.pieces, s.head = s.pieces[:0], 0
		s.dropCopies()
	}
}

// dropUnsent lets go of everything, acknowledged or not. Nothing is sent any more.
func (l *link) dropUnsent() {
	l.una, l.sent = l.end, l.end
	l.settle()
	l.lost, l.acked = nil, nil
}

// find returns the index of the piece that holds offset off. Mostly that is the one asked for before, or the next.
func (s *sender) find(off uint64) int {
	for i := max(s.found, s.head); i < min(s.found+2, len(s.pieces)); i++ {
		if p := &s.pieces[i]; off < p.end && off >= p.start() {
			s.found = i
			return i
		}
	}
	i, _ := slices.BinarySearchFunc(s.pieces[s.head:], off, func(p piece, off uint64) int {
		if p.end <= off {
			return -1
		}
		return 1
	})
	s.found = s.head + i
	return s.found
}

// gather appends the slices of [off, off+n) to vec. ok is false if a part was released.
func (s *sender) gather(vec [][]byte, off uint64, n int) (_ [][]byte, ok bool) {
	for i := s.find(off); n > 0; i++ {
		if i >= len(s.pieces) || s.pieces[i].start() > off {
			return vec, false
		}
		p := &s.pieces[i]
		d := p.data[off-p.start():]
		d = d[:min(len(d), n)]
		vec = append(vec, d)
		off += uint64(len(d))
		n -= len(d)
	}
	return vec, true
}

// Release gives back the session's slices below off. What was sent needs no second time: the peer's session has it. What was not
// (which no session does) is copied.
func (l *link) Release(off uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(l.head, off)
}

// release is Release of pieces from an index on. Under mu.
func (l *link) release(i int, off uint64) {
	for ; i < len(l.pieces); i++ {
		p := &l.pieces[i]
		if p.sess == substrate.Unkept || len(p.data) == 0 {
			continue
		}
		from := p.sess - uint64(len(p.data))
		if off <= from {
			return
		}
		k := min(off-from, uint64(len(p.data)))
		if p.start()+k > l.sent {
			l.own(p)
			continue
		}
		p.data = p.data[k:]
		if len(p.data) == 0 {
			p.data = nil
		}
	}
}

// own copies the memory of a piece.
func (l *link) own(p *piece) {
	p.data, p.sess = slices.Clone(p.data), substrate.Unkept
}

// copyTail makes all that is kept ours.
func (l *link) copyTail() {
	for i := l.head; i < len(l.pieces); i++ {
		if p := &l.pieces[i]; p.mem == nil {
			l.own(p)
		}
	}
}

// blocked reports whether nothing is on its way though something should be: the peer's window is closed.
func (l *link) blocked() bool { return l.inflight == 0 && l.una < l.end }
