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

// sip is how much one copy out of a ring takes. Larger ones Go makes with REP MOVS where an Intel processor says that this is fast,
// and so it is, but for bytes that lie in another core's cache: there it doesn't fetch ahead, and moves a quarter less.
const sip = 1 << 10

// errCursor: the other end's cursor is where it can't be.
var errCursor = errors.New("the peer's cursor in shared memory makes no sense")

// An outRing is the sending end of a ring. Its own cursor lives here and is never read back from shared memory; the peer's is
// looked at only when the last look doesn't suffice.
type outRing struct {
	shared *lane
	buf    []byte // its length is a power of two
	tail   uint64
	seen   uint64        // the peer's head, when last looked at
	sent   atomic.Uint64 // tail as far as published, for Taken
}

// room returns how many bytes fit, and looks anew if they are fewer than want.
func (r *outRing) room(want int) (int, error) {
	size := uint64(len(r.buf))
	free := size - (r.tail - r.seen)
	if free < min(uint64(want), size) {
		head := r.shared.head.Load()
		sys.Observed()
		if head-r.seen > r.tail-r.seen {
			return 0, errCursor
		}
		r.seen = head
		free = size - (r.tail - head)
	}
	return int(free), nil
}

// missing returns how far the peer's cursor must move to make room for n bytes when there is none, or for a part of them.
func (r *outRing) missing(n int) uint64 { return min(uint64(n), enough(r.buf)) }

// put copies p, for which there is room, into the ring. The peer sees it after publish.
func (r *outRing) put(p []byte) {
	at := r.tail & uint64(len(r.buf)-1)
	n := copy(r.buf[at:], p)
	copy(r.buf, p[n:])
	r.tail += uint64(len(p))
}

// show lets a peer that is awake see what was put.
func (r *outRing) show() {
	r.sent.Store(r.tail)
	sys.Publishing()
	r.shared.tail.Store(r.tail)
	sys.Fence()
}

// publish shows the peer what was put, and reports whether it sleeps and must be woken.
func (r *outRing) publish() (wake bool) {
	r.show()
	return r.shared.hungry.Load() != 0 && r.shared.hungry.Swap(0) != 0
}

// An inRing is the receiving end of a ring.
type inRing struct {
	shared *lane
	buf    []byte
	head   uint64
	seen   uint64 // the peer's tail, when last looked at
}

// there returns how many bytes wait in the ring, and looks anew if they are fewer than want.
func (r *inRing) there(want int) (int, error) {
	have := r.seen - r.head
	if have < uint64(want) {
		tail := r.shared.tail.Load()
		sys.Observed()
		if tail-r.seen > uint64(len(r.buf))-have {
			return 0, errCursor
		}
		r.seen = tail
		have = tail - r.head
	}
	return int(have), nil
}

// get copies the next bytes, which are there, into p.
func (r *inRing) get(p []byte) {
	at := r.head & uint64(len(r.buf)-1)
	n := drink(p, r.buf[at:])
	drink(p[n:], r.buf)
	r.head += uint64(len(p))
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

// release gives the peer the room of what was got, and reports whether it sleeps and must be woken. It is woken when there is a
// good deal of room, lest it be for every few bytes.
func (r *inRing) release() (wake bool) {
	sys.Publishing()
	r.shared.head.Store(r.head)
	sys.Fence()
	if r.shared.full.Load() == 0 {
		return false
	}
	used := r.shared.tail.Load() - r.head // the sender sleeps: what is false here is the peer's own loss
	return used <= uint64(len(r.buf))-enough(r.buf) && r.shared.full.Swap(0) != 0
}

// enough is the room for which a sleeping sender is woken.
func enough(ring []byte) uint64 { return uint64(len(ring)) / 4 }
