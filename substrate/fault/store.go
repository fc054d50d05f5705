package fault

// A store holds the bytes of one direction between Send and Recv, in order.
type store interface {
	push(p []byte)
	pop(p []byte) int // fills p as far as there are bytes; they leave the store
	release(n uint64) // the sender wants back all slices below its n-th byte
	drop()            // forgets everything: nobody will read it
}

// A ring is the store of a link that copies. It grows with need.
type ring struct {
	buf  []byte // its length is zero or a power of two
	head int    // where the oldest byte is
	size int
}

func (r *ring) push(p []byte) {
	if r.size+len(p) > len(r.buf) {
		r.grow(r.size + len(p))
	}
	tail := (r.head + r.size) & (len(r.buf) - 1)
	n := copy(r.buf[tail:], p)
	copy(r.buf, p[n:])
	r.size += len(p)
}

func (r *ring) pop(p []byte) int {
	p = p[:min(len(p), r.size)]
	if len(p) == 0 {
		return 0
	}
	n := copy(p, r.buf[r.head:])
	copy(p[n:], r.buf)
	r.head = (r.head + len(p)) & (len(r.buf) - 1)
	r.size -= len(p)
	return len(p)
}

func (r *ring) grow(size int) {
	n := max(512, len(r.buf))
	for n < size {
		n *= 2
	}
	buf := make([]byte, n)
	size = r.size
	r.pop(buf[:size])
	r.buf, r.head, r.size = buf, 0, size
}

func (r *ring) release(uint64) {}

func (r *ring) drop() { *r = ring{} }

// held is the store of a link that retains: it keeps the sender's own slices and reads them when the receiver does, so that a
// sender that touches one too early corrupts its own stream and a test sees it.
type held struct {
	slices [][]byte
	popped uint64 // bytes that have left
	owned  int    // so many of slices are copies already
}

func (h *held) push(p []byte) { h.slices = append(h.slices, p) }

func (h *held) pop(p []byte) int {
	n := 0
	for n < len(p) && len(h.slices) > 0 {
		k := copy(p[n:], h.slices[0])
		n += k
		if h.slices[0] = h.slices[0][k:]; len(h.slices[0]) == 0 {
			h.slices[0] = nil
			h.slices = h.slices[1:]
			h.owned = max(0, h.owned-1)
		}
	}
	h.popped += uint64(n)
	return n
}

// release copies what is still unread below n: the peer's session has those bytes by another link, this one must carry them
// nevertheless.
func (h *held) release(n uint64) {
	at := h.popped
	for i, s := range h.slices {
		if at >= n {
			return
		}
		at += uint64(len(s))
		if i >= h.owned {
			h.slices[i] = append([]byte(nil), s...)
			h.owned = i + 1
		}
	}
}

func (h *held) drop() { h.slices, h.owned = nil, 0 }
