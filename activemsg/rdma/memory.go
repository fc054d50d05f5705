package rdma

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/internal/sys"
)

// ErrBudget is returned when registered memory would exceed Config.Budget, or for more than a chunk at a time.
var ErrBudget = errors.New("rdma: budget of registered memory exceeded")

// memory is all registered memory of an adapter: chunks, each mapped and registered once.
type memory struct {
	pd     verbs.PD
	budget int64

	mu         sync.Mutex
	registered int64
	closed     bool
	chunks     atomic.Pointer[[]*chunk] // sorted by address, replaced as a whole
}

// A chunk is a piece of registered memory. mem, base and the keys don't change.
type chunk struct {
	mem    []byte
	base   uint64
	region verbs.Region
	lkey   uint32
	rkey   uint32
	owner  *pool // nil: a carrier's slots
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// add maps and registers n bytes.
func (m *memory) add(n int, access verbs.Access, owner *pool) (*chunk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, verbs.ErrClosed
	}
	if m.registered+int64(n) > m.budget {
		return nil, fmt.Errorf("%w: %d and %d of %d bytes", ErrBudget, m.registered, n, m.budget)
	}
	mem, err := sys.NewMemory(n)
	if err != nil {
		return nil, err
	}
	region, err := m.pd.Register(mem, access)
	if err != nil {
		sys.FreeMemory(mem)
		return nil, err
	}
	m.registered += int64(n)
	c := &chunk{mem: mem, base: address(mem), region: region, lkey: region.LKey(), rkey: region.RKey(), owner: owner}
	list := append(slices.Clone(m.list()), c)
	sort.Slice(list, func(i, j int) bool { return list[i].base < list[j].base })
	m.chunks.Store(&list)
	return c, nil
}

// remove gives a chunk back to the system.
func (m *memory) remove(c *chunk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(m.list()), func(x *chunk) bool { return x == c })
	if len(list) == len(m.list()) {
		return // the adapter was closed before
	}
	m.chunks.Store(&list)
	c.region.Close()
	sys.FreeMemory(c.mem)
	m.registered -= int64(len(c.mem))
}

// close gives everything back.
func (m *memory) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	for _, c := range m.list() {
		m.remove(c)
	}
}

func (m *memory) gone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *memory) list() []*chunk {
	if l := m.chunks.Load(); l != nil {
		return *l
	}
	return nil
}

// find returns the chunk that b lies in, nil if there is none.
func (m *memory) find(b []byte) *chunk {
	list, at := m.list(), address(b)
	lo, hi := 0, len(list)
	for lo < hi {
		if mid := (lo + hi) / 2; list[mid].base <= at {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return nil
	}
	c := list[lo-1]
	if off := at - c.base; off > uint64(len(c.mem)) || uint64(len(b)) > uint64(len(c.mem))-off {
		return nil
	}
	return c
}

const (
	chunkLen  = 4 << 20
	minBlock  = 1 << 10
	maxOrder  = 12 // chunkLen / minBlock is 1 << maxOrder
	blocks    = 1 << maxOrder
	used      = 0x80 // in heap.state: the block is used, the low bits are its order
	noBlock   = -1
	notAHead  = 0x7f // in heap.state: within a block
	orderMask = 0x7f
)

// A pool hands out blocks of registered memory, by the buddy method: sizes are powers of two, and free neighbours join.
type pool struct {
	mem    *memory
	access verbs.Access

	mu     sync.Mutex
	heaps  map[*chunk]*heap
	order  []*heap // as made: the first is filled first
	inUse  int64
	closed bool
}

// A heap is a chunk cut into blocks. Blocks are numbered by their place in units of minBlock.
type heap struct {
	chunk      *chunk
	used       int // bytes
	free       [maxOrder + 1]int32
	next, prev [blocks]int32
	state      [blocks]uint8
}

func newPool(m *memory, access verbs.Access) *pool {
	return &pool{mem: m, access: access, heaps: map[*chunk]*heap{}}
}

func blockOrder(n int) int {
	return max(bits.Len(uint(n-1)), bits.Len(minBlock-1)) - bits.Len(minBlock-1)
}

// alloc returns n bytes, not zeroed.
func (p *pool) alloc(n int) ([]byte, error) {
	if n < 1 || n > chunkLen {
		return nil, fmt.Errorf("%w: %d bytes at a time", ErrBudget, n)
	}
	order := blockOrder(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, verbs.ErrClosed
	}
	for _, h := range p.order {
		if at := h.take(order); at != noBlock {
			return p.cut(h, at, n), nil
		}
	}
	c, err := p.mem.add(chunkLen, p.access, p)
	if err != nil {
		return nil, err
	}
	h := &heap{chunk: c}
	for i := range h.free {
		h.free[i] = noBlock
	}
	for i := range h.state {
		h.state[i] = notAHead
	}
	h.put(0, maxOrder)
	p.heaps[c] = h
	p.order = append(p.order, h)
	return p.cut(h, h.take(order), n), nil
}

func (p *pool) cut(h *heap, at int32, n int) []byte {
	p.inUse += minBlock << blockOrder(n)
	off := int(at) * minBlock
	return h.chunk.mem[off : off+n : off+n]
}

// release takes back what alloc returned.
func (p *pool) release(b []byte) {
	c := p.mem.find(b)
	if c == nil && p.mem.gone() {
		return
	}
	if c == nil || c.owner != p {
		panic("rdma: Free of memory that was not allocated here")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.heaps[c]
	at := int32((address(b) - c.base) / minBlock)
	if h == nil || (address(b)-c.base)%minBlock != 0 || h.state[at]&used == 0 {
		panic("rdma: Free of memory that is not in use")
	}
	p.inUse -= int64(minBlock << (h.state[at] & orderMask))
	h.give(at)
	if p.closed && h.used == 0 {
		delete(p.heaps, c)
		p.mem.remove(c)
	}
}

// close ends alloc. Chunks go when their last block is released.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c, h := range p.heaps {
		if h.used == 0 {
			delete(p.heaps, c)
			p.mem.remove(c)
		}
	}
	p.order = nil
}

// take finds a free block, cutting a larger one if it must.
func (h *heap) take(order int) int32 {
	k := order
	for k <= maxOrder && h.free[k] == noBlock {
		k++
	}
	if k > maxOrder {
		return noBlock
	}
	at := h.free[k]
	h.unlink(at, k)
	for ; k > order; k-- {
		h.put(at+1<<(k-1), k-1)
	}
	h.state[at] = used | uint8(order)
	h.used += minBlock << order
	return at
}

// give frees a block and joins it with its neighbours.
func (h *heap) give(at int32) {
	order := int(h.state[at] & orderMask)
	h.used -= minBlock << order
	h.state[at] = notAHead
	for ; order < maxOrder; order++ {
		buddy := at ^ 1<<order
		if h.state[buddy] != uint8(order) {
			break
		}
		h.unlink(buddy, order)
		h.state[buddy] = notAHead
		at = min(at, buddy)
	}
	h.put(at, order)
}

func (h *heap) put(at int32, order int) {
	h.state[at] = uint8(order)
	h.prev[at], h.next[at] = noBlock, h.free[order]
	if h.free[order] != noBlock {
		h.prev[h.free[order]] = at
	}
	h.free[order] = at
}

func (h *heap) unlink(at int32, order int) {
	if p := h.prev[at]; p != noBlock {
		h.next[p] = h.next[at]
	} else {
		h.free[order] = h.next[at]
	}
	if n := h.next[at]; n != noBlock {
		h.prev[n] = h.prev[at]
	}
}
