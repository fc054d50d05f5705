package udp

import (
	"net"
	"os"
	"slices"

	"github.com/sockemu/sockemu/substrate"
)

// A receiver is the receiving half of a link. Under the link's mu.
type receiver struct {
	wake wakeup

	got   spans  // packet numbers received
	floor uint64 // packets below count as received: their gaps were forgotten
	next  uint64 // all bytes of the stream before it have arrived
	taken uint64 // and the user has these

	ready  queue   // chunks in order, up to next
	early  []chunk // chunks beyond a gap, ascending, disjoint
	pinned int     // bytes of received blocks that chunks keep from the pool
	copies *block  // where small chunks are copied to
	filled int     // how much of it is in use

	window     int    // how far the peer may be ahead of the user
	advertised uint64 // the limit that it was told
	epochAt    int64  // autotuning: since when, and from which byte on, the user's speed is measured
	epochFrom  uint64

	finSeen bool
	finOff  uint64

	unacked      int   // packets that ask for an acknowledgement and have none
	unackedBytes int   // of the stream, in them
	fresh        bool  // something was received since the last ACK
	ackNow       bool  // it can't wait
	ackAt        int64 // it can wait until then
	askAt        int64 // when to ask whether the peer is there, see ask
	asks         int   // how often it was asked since data came
	receivedAt   int64 // when the highest packet number came

	posted []byte // the buffer of a waiting Recv
	placed int    // how much of it is filled

	calls, callsThen uint   // of Recv; and at the last batch
	batch            int    // bytes that the present one brought
	endThen          uint64 // of what the user had sent, at the last one
	streamFrom       uint64 // and what had come when he last sent something

	lastHead int // the header's length of the last packet with much payload; 0: the last ones had little
	shorts   int // packets with little since then
}

// A chunk is a piece of the stream in somebody else's memory.
type chunk struct {
	off  uint64
	data []byte
	mem  *block
	pin  int // what its release takes off pinned
}

func (c *chunk) end() uint64 { return c.off + uint64(len(c.data)) }

// A queue is a first-in first-out list of chunks.
type queue struct {
	items []chunk
	head  int
}

func (q *queue) len() int { return len(q.items) - q.head }

func (q *queue) first() *chunk { return &q.items[q.head] }

func (q *queue) last() *chunk {
	if q.len() == 0 {
		return nil
	}
	return &q.items[len(q.items)-1]
}

func (q *queue) push(c chunk) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, c)
}

func (q *queue) pop() {
	q.items[q.head] = chunk{}
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
}

const (
	maxEarly = 4096 // pieces beyond a gap; what would be more is not acknowledged
	maxGot   = 256  // ranges of packet numbers remembered
)

// accepts reports whether the packet is new and may be taken. Under mu.
func (l *link) accepts(p *packet) bool {
	r := &l.receiver
	if p.num < r.floor || r.got.contains(p.num) {
		l.sub.count.duplicate.Add(1)
		// It may be that our acknowledgement was lost.
		if eliciting(p.flags) {
			r.ackNow, r.fresh = true, len(r.got) > 0
		}
		return false
	}
	if p.flags&(flagData|flagFin) != 0 && l.state == open {
		end := p.off + uint64(len(p.data))
		switch {
		case end > r.advertised,
			r.finSeen && (end > r.finOff || p.flags&flagFin != 0 && end != r.finOff),
			p.flags&flagFin != 0 && end < r.highest(),
			p.off > r.next && len(r.early) >= maxEarly:
			l.sub.count.overrun.Add(1)
			return false
		}
	}
	return true
}

// highest is the end of what has been received, gaps or not.
func (r *receiver) highest() uint64 {
	if n := len(r.early); n > 0 {
		return r.early[n-1].end()
	}
	return r.next
}

