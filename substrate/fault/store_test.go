package fault

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/substrate"
)

// TestStores compares both stores with a plain buffer.
func TestStores(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stores := []store{&ring{}, &held{}}
		var want bytes.Buffer
		pushed := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				p := rapid.SliceOfN(rapid.Byte(), 1, 2000).Draw(t, "bytes")
				for _, s := range stores {
					s.push(bytes.Clone(p))
				}
				want.Write(p)
				pushed += len(p)
			},
			"pop": func(t *rapid.T) {
				p := make([]byte, rapid.IntRange(0, 3000).Draw(t, "size"))
				w := want.Next(len(p))
				for _, s := range stores {
					clear(p)
					if n := s.pop(p); !bytes.Equal(p[:n], w) {
						t.Fatalf("%T: popped %d bytes, want these %d", s, n, len(w))
					}
				}
			},
			"release": func(t *rapid.T) {
				n := rapid.IntRange(0, pushed).Draw(t, "n")
				for _, s := range stores {
					s.release(uint64(n))
				}
			},
		})
	})
}

// TestRetains: a link that retains reads from the sender's slices, until they are released.
func TestRetains(t *testing.T) {
	linked(t, Config{Retains: true}, func(t *testing.T, n *Network, a, b substrate.Link) {
		require.True(t, n.Host("a").Caps().Retains)
		first, second := []byte("first "), []byte("second")
		_, err := a.Send(1000, [][]byte{first, second})
		require.NoError(t, err)
		a.Release(1006) // by then the peer may have the bytes from elsewhere; this link still carries them
		copy(first, "XXXXXX")
		copy(second, "SEC")
		recv(t, b, "first SECond")
	})
}

// TestRetainsUntilClose: after that what is in flight comes from a copy.
func TestRetainsUntilClose(t *testing.T) {
	linked(t, Config{Retains: true}, func(t *testing.T, n *Network, a, b substrate.Link) {
		p := []byte("first")
		_, err := a.Send(0, [][]byte{p})
		require.NoError(t, err)
		require.NoError(t, a.Close())
		copy(p, "XXXXX")
		recv(t, b, "first")
	})
}
