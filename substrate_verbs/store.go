package verbs

import (
	"math"
	"sync"

	"github.com/sockemu/sockemu/internal/blocks"
)

// largeBlock is the size of a store's larger blocks. The first of an idle link is blocks.Small: there may be thousands of them.
const largeBlock = 32 << 10

// A store lends blocks. Freed ones are used again last in, first out: they may still be in the cache.
type store struct {
	// lend and giveBack, if not nil, are the carrier's memory.
	lend     func(n int) []byte
	giveBack func([]byte)

	mu     sync.Mutex
	small  []*blocks.Block
	large  []*blocks.Block
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
		if b.Note {
			s.giveBack(b.Buf)
		}
	}
}

// keepBlocks bounds what a store holds back from the garbage collector, of each size.
const keepBlocks = 64

// Get lends a block; Note says that it is the carrier's memory.
func (s *store) Get(large bool) *blocks.Block {
	s.mu.Lock()
	list, size := &s.small, blocks.Small
	if large {
		list, size = &s.large, largeBlock
	}
	if n := len(*list); n > 0 {
		b := (*list)[n-1]
		*list = (*list)[:n-1]
		s.mu.Unlock()
		return b
	}
	s.mu.Unlock()
	if large && s.lend != nil {
		if buf := s.lend(size); buf != nil {
			return &blocks.Block{Buf: buf, Note: true}
		}
	}
	return &blocks.Block{Buf: make([]byte, size)}
}

// Put takes back a block from which nothing is sent any more.
func (s *store) Put(b *blocks.Block) { s.take(b, keepBlocks) }

// keep takes back a block from which something may still be on its way to the peer, for an end that was closed: it may be used again for the
// same peer, but the carrier gets it back only after a later use of it, or at the end.
func (s *store) keep(b *blocks.Block) { s.take(b, math.MaxInt) }

func (s *store) take(b *blocks.Block, most int) {
	s.mu.Lock()
	list := &s.small
	if len(b.Buf) == largeBlock {
		list = &s.large
	}
	if !b.Note {
		most = keepBlocks
	}
	if len(*list) < most && !s.closed {
		*list = append(*list, b)
		b = nil
	}
	s.mu.Unlock()
	if b != nil && b.Note {
		s.giveBack(b.Buf)
	}
}
