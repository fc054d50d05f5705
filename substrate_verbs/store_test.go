package verbs

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/blocks"
)

// TestStoreGivesBack: memory of the carrier returns to it when there is enough of it.
func TestStoreGivesBack(t *testing.T) {
	out := 0
	s := store{lend: func(n int) []byte { out++; return make([]byte, n) }, giveBack: func([]byte) { out-- }}
	var all []*blocks.Block
	for range keepBlocks + 10 {
		all = append(all, s.Get(true))
	}
	require.Equal(t, keepBlocks+10, out)
	for _, b := range all {
		s.Put(b)
	}
	require.Equal(t, keepBlocks, out)
}
