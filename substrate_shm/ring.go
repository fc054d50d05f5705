package shm

import (
	"errors"
	"sync/atomic"

	"github.com/sockemu/sockemu/internal/sys"
)

// piece is how much is copied before an end that sleeps is woken, and glance before one that is awake can see it: it copies one
// glance while this end copies the next.
const (
	piece  = 32 << 10
	glance = 8 << 10
)

// snug is how much of a ring is used while both ends run on one processor: they take turns there, so more brings nothing, and the rings
// of both ways stay in its second-level cache.
const snug = 512 << 10

// sip is how much one copy out of a ring takes. Larger ones Go makes with REP MOVS where an Intel processor says that this is fast,
// and so it is, but for bytes that lie in another core's cache: there it doesn't fetch ahead, and moves a quarter less.
const sip = 1 << 10

// errCursor: the other end's cursor is where it can't be.
var errCursor = errors.New("the peer's cursor in shared memory makes no sense")

// A ring's bytes lie in laps. A lap begins at the buffer's start and goes on without a gap: the byte at position x of a lap that began at
// position b lies at x-b. It may end anywhere: then the sender begins the next one at the start again, once the room there is free, and so
// touches no more memory than the traffic needs. The lane's turn says where the last lap began.
//
// The sender begins a lap only when the receiver has given back a byte of the one before. So there is never more than one beginning that
// the receiver has yet to pass, one word says it, and the receiver can't miss one: it looks at turn each time it has looked at tail, and
// turn is written before the tail of the first byte behind it.

// An outRing is the sending end of a ring. Its own cursor lives here and is never read back from shared memory; the peer's is
// looked at only when the last look doesn't suffice.
type outRing struct {
	shared *lane
	buf    []byte
	tail   uint64
	seen   uint64        // the peer's head, when last looked at
	reach  uint64        // how many bytes may be on their way, and how long a lap gets; at most len(buf). It may change before any room
	lap    atomic.Uint64 // where the lap that tail is in began
	before atomic.Uint64 // where the lap before it began: the peer may still be in that one
	sent   atomic.Uint64 // tail as far as published, for Taken
}

// limit returns how many bytes may be on their way. While the peer is in the lap before, what it has yet to take there is in the way of
// this one.
func (r *outRing) limit() uint64 {
	if lap := r.lap.Load(); r.seen < lap {
		return min(r.reach, lap-r.before.Load())
	}
	return r.reach
}

func (r *outRing) free() uint64 {
	limit, used := r.limit(), r.tail-r.seen
	if used > limit {
		return 0 // reach has become shorter
	}
	return limit - used
}

// room returns how many bytes fit, and looks anew if they are fewer than want.
func (r *outRing) room(want int) (int, error) {
	free := r.free()
	if free < min(uint64(want), r.reach) {
		if err := r.look(); err != nil {
			return 0, err
		}
		free = r.free()
	}
	return int(free), nil
}

// look looks at the peer's cursor.
func (r *outRing) look() error {
	head := r.shared.head.Load()
	sys.Observed()
	if head-r.seen > r.tail-r.seen {
		return errCursor
	}
	r.seen = head
	return nil
}

// missing returns how far the peer's cursor must move to make room for n bytes when there is none, or for a part of them.
func (r *outRing) missing(n int) uint64 {
	limit := r.limit()
	return r.tail - r.seen + min(uint64(n), enough(limit)) - limit
}

// put copies p, for which there is room, into the ring. The peer sees it after publish.
//
// That there is room means: what is beyond reach, or all of it if this lap is longer already, fits before the place where the peer is
// in this lap. So it is in this lap, and not at its beginning.
func (r *outRing) put(p []byte) {
	lap := r.lap.Load()
	for len(p) > 0 {
		at := r.tail - lap
		if at >= r.reach {
			r.turn()
			lap, at = r.tail, 0
		}
		n := copy(r.buf[at:r.reach], p)
		r.tail += uint64(n)
		p = p[n:]
	}
}

// turn begins a lap.
func (r *outRing) turn() {
	r.before.Store(r.lap.Load())
	r.lap.Store(r.tail)
	r.shared.tail.turn.Store(r.tail)
}