// note records the packet number, for acknowledgements and against duplicates. Under mu.
func (r *receiver) note(p *packet, now int64) {
	n := len(r.got)
	gap := n > 0 && p.num != r.got[n-1].hi || n == 0 && p.num != 0
	if n == 0 || p.num >= r.got[n-1].hi {
		r.receivedAt = now
	}
	r.got.add(p.num, p.num+1)
	if len(r.got) > maxGot {
		r.floor = r.got[0].hi
		r.got = slices.Delete(r.got, 0, 1)
	}
	r.fresh = true
	if eliciting(p.flags) {
		r.unacked++
		r.unackedBytes += len(p.data)
		r.batch += len(p.data)
		if gap || p.flags&(flagAckNow|flagFin) != 0 {
			r.ackNow = true
		}
	}
}

// deliver takes the bytes and the end that a packet carries. mem is the memory that holds them, used of it by datagrams of one
// sender. Under mu.
func (l *link) deliver(p *packet, mem *block, used int) {
	r := &l.receiver
	if l.state != open {
		return // closed: nobody reads it
	}
	if p.flags&flagFin != 0 && !r.finSeen {
		r.finSeen, r.finOff = true, p.off+uint64(len(p.data))
		l.dropUnsent() // the peer receives nothing any more
		l.sender.wake.wake()
	}
	if p.flags&flagData != 0 {
		l.askAt, l.asks = l.receivedAt+int64(askAfter), 0
	}
	off, data := p.off, p.data
	if off+uint64(len(data)) <= r.next {
		return
	}
	if off < r.next {
		data = data[r.next-off:]
		off = r.next
	}
	if off > r.next {
		r.insert(off, data, mem, used)
		return
	}
	r.next += uint64(len(data))
	if r.ready.len() == 0 && r.placed < len(r.posted) {
		n := copy(r.posted[r.placed:], data)
		r.placed += n
		r.taken += uint64(n)
		off += uint64(n)
		data = data[n:]
	}
	if len(data) > 0 {
		r.append(off, data, mem, used)
	}
	// What waited for this now is in order. It may overlap.
	i := 0
	for ; i < len(r.early) && r.early[i].off <= r.next; i++ {
		c := r.early[i]
		if c.end() > r.next {
			c.data = c.data[r.next-c.off:]
			c.off = r.next
			r.next = c.end()
			r.ready.push(c)
		} else {
			r.release(&c)
		}
	}
	r.early = slices.Delete(r.early, 0, i)
}

// append queues bytes that continue the stream.
func (r *receiver) append(off uint64, data []byte, mem *block, used int) {
	last := r.ready.last()
	if last != nil && !r.keeps(mem, used) && last.mem == r.copies && len(data) <= blockSize-r.filled &&
		cap(last.data)-len(last.data) == blockSize-r.filled {
		// The last chunk ends where the block is free: it grows.
		last.data = append(last.data, data...)
		r.filled += len(data)
		return
	}
	r.ready.push(r.keep(off, data, mem, used))
}

// insert keeps bytes beyond a gap: those that aren't there yet.
func (r *receiver) insert(off uint64, data []byte, mem *block, used int) {
	i, _ := slices.BinarySearchFunc(r.early, off, func(c chunk, off uint64) int {
		if c.end() <= off {
			return -1
		}
		return 1
	})
	for len(data) > 0 {
		n := uint64(len(data))
		if i < len(r.early) {
			c := &r.early[i]
			if c.off <= off {
				skip := min(c.end()-off, n)
				off += skip
				data = data[skip:]
				i++
				continue
			}
			n = min(n, c.off-off)
		}
		r.early = slices.Insert(r.early, i, r.keep(off, data[:n], mem, used))
		i++
		off += n
		data = data[n:]
	}
}

// keeps reports whether bytes stay where they were received: where much of the block is in use, and not too many are.
func (r *receiver) keeps(mem *block, used int) bool {
	return mem != nil && used >= blockSize/4 && r.pinned < 4*r.window
}

