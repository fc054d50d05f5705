package verbs

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestChain compares a chain with a slice, over random operations.
func TestChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s store
		c := chain{from: &s, start: rapid.Uint64Range(0, 1<<40).Draw(t, "start")}
		var model []byte
		start, next := c.start, byte(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			n := rapid.IntRange(0, 3*largeBlock/2).Draw(t, "n")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				p := make([]byte, n)
				for i := range p {
					next++
					p[i] = next
				}
				c.append(p)
				model = append(model, p...)
			case 2:
				n = min(n, len(model))
				c.release(start + uint64(n))
				model, start = model[n:], start+uint64(n)
			case 3:
				n = min(n, len(model))
				c.cut(start + uint64(len(model)-n))
				model = model[:len(model)-n]
			case 4:
				p := make([]byte, n)
				n = c.read(p)
				require.Equal(t, min(len(p), len(model)), n)
				require.True(t, bytes.Equal(p[:n], model[:n]))
				model, start = model[n:], start+uint64(n)
			}
			require.Equal(t, start+uint64(len(model)), c.end())
			at := rapid.IntRange(0, len(model)).Draw(t, "at")
			k := rapid.IntRange(0, len(model)-at).Draw(t, "k")
			require.True(t, bytes.Equal(model[at:at+k], bytes.Join(c.view(nil, start+uint64(at), k), nil)))
		}
		end := c.end()
		c.free()
		require.Equal(t, end, c.end())
		require.Zero(t, c.n)
	})
}

// TestStoreGivesBack: memory of the carrier returns to it when there is enough of it.
func TestStoreGivesBack(t *testing.T) {
	out := 0
	s := store{lend: func(n int) []byte { out++; return make([]byte, n) }, giveBack: func([]byte) { out-- }}
	var all []*block
	for range keepBlocks + 10 {
		all = append(all, s.get(true))
	}
	require.Equal(t, keepBlocks+10, out)
	for _, b := range all {
		s.put(b)
	}
	require.Equal(t, keepBlocks, out)
}
