package blocks

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const large = 64 << 10

// A heap is a Store that keeps nothing.
type heap struct{ used int64 }

func (h *heap) Get(isLarge bool) *Block {
	n := Small
	if isLarge {
		n = large
	}
	h.used += int64(n)
	return &Block{Buf: make([]byte, n), r: 1, w: 2} // as if used before
}

func (h *heap) Put(b *Block) { h.used -= int64(len(b.Buf)) }

// lent is what l has taken from its store.
func (l *List) lent() (n int64) {
	for _, t := range l.blocks[l.head:] {
		n += int64(len(t.Buf))
	}
	return n
}

// model is a List beside the simplest thing that could take its place.
type model struct {
	pool  *heap
	b     List
	start uint64
	data  []byte
	next  byte

	views [][]byte // still valid, from offset viewAt on
	want  []byte
	at    uint64
}

func (m *model) drop(n int) {
	m.start += uint64(n)
	m.data = m.data[n:]
}

func (m *model) size(t *rapid.T, name string) int {
	return rapid.OneOf(rapid.IntRange(0, 9), rapid.IntRange(0, 3*Small), rapid.IntRange(0, 3*large)).Draw(t, name)
}

func (m *model) Append(t *rapid.T) {
	off := m.start + uint64(len(m.data))
	if len(m.data) == 0 {
		off += uint64(rapid.IntRange(0, 1000).Draw(t, "gap"))
		m.start = off
	}
	p := make([]byte, m.size(t, "n"))
	for i := range p {
		p[i] = m.next
		m.next += 3
	}
	m.data = append(m.data[:len(m.data):len(m.data)], p...)
	m.b.Append(off, p)
	clear(p) // the list has its own copy
}

func (m *model) AppendWhole(t *rapid.T) {
	p := make([]byte, m.size(t, "n"))
	for i := range p {
		p[i] = m.next
		m.next += 3
	}
	at := m.b.AppendWhole(p)
	if at == nil {
		return
	}
	require.True(t, bytes.Equal(p, at))
	m.data = append(m.data[:len(m.data):len(m.data)], p...)
	if len(p) > 0 {
		v := m.b.View(nil, m.b.End()-uint64(len(p)), len(p))
		require.Same(t, &v[0][0], &at[0])
	}
}

func (m *model) Release(t *rapid.T) {
	over := 0
	if rapid.IntRange(0, 5).Draw(t, "beyond") == 0 {
		over = 100
	}
	off := m.start + uint64(min(m.size(t, "n"), len(m.data)+over))
	if rapid.IntRange(0, 9).Draw(t, "before") == 0 {
		off = m.start / 2 // an old acknowledgement
	}
	m.b.Release(off)
	if off > m.start {
		m.drop(int(min(off-m.start, uint64(len(m.data)))))
		m.start = off
	}
}

func (m *model) Read(t *rapid.T) {
	p := make([]byte, m.size(t, "n"))
	n := m.b.Read(p)
	require.Equal(t, min(len(p), len(m.data)), n)
	require.True(t, bytes.Equal(m.data[:n], p[:n]))
	m.drop(n)
}

func (m *model) View(t *rapid.T) {
	skip := min(m.size(t, "skip"), len(m.data))
	most := m.size(t, "most")
	prefix := [][]byte{{1}}
	v := m.b.View(prefix, m.start+uint64(skip), most)
	require.Equal(t, byte(1), v[0][0])
	m.views, m.at = v[1:], m.start+uint64(skip)
	m.want = bytes.Clone(m.data[skip:min(len(m.data), skip+most)])
	require.True(t, bytes.Equal(m.want, bytes.Join(m.views, nil)))
}

func (m *model) Cut(t *rapid.T) {
	n := min(m.size(t, "n"), len(m.data))
	end := m.start + uint64(len(m.data)-n)
	m.b.Cut(end)
	m.data = m.data[:len(m.data)-n]
	m.views = nil
}

func (m *model) Clear(t *rapid.T) {
	end := m.b.End()
	m.b.Clear()
	m.drop(len(m.data))
	require.Equal(t, end, m.b.Start())
	require.Zero(t, m.pool.used)
}

// Check implements the invariants, after every step.
func (m *model) Check(t *rapid.T) {
	require.Equal(t, len(m.data), m.b.Len())
	require.Equal(t, m.start, m.b.Start())
	require.Equal(t, m.start+uint64(len(m.data)), m.b.End())
	require.True(t, bytes.Equal(m.data, m.b.Bytes()))
	require.Equal(t, m.b.lent(), m.pool.used)
	// Memory is in proportion: one block that is nearly empty at each end, and the first inline one.
	require.LessOrEqual(t, m.pool.used, int64(len(m.data)+2*large+2*Small))
	for _, t0 := range m.b.blocks[:m.b.head] {
		require.Nil(t, t0)
	}
	if m.views != nil && m.start <= m.at {
		require.True(t, bytes.Equal(m.want, bytes.Join(m.views, nil)), "a view has changed")
	} else {
		m.views = nil
	}
}

func TestList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := new(heap)
		m := &model{pool: pool, b: New(pool, 0)}
		t.Repeat(map[string]func(*rapid.T){
			"append": m.Append, "append again": m.Append, "append whole": m.AppendWhole, "release": m.Release, "read": m.Read, "cut": m.Cut, "view": m.View, "clear": m.Clear, "": m.Check,
		})
		m.b.Clear()
		require.Zero(t, pool.used)
	})
}

// TestKeepsOneSmallBlock: a connection that writes little stays in the same memory, and allocates nothing.
func TestKeepsOneSmallBlock(t *testing.T) {
	pool := new(heap)
	b := New(pool, 0)
	p := make([]byte, 100)
	b.Append(0, p)
	require.Equal(t, int64(Small), pool.used)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		b.Append(b.End(), p)
		b.Release(b.End())
	}))
	require.Equal(t, int64(Small), pool.used)
	b.Clear()
	require.Zero(t, pool.used)
}

// TestDoesNotCrawl: a queue that never runs empty doesn't let its list of blocks grow.
func TestDoesNotCrawl(t *testing.T) {
	pool := new(heap)
	b := New(pool, 0)
	p := make([]byte, large)
	b.Append(0, p)
	for range 1000 {
		b.Append(b.End(), p)
		b.Release(b.Start() + large)
	}
	require.LessOrEqual(t, cap(b.blocks), 16)
	b.Clear()
	require.Zero(t, pool.used)
}
