package session

import (
	"sync"
	"sync/atomic"

	"github.com/sockemu/sockemu/wire"
)

// Block sizes. Small writes share an inline block; larger ones go to out-of-line blocks that return to the pool as soon
// as they are acknowledged (paper, section 3.2: "messages below a threshold are copied inline into the send buffer; larger
// ones are allocated out of line and freed explicitly on acknowledgement").
const (
	inlineBlock = 2 << 10
	largeBlock  = 64 << 10
)

// A Pool lends the blocks of all buffers of a process and accounts for them. Freed blocks are reused last-in first-out, so
// a connection whose data is acknowledged promptly copies into memory that is still in the cache. It isn't a sync.Pool: that
// is emptied by every garbage collection, and making new blocks would soon start the next one. Safe for concurrent use.
type Pool struct {
	budget int64
	used   atomic.Int64
	small  freeList
	large  freeList
	frames freeList
}

// keepBytes bounds what each free list holds back from the garbage collector.
const keepBytes = 16 << 20

type freeList struct {
	mu   sync.Mutex
	free []*block
}

func (f *freeList) get() *block {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.free)
	if n == 0 {
		return nil
	}
	b := f.free[n-1]
	f.free = f.free[:n-1]
	return b
}

func (f *freeList) put(b *block) {
	f.mu.Lock()
	if (len(f.free)+1)*len(b.buf) <= keepBytes {
		f.free = append(f.free, b)
	}
	f.mu.Unlock()
}

// NewPool returns a pool that reports itself full beyond budget bytes (0: no bound).
func NewPool(budget int64) *Pool { return &Pool{budget: budget} }

// Used returns the bytes lent now.
func (p *Pool) Used() int64 { return p.used.Load() }

// full reports whether the process's budget is spent. Connections may still hold their minimum: see Session.room.
func (p *Pool) full() bool { return p.budget > 0 && p.used.Load() >= p.budget }

type block struct {
	buf  []byte
	r, w int
}

func (p *Pool) lend(f *freeList, size int) *block {
	p.used.Add(int64(size))
	if b := f.get(); b != nil {
		b.r, b.w = 0, 0
		return b
	}
	return &block{buf: make([]byte, size)}
}

func (p *Pool) get(large bool) *block {
	if large {
		return p.lend(&p.large, largeBlock)
	}
	return p.lend(&p.small, inlineBlock)
}

func (p *Pool) put(b *block) {
	p.used.Add(-int64(len(b.buf)))
	if len(b.buf) == largeBlock {
		p.large.put(b)
	} else {
		p.small.put(b)
	}
}

// getFrame lends memory for the body of one frame.
func (p *Pool) getFrame() *block { return p.lend(&p.frames, wire.MaxBody) }

func (p *Pool) putFrame(b *block) {
	p.used.Add(-wire.MaxBody)
	p.frames.put(b)
}

// A buffer holds the bytes [start, start+n) of a stream. The send side keeps there what the peer's session has not
// acknowledged; the receive side, what has left a link and the application has not read. It is guarded by its owner's lock.
type buffer struct {
	pool   *Pool
	start  uint64
	n      int
	blocks []*block
	head   int // blocks[:head] are gone
}

func (b *buffer) end() uint64 { return b.start + uint64(b.n) }

// append adds p, whose first byte stands at offset off: the end of what the buffer holds, or anything if it is empty.
func (b *buffer) append(off uint64, p []byte) {
	if b.n == 0 {
		b.start = off
	}
	b.n += len(p)
	for len(p) > 0 {
		var t *block
		if b.head < len(b.blocks) {
			t = b.blocks[len(b.blocks)-1]
		}
		if t == nil || t.w == len(t.buf) {
			t = b.pool.get(len(p) > inlineBlock || t != nil)
			b.push(t)
		}
		c := copy(t.buf[t.w:], p)
		t.w += c
		p = p[c:]
	}
}

func (b *buffer) push(t *block) {
	if b.head > 0 && len(b.blocks) == cap(b.blocks) {
		b.blocks = b.blocks[:copy(b.blocks, b.blocks[b.head:])]
		b.head = 0
	}
	b.blocks = append(b.blocks, t)
}

// release frees everything before offset off.
func (b *buffer) release(off uint64) {
	for b.n > 0 && off > b.start {
		t := b.blocks[b.head]
		k := int(min(uint64(t.w-t.r), off-b.start))
		t.r += k
		b.n -= k
		b.start += uint64(k)
		if t.r < t.w {
			break
		}
		b.pop(t)
	}
	if b.n == 0 && off > b.start {
		b.start = off
	}
}

// pop drops the empty first block. The last inline block stays: a connection that writes little keeps writing to the same
// few cache lines.
func (b *buffer) pop(t *block) {
	if b.head == len(b.blocks)-1 && len(t.buf) == inlineBlock {
		t.r, t.w = 0, 0
		return
	}
	b.pool.put(t)
	b.blocks[b.head] = nil
	if b.head++; b.head == len(b.blocks) {
		b.blocks, b.head = b.blocks[:0], 0
	}
}

// view appends to dst slices of at most most bytes from offset off on. They stay valid until release passes them.
func (b *buffer) view(dst [][]byte, off uint64, most int) [][]byte {
	skip := int(off - b.start)
	for _, t := range b.blocks[b.head:] {
		d := t.buf[t.r:t.w]
		if skip >= len(d) {
			skip -= len(d)
			continue
		}
		d = d[skip:]
		skip = 0
		if len(d) >= most {
			return append(dst, d[:most])
		}
		dst = append(dst, d)
		most -= len(d)
	}
	return dst
}

// read moves bytes from the front into p and frees them.
func (b *buffer) read(p []byte) int {
	n := 0
	for n < len(p) && b.n > 0 {
		t := b.blocks[b.head]
		c := copy(p[n:], t.buf[t.r:t.w])
		n += c
		b.release(b.start + uint64(c))
	}
	return n
}

// bytes returns a copy of all it holds.
func (b *buffer) bytes() []byte {
	out := make([]byte, 0, b.n)
	for _, t := range b.blocks[b.head:] {
		out = append(out, t.buf[t.r:t.w]...)
	}
	return out
}

// trim gives the inline block of an empty buffer back.
func (b *buffer) trim() {
	if b.n == 0 {
		b.clear()
	}
}

// clear frees everything, the last inline block too.
func (b *buffer) clear() {
	end := b.end()
	for _, t := range b.blocks[b.head:] {
		b.pool.put(t)
	}
	*b = buffer{pool: b.pool, start: end}
}
