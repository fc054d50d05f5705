package session

import (
	"sync"
	"sync/atomic"

	"github.com/sockemu/sockemu/internal/blocks"
	"github.com/sockemu/sockemu/wire"
)

// Size of a pool's larger blocks. The smaller ones: blocks.Small.
const largeBlock = 64 << 10

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
	free []*blocks.Block
}

func (f *freeList) get() *blocks.Block {
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

func (f *freeList) put(b *blocks.Block) {
	f.mu.Lock()
	if (len(f.free)+1)*len(b.Buf) <= keepBytes {
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

func (p *Pool) lend(f *freeList, size int) *blocks.Block {
	p.used.Add(int64(size))
	if b := f.get(); b != nil {
		return b
	}
	return &blocks.Block{Buf: make([]byte, size)}
}

// Get lends a block.
func (p *Pool) Get(large bool) *blocks.Block {
	if large {
		return p.lend(&p.large, largeBlock)
	}
	return p.lend(&p.small, blocks.Small)
}

// Put takes it back.
func (p *Pool) Put(b *blocks.Block) {
	p.used.Add(-int64(len(b.Buf)))
	if len(b.Buf) == largeBlock {
		p.large.put(b)
	} else {
		p.small.put(b)
	}
}

// getFrame lends memory for the body of one frame.
func (p *Pool) getFrame() *blocks.Block { return p.lend(&p.frames, wire.MaxBody) }

func (p *Pool) putFrame(b *blocks.Block) {
	p.used.Add(-wire.MaxBody)
	p.frames.put(b)
}
