package udp

import (
	"sync"
	"sync/atomic"
)

// blockSize holds the largest datagram, and the largest run of them that UDP_GRO joins.
const blockSize = 64 << 10

// A block is memory of ours: what datagrams are received into, and what small pieces are copied to. It goes back to the pool when nobody
// refers to it any more.
type block struct {
	refs atomic.Int32
	buf  [blockSize]byte
}

var blocks = sync.Pool{New: func() any { return new(block) }}

// newBlock returns a block with one reference.
func newBlock() *block {
	b := blocks.Get().(*block)
	b.refs.Store(1)
	return b
}

func (b *block) hold() { b.refs.Add(1) }

func (b *block) drop() {
	if b.refs.Add(-1) == 0 {
		blocks.Put(b)
	}
}
