package verbs

import (
	"math"
	"sync"
)

// Sizes of blocks. The first of an idle link is small: there may be thousands of them.
const (
	smallBlock = 2 << 10
	largeBlock = 32 << 10
)

type block struct {
	buf  []byte
	r, w int
	lent bool // by the carrier
}

// A store lends blocks. Freed ones are used again last in, first out: they may still be in the cache.
type store struct {
	// lend and giveBack, if not nil, are the carrier's memory.
	lend     func(n int) []byte
	giveBack func([]byte)

	mu     sync.Mutex
	small  []*block
	large  []*block
	closed bool
}

// close gives the carrier's memory back, now and whenever more of it is put.
func (s *store) close() {
	s.mu.Lock()
	s.closed = true
	large := s.large
	s.small, s.large = nil, nil
	s.mu.Unlock()
	for _, b := range large {
		if b.lent {
			s.giveBack(b.buf)
		}
	}
}

// keepBlocks bounds what a store holds back from the garbage collector, of each size.
const keepBlocks = 64

func (s *store) get(large bool) *block {
	s.mu.Lock()
	list, size := &s.small, smallBlock
	if large {
		list, size = &s.large, largeBlock
	}
	if n := len(*list); n > 0 {
		b := (*list)[n-1]
		*list = (*list)[:n-1]
		s.mu.Unlock()
		b.r, b.w = 0, 0
		return b
	}
	s.mu.Unlock()
	if large && s.lend != nil {
		if buf := s.lend(size); buf != nil {
			return &block{buf: buf, lent: true}
		}
	}
	return &block{buf: make([]byte, size)}
}

// put takes back a block from which nothing is sent any more.
func (s *store) put(b *block) { s.take(b, keepBlocks) }

// keep takes back a block from which something may still be on its way to the peer, for an end that was closed: it may be used again for the
// same peer, but the carrier gets it back only after a later use of it, or at the end.
func (s *store) keep(b *block) { s.take(b, math.MaxInt) }

func (s *store) take(b *block, most int) {
	s.mu.Lock()
	list := &s.small
	if len(b.buf) == largeBlock {
		list = &s.large
	}
	if !b.lent {
		most = keepBlocks
	}
	if len(*list) < most && !s.closed {
		*list = append(*list, b)
		b = nil
	}
	s.mu.Unlock()
	if b != nil && b.lent {
		s.giveBack(b.buf)
	}
}

// A chain holds the bytes [start, start+n) of what goes one way through a link. It is guarded by its owner's lock.
type chain struct {
	from   *store
	start  uint64
	n      int
	blocks []*block
	head   int // blocks[:head] are gone
}

func (c *chain) end() uint64 { return c.start + uint64(c.n) }

func (c *chain) append(p []byte) {
	c.n += len(p)
	for len(p) > 0 {
		var t *block
		if c.head < len(c.blocks) {
			t = c.blocks[len(c.blocks)-1]
		}
		if t == nil || t.w == len(t.buf) {
			t = c.from.get(t != nil || len(p) > smallBlock)
			if c.head > 0 && len(c.blocks) == cap(c.blocks) {
				k := copy(c.blocks, c.blocks[c.head:])
				clear(c.blocks[k:])
				c.blocks, c.head = c.blocks[:k], 0
			}
			c.blocks = append(c.blocks, t)
		}
		k := copy(t.buf[t.w:], p)
		t.w += k
		p = p[k:]
	}
}

// cut takes back what was appended from offset off on.
func (c *chain) cut(off uint64) {
	for c.n > 0 && c.end() > off {
		t := c.blocks[len(c.blocks)-1]
		k := int(min(uint64(t.w-t.r), c.end()-off))
		t.w -= k
		c.n -= k
		if t.r == t.w && len(c.blocks)-1 > c.head {
			c.from.put(t)
			c.blocks[len(c.blocks)-1] = nil
			c.blocks = c.blocks[:len(c.blocks)-1]
		}
	}
}

// release frees everything before offset off. The last small block stays.
func (c *chain) release(off uint64) {
	for c.n > 0 && off > c.start {
		t := c.blocks[c.head]
		k := int(min(uint64(t.w-t.r), off-c.start))
		t.r += k
		c.n -= k
		c.start += uint64(k)
		if t.r < t.w {
			return
		}
		if c.n == 0 && len(t.buf) == smallBlock {
			t.r, t.w = 0, 0
			return
		}
		c.from.put(t)
		c.blocks[c.head] = nil
		if c.head++; c.head == len(c.blocks) {
			c.blocks, c.head = c.blocks[:0], 0
		}
	}
}

// view appends to dst slices of the n bytes from offset off on.
func (c *chain) view(dst [][]byte, off uint64, n int) [][]byte {
	skip := int(off - c.start)
	for _, t := range c.blocks[c.head:] {
		d := t.buf[t.r:t.w]
		if skip >= len(d) {
			skip -= len(d)
			continue
		}
		d = d[skip:]
		skip = 0
		if len(d) >= n {
			return append(dst, d[:n])
		}
		dst = append(dst, d)
		n -= len(d)
	}
	return dst
}

// read moves bytes from the front to p.
func (c *chain) read(p []byte) (n int) {
	for n < len(p) && c.n > 0 {
		t := c.blocks[c.head]
		k := copy(p[n:], t.buf[t.r:t.w])
		n += k
		c.release(c.start + uint64(k))
	}
	return n
}

// free gives all blocks back.
func (c *chain) free() {
	for _, b := range c.blocks[c.head:] {
		c.from.keep(b)
	}
	*c = chain{from: c.from, start: c.end()}
}
