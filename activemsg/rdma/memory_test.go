package rdma

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// TestPool draws allocations and releases, and checks that blocks never overlap, are registered, and come together again.
func TestPool(t *testing.T) {
	s := simulated(t, sim.Config{})
	rapid.Check(t, func(r *rapid.T) {
		p := newPool(&s.a.mem, verbs.LocalWrite)
		var held [][]byte
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(r, "release") {
				i := rapid.IntRange(0, len(held)-1).Draw(r, "which")
				p.release(held[i])
				held = slices.Delete(held, i, i+1)
				continue
			}
			n := 1 + rapid.IntRange(0, 1<<rapid.IntRange(0, 21).Draw(r, "size")).Draw(r, "n")
			b, err := p.alloc(n)
			require.NoError(r, err)
			require.Len(r, b, n)
			require.NotNil(r, s.a.mem.find(b))
			for _, x := range held {
				require.False(r, address(b) < address(x)+uint64(len(x)) && address(x) < address(b)+uint64(len(b)), "overlap")
			}
			held = append(held, b)
		}
		for _, b := range held {
			p.release(b)
		}
		require.Zero(r, p.inUse)
		for _, h := range p.order {
			require.Zero(r, h.used)
			require.EqualValues(r, 0, h.free[maxOrder], "one free block")
		}
		p.close()
	})
	require.Zero(t, s.a.Usage().Registered)
}

func TestBudget(t *testing.T) {
	n := sim.New(sim.Config{})
	a := adapter(t, open(t, n, "a"), Config{Budget: 2*chunkLen + 100})
	var held [][]byte
	for range 2 {
		b, err := a.Alloc(chunkLen)
		require.NoError(t, err)
		held = append(held, b)
	}
	_, err := a.Alloc(1)
	require.ErrorIs(t, err, ErrBudget)
	_, err = a.Prepare(ConnConfig{})
	require.ErrorIs(t, err, ErrBudget)
	_, err = a.Alloc(chunkLen + 1)
	require.ErrorIs(t, err, ErrBudget)
	_, err = a.Alloc(0)
	require.ErrorIs(t, err, ErrBudget)
	require.Equal(t, Usage{Budget: 2*chunkLen + 100, Registered: 2 * chunkLen, Allocated: 2 * chunkLen}, a.Usage())
	a.Free(held[0])
	_, err = a.Alloc(1)
	require.NoError(t, err)
	require.Panics(t, func() { a.Free(held[0][1:]) })
	require.Panics(t, func() { a.Free(make([]byte, 10)) })
}

func TestFind(t *testing.T) {
	s := simulated(t, sim.Config{})
	b, err := s.a.Alloc(5000)
	require.NoError(t, err)
	c := s.a.mem.find(b)
	require.NotNil(t, c)
	require.Equal(t, c, s.a.mem.find(c.mem))
	require.Equal(t, c, s.a.mem.find(c.mem[len(c.mem)-1:]))
	require.Nil(t, s.a.mem.find(make([]byte, 10)))
	require.Nil(t, s.b.mem.find(b))
}

func BenchmarkAlloc(b *testing.B) {
	s := simulated(b, sim.Config{})
	b.ReportAllocs()
	for b.Loop() {
		x, _ := s.a.Alloc(2048)
		y, _ := s.a.Alloc(64 << 10)
		s.a.Free(x)
		s.a.Free(y)
	}
}
