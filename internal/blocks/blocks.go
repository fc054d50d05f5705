// Package blocks keeps bytes of a stream in blocks of memory, between being written and being acknowledged or read. Who owns the memory, where
// it comes from and what it counts against is the business of a Store.
package blocks

// Small is the size of the blocks that small writes share. What is larger goes to blocks that return to the store as soon as they are released
// (paper, section 3.2: "messages below a threshold are copied inline into the send buffer; larger ones are allocated out of line and freed explicitly
// on acknowledgement").
const Small = 2 << 10

// A Block is memory of a Store. A List writes to Buf[w:] and has its bytes in Buf[r:w].
type Block struct {
	Buf  []byte
	Note bool // the Store's own
	r, w int
}

// A Store lends blocks: of Small bytes, or of one larger size.
type Store interface {
	Get(large bool) *Block
	Put(*Block)
}

// A List holds the bytes [Start, End) of a stream. It is guarded by its owner's lock.
type List struct {
	store  Store
	start  uint64
	n      int
	blocks []*Block
	head   int // blocks[:head] are gone
}

// New returns an empty List that starts at an offset.
func New(store Store, start uint64) List { return List{store: store, start: start} }

// Start is the offset of the first byte.
func (l *List) Start() uint64 { return l.start }

// End is the offset behind the last byte.
func (l *List) End() uint64 { return l.start + uint64(l.n) }

// Len is the number of bytes.
func (l *List) Len() int { return l.n }

// Append adds p, whose first byte stands at offset off: the end of what the list holds, or anything if it is empty.
func (l *List) Append(off uint64, p []byte) {
	if l.n == 0 {
		l.start = off
	}
	l.n += len(p)
	for len(p) > 0 {
		var t *Block
		if l.head < len(l.blocks) {
			t = l.blocks[len(l.blocks)-1]
		}
		if t == nil || t.w == len(t.Buf) {
			t = l.store.Get(t != nil || len(p) > Small)
			t.r, t.w = 0, 0
			l.push(t)
		}
		k := copy(t.Buf[t.w:], p)
		t.w += k
		p = p[k:]
	}
}

// AppendWhole is Append of p at the end if all of it fits into the last block. It returns where it lies there, nil if it was not added.
func (l *List) AppendWhole(p []byte) []byte {
	if l.head == len(l.blocks) {
		return nil
	}
	t := l.blocks[len(l.blocks)-1]
	if len(p) > len(t.Buf)-t.w {
		return nil
	}
	at := t.Buf[t.w : t.w+len(p)]
	copy(at, p)
	t.w += len(p)
	l.n += len(p)
	return at
}

func (l *List) push(t *Block) {
	if l.head > 0 && len(l.blocks) == cap(l.blocks) {
		k := copy(l.blocks, l.blocks[l.head:])
		clear(l.blocks[k:])
		l.blocks, l.head = l.blocks[:k], 0
	}
	l.blocks = append(l.blocks, t)
}

// Cut takes back what was appended from offset off on.
func (l *List) Cut(off uint64) {
	for l.n > 0 && l.End() > off {
		last := len(l.blocks) - 1
		t := l.blocks[last]
		k := int(min(uint64(t.w-t.r), l.End()-off))
		t.w -= k
		l.n -= k
		if t.r == t.w && last > l.head {
			l.store.Put(t)
			l.blocks[last] = nil
			l.blocks = l.blocks[:last]
		}
	}
}

// Release frees everything before offset off.
func (l *List) Release(off uint64) {
	for l.n > 0 && off > l.start {
		t := l.blocks[l.head]
		k := int(min(uint64(t.w-t.r), off-l.start))
		t.r += k
		l.n -= k
		l.start += uint64(k)
		if t.r < t.w {
			break
		}
		l.pop(t)
	}
	if l.n == 0 && off > l.start {
		l.start = off
	}
}

// pop drops the empty first block. The last small block stays: a stream that is written little at a time keeps to the same few cache lines.
func (l *List) pop(t *Block) {
	if l.head == len(l.blocks)-1 && len(t.Buf) == Small {
		t.r, t.w = 0, 0
		return
	}
	l.store.Put(t)
	l.blocks[l.head] = nil
	if l.head++; l.head == len(l.blocks) {
		l.blocks, l.head = l.blocks[:0], 0
	}
}

// View appends to dst slices of at most most bytes from offset off on. They stay valid until Release passes them, or Cut.
func (l *List) View(dst [][]byte, off uint64, most int) [][]byte {
	skip := int(off - l.start)
	for _, t := range l.blocks[l.head:] {
		d := t.Buf[t.r:t.w]
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

// Read moves bytes from the front into p and frees them.
func (l *List) Read(p []byte) (n int) {
	for n < len(p) && l.n > 0 {
		t := l.blocks[l.head]
		k := copy(p[n:], t.Buf[t.r:t.w])
		n += k
		l.Release(l.start + uint64(k))
	}
	return n
}

// Bytes returns a copy of all it holds.
func (l *List) Bytes() []byte {
	out := make([]byte, 0, l.n)
	for _, t := range l.blocks[l.head:] {
		out = append(out, t.Buf[t.r:t.w]...)
	}
	return out
}

// Trim gives the small block of an empty list back.
func (l *List) Trim() {
	if l.n == 0 {
		l.Clear()
	}
}

// Clear frees everything, the last small block too. The list goes on at its end.
func (l *List) Clear() { l.Drop(l.store.Put) }

// Drop is Clear that gives each block to put.
func (l *List) Drop(put func(*Block)) {
	for _, t := range l.blocks[l.head:] {
		put(t)
	}
	*l = List{store: l.store, start: l.End()}
}
