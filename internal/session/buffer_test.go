package session

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// lent is what b has taken from its pool.
func (b *buffer) lent() (n int64) {
	for _, t := range b.blocks[b.head:] {
		n += int64(len(t.buf))
	}
	return n
}

// bufferModel is a buffer beside the simplest thing that could take its place.
type bufferModel struct {
	pool  *Pool
	b     buffer
	start uint64
	data  []byte
	next  byte

	views [][]byte // still valid, from offset viewAt on
	want  []byte
	at    uint64
}

func (m *bufferModel) drop(n int) {
	m.start += uint64(n)
	m.data = m.data[n:]
}

func (m *bufferModel) size(t *rapid.T, name string) int {
	return rapid.OneOf(rapid.IntRange(0, 9), rapid.IntRange(0, 3*inlineBlock), rapid.IntRange(0, 3*largeBlock)).Draw(t, name)
}

func (m *bufferModel) Append(t *rapid.T) {
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
	m.b.append(off, p)
	clear(p) // the buffer has its own copy
}

func (m *bufferModel) Release(t *rapid.T) {
	over := 0
	if rapid.IntRange(0, 5).Draw(t, "beyond") == 0 {
		over = 100
	}
	off := m.start + uint64(min(m.size(t, "n"), len(m.data)+over))
	if rapid.IntRange(0, 9).Draw(t, "before") == 0 {
		off = m.start / 2 // an old acknowledgement
	}
	m.b.release(off)
	if off > m.start {
		m.drop(int(min(off-m.start, uint64(len(m.data)))))
		m.start = off
	}
}

func (m *bufferModel) Read(t *rapid.T) {
	p := make([]byte, m.size(t, "n"))
	n := m.b.read(p)
	require.Equal(t, min(len(p), len(m.data)), n)
	require.True(t, bytes.Equal(m.data[:n], p[:n]))
	m.drop(n)
}

func (m *bufferModel) View(t *rapid.T) {
	skip := min(m.size(t, "skip"), len(m.data))
	most := m.size(t, "most")
	prefix := [][]byte{{1}}
	v := m.b.view(prefix, m.start+uint64(skip), most)
	require.Equal(t, byte(1), v[0][0])
	m.views, m.at = v[1:], m.start+uint64(skip)
	m.want = bytes.Clone(m.data[skip:min(len(m.data), skip+most)])
	require.True(t, bytes.Equal(m.want, bytes.Join(m.views, nil)))
}

func (m *bufferModel) Clear(t *rapid.T) {
	end := m.b.end()
	m.b.clear()
	m.drop(len(m.data))
	require.Equal(t, end, m.b.start)
	require.Zero(t, m.pool.Used())
}

// Check implements the invariants, after every step.
func (m *bufferModel) Check(t *rapid.T) {
	require.Equal(t, len(m.data), m.b.n)
	require.Equal(t, m.start, m.b.start)
	require.Equal(t, m.start+uint64(len(m.data)), m.b.end())
	require.True(t, bytes.Equal(m.data, m.b.bytes()))
	require.Equal(t, m.b.lent(), m.pool.Used())
	// Memory is in proportion: one block that is nearly empty at each end, and the first inline one.
	require.LessOrEqual(t, m.pool.Used(), int64(len(m.data)+2*largeBlock+2*inlineBlock))
	for _, t0 := range m.b.blocks[:m.b.head] {
		require.Nil(t, t0)
	}
	if m.views != nil && m.start <= m.at {
		require.True(t, bytes.Equal(m.want, bytes.Join(m.views, nil)), "a view has changed")
	} else {
		m.views = nil
	}
}

func TestBuffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := NewPool(0)
		m := &bufferModel{pool: pool, b: buffer{pool: pool}}
		t.Repeat(map[string]func(*rapid.T){
			"append": m.Append, "append again": m.Append, "release": m.Release, "read": m.Read, "view": m.View, "clear": m.Clear, "": m.Check,
		})
		m.b.clear()
		require.Zero(t, pool.Used())
	})
}

// TestBufferKeepsOneInlineBlock: a connection that writes little stays in the same memory, and allocates nothing.
func TestBufferKeepsOneInlineBlock(t *testing.T) {
	pool := NewPool(0)
	b := buffer{pool: pool}
	p := make([]byte, 100)
	b.append(0, p)
	require.Equal(t, int64(inlineBlock), pool.Used())
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		b.append(b.end(), p)
		b.release(b.end())
	}))
	require.Equal(t, int64(inlineBlock), pool.Used())
	b.clear()
	require.Zero(t, pool.Used())
}

// TestBufferDoesNotCrawl: a queue that never runs empty doesn't let its list of blocks grow.
func TestBufferDoesNotCrawl(t *testing.T) {
	pool := NewPool(0)
	b := buffer{pool: pool}
	p := make([]byte, largeBlock)
	b.append(0, p)
	for range 1000 {
		b.append(b.end(), p)
		b.release(b.start + largeBlock)
	}
	require.LessOrEqual(t, cap(b.blocks), 16)
	b.clear()
	require.Zero(t, pool.Used())
}

func TestPoolBudget(t *testing.T) {
	p := NewPool(largeBlock)
	require.False(t, p.full())
	x := p.get(true)
	require.True(t, p.full())
	f := p.getFrame()
	p.put(x)
	require.True(t, p.full())
	p.putFrame(f)
	require.False(t, p.full())
	require.Zero(t, p.Used())
	require.False(t, NewPool(0).full(), "no bound")
}