// keep makes a chunk of bytes, by reference or by copy.
func (r *receiver) keep(off uint64, data []byte, mem *block, used int) chunk {
	if r.keeps(mem, used) {
		mem.hold()
		// Each chunk counts for its share of the block, at least.
		pin := max(len(data), blockSize/batchPackets)
		r.pinned += pin
		return chunk{off, data, mem, pin}
	}
	if r.copies == nil || len(data) > blockSize-r.filled {
		if r.copies != nil {
			r.copies.drop()
		}
		r.copies, r.filled = newBlock(), 0
	}
	at := r.filled
	r.filled += copy(r.copies.buf[at:], data)
	r.copies.hold()
	return chunk{off, r.copies.buf[at:r.filled:blockSize], r.copies, 0}
}

func (r *receiver) release(c *chunk) {
	r.pinned -= c.pin
	c.mem.drop()
}

// take moves queued bytes to p.
func (r *receiver) take(p []byte) int {
	n := 0
	for n < len(p) && r.ready.len() > 0 {
		c := r.ready.first()
		k := copy(p[n:], c.data)
		n += k
		c.data = c.data[k:]
		c.off += uint64(k)
		if len(c.data) == 0 {
			r.release(c)
			r.ready.pop()
		}
	}
	r.taken += uint64(n)
	if r.ready.len() == 0 && len(r.early) == 0 && r.copies != nil {
		r.copies.drop() // an idle link needs no memory
		r.copies, r.filled = nil, 0
	}
	return n
}

// dropReceived forgets everything that was received. Under mu.
func (l *link) dropReceived() {
	r := &l.receiver
	for r.ready.len() > 0 {
		r.release(r.ready.first())
		r.ready.pop()
	}
	for i := range r.early {
		r.release(&r.early[i])
	}
	r.early = nil
	if r.copies != nil {
		r.copies.drop()
		r.copies = nil
	}
}

func (l *link) Recv(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.receiver
	r.calls++
	for {
		switch {
		case l.closed:
			return 0, net.ErrClosed
		case l.interrupted:
			return 0, substrate.ErrInterrupted
		case r.wake.expired():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		if n := r.take(p); n > 0 {
			l.consumed(n)
			return n, nil
		}
		if err := l.recvErr(); err != nil {
			return 0, err
		}
		r.posted, r.placed = p, 0
		l.askRarely()
		if l.state != open || !l.sock.take(l) {
			r.wake.wait(&l.mu)
		}
		n := r.placed
		r.posted, r.placed = nil, 0
		if n > 0 {
			// The rest of what came at the same time.
			n += r.take(p[n:])
			l.consumed(n)
			return n, nil
		}
	}
}

func (l *link) Drain(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	if n := l.receiver.take(p); n > 0 {
		l.consumed(n)
		return n, nil
	}
	return 0, l.recvErr()
}

// consumed opens the window after the user took n bytes: for a user who is fast the window grows, and the peer is told before it
// runs dry. Under mu.
func (l *link) consumed(n int) {
	r := &l.receiver
	l.streak = 0 // who receives answers, perhaps: that must not wait
	if l.state != open || r.finSeen {
		return
	}
	if r.taken-r.epochFrom >= uint64(r.window/2) {
		now := l.now()
		if now-r.epochAt <= 2*int64(max(l.rtt.smooth, granularity)) {
			r.window = min(2*r.window, l.maxWindow())
		}
		r.epochAt, r.epochFrom = now, r.taken
	}
	if r.taken+uint64(r.window)-r.advertised < uint64(r.window/4) {
		return // not worth a packet of its own
	}
	now := l.now()
	r.ackNow, r.fresh = true, len(r.got) > 0
	l.transmit(now)
}

// maxWindow is the largest window: more than the socket can hold would only be lost. Between processes of one host the round trip is short
// whatever the rate, and what is under way should still be in the cache when it is read.
func (l *link) maxWindow() int {
	most := min(l.sub.opts.Window, l.sock.tr.buffer())
	if l.near() {
		most = min(most, nearWindow)
	}
	return most
}