// show lets a peer that is awake see what was put.
func (r *outRing) show() {
	sys.StoreRelease(&r.sent, r.tail)
	sys.Publishing()
	r.shared.tail.Store(r.tail)
	sys.Fence()
}

// publish shows the peer what was put, and reports whether it sleeps and must be woken.
func (r *outRing) publish() (wake bool) {
	r.show()
	return r.shared.hungry.Load() != 0 && r.shared.hungry.Swap(0) != 0
}

// wakeAt returns what a sender that sleeps puts into full. It is woken when there is a good deal of room, lest it be for every few
// bytes: when fewer bytes than that are on their way.
func (r *outRing) wakeAt() uint32 {
	limit := r.limit()
	return uint32(limit - enough(limit) + 1)
}

// kept returns what was sent from position from on; nil if that isn't all here. No Send may run.
func (r *outRing) kept(from uint64) [][]byte {
	sent, lap, before := r.sent.Load(), r.lap.Load(), r.before.Load()
	switch {
	case from >= sent || from < before || sent-from > uint64(len(r.buf)):
		return nil
	case from >= lap:
		return [][]byte{r.buf[from-lap : sent-lap]}
	case sent <= lap:
		return [][]byte{r.buf[from-before : sent-before]}
	}
	return [][]byte{r.buf[from-before : lap-before], r.buf[:sent-lap]}
}

// An inRing is the receiving end of a ring.
type inRing struct {
	shared *lane
	buf    []byte
	head   uint64
	seen   uint64 // the peer's tail, when last looked at
	lap    uint64 // where the lap began that the last byte before head was in
	next   uint64 // where the last lap began that is known of: lap, or not below head
}

// there returns how many bytes wait in the ring, and looks anew if they are fewer than want.
func (r *inRing) there(want int) (int, error) {
	if r.seen-r.head < uint64(want) {
		if err := r.look(); err != nil {
			return 0, err
		}
	}
	return int(r.seen - r.head), nil
}

// look looks at the peer's cursor and the beginning of its lap, each once, and believes nothing that would lead out of the buffer.
func (r *inRing) look() error {
	size := uint64(len(r.buf))
	tail := r.shared.tail.Load()
	sys.Observed()
	if tail-r.seen > size-(r.seen-r.head) {
		return errCursor
	}
	turn := r.shared.tail.turn.Load()
	if turn != r.next {
		// A lap begins behind what was seen before, within the lap before it or at its end, and not before this end has come into that.
		if r.next >= r.head || turn-r.seen > r.lap+size-r.seen {
			return errCursor
		}
	}
	// What is in the last lap ends in the buffer. All before that lies in the one that head is in, and ends where that ends.
	if tail > turn && tail-turn > size {
		return errCursor
	}
	r.seen, r.next = tail, turn
	return nil
}

// get copies the next bytes, which are there, into p.
func (r *inRing) get(p []byte) {
	n := uint64(len(p))
	if left := r.next - r.head; r.next != r.lap && left < n {
		drink(p[:left], r.buf[r.head-r.lap:])
		p = p[left:]
		r.head, r.lap = r.next, r.next
		n -= left
	}
	drink(p, r.buf[r.head-r.lap:])
	r.head += n
}

// drink is copy, in sips.
func drink(dst, src []byte) int {
	n := min(len(dst), len(src))
	dst, src = dst[:n], src[:n]
	for len(dst) > sip {
		copy(dst[:sip], src[:sip])
		dst, src = dst[sip:], src[sip:]
	}
	copy(dst, src)
	return n
}

// release gives the peer the room of what was got, and reports whether it sleeps and must be woken.
func (r *inRing) release() (wake bool) {
	sys.Publishing()
	r.shared.head.Store(r.head)
	sys.Fence()
	below := r.shared.full.Load()
	if below == 0 {
		return false
	}
	used := r.shared.tail.Load() - r.head // the sender sleeps: what is false here is the peer's own loss
	return used < uint64(below) && r.shared.full.Swap(0) != 0
}

// enough is the room for which a sleeping sender is woken, of size bytes.
func enough(size uint64) uint64 { return size / 4 }
