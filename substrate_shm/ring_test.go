package shm

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// rings returns both ends of one ring in ordinary memory.
func rings(size int) (*outRing, *inRing) {
	shared, buf := &lane{}, make([]byte, size)
	return &outRing{shared: shared, buf: buf}, &inRing{shared: shared, buf: buf}
}

// TestRingModel: whatever is put, published, got and released in whatever pieces, the bytes come out as they went in, and neither
// end ever sees more than there is.
func TestRingModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(0, 12).Draw(t, "log size")
		out, in := rings(size)
		var model []byte // published, not yet got
		var put []byte   // not yet published
		unreleased := 0
		next := uint32(0) // bytes without a period that a copy has
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				want := rapid.IntRange(0, 2*size).Draw(t, "want")
				room, err := out.room(want)
				require.NoError(t, err)
				free := size - len(model) - len(put) - unreleased
				require.LessOrEqual(t, room, free)
				if want >= room {
					require.Equal(t, min(want, free), min(want, room), "a want that wasn't met was looked into")
				}
				p := make([]byte, min(want, room))
				for i := range p {
					next = next*1664525 + 1013904223
					p[i] = byte(next >> 24)
				}
				out.put(p)
				put = append(put, p...)
			},
			"show": func(*rapid.T) {
				out.show()
				model, put = append(model, put...), nil
			},
			"publish": func(t *rapid.T) {
				sleeps := rapid.Bool().Draw(t, "the receiver sleeps")
				if sleeps {
					in.shared.hungry.Store(1)
				}
				require.Equal(t, sleeps, out.publish())
				require.Zero(t, in.shared.hungry.Load(), "it is woken once")
				model, put = append(model, put...), nil
			},
			"get": func(t *rapid.T) {
				want := rapid.IntRange(0, 2*size).Draw(t, "want")
				have, err := in.there(want)
				require.NoError(t, err)
				require.LessOrEqual(t, have, len(model))
				require.Equal(t, min(want, len(model)), min(want, have))
				p := make([]byte, min(want, have))
				in.get(p)
				require.True(t, bytes.Equal(p, model[:len(p)]))
				model = model[len(p):]
				unreleased += len(p)
			},
			"release": func(t *rapid.T) {
				// A sender that sleeps has published all.
				sleeps := len(put) == 0 && rapid.Bool().Draw(t, "the sender sleeps")
				if sleeps {
					out.shared.full.Store(1)
				}
				unreleased = 0
				enough := size-len(model) >= size/4
				require.Equal(t, sleeps && enough, in.release())
				out.shared.full.Store(0)
			},
		})
	})
}

// TestCursorsOfAnEnemy: a cursor may hold anything, at any time. What comes of it is an error or a number of bytes that the ring
// holds.
func TestCursorsOfAnEnemy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(0, 8).Draw(t, "log size")
		out, in := rings(size)
		cursor := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, uint64(3*size)))
		p := make([]byte, 2*size)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			in.shared.tail.Store(cursor.Draw(t, "tail"))
			seen := in.seen
			have, err := in.there(rapid.IntRange(0, 2*size).Draw(t, "want"))
			if err != nil {
				require.ErrorIs(t, err, errCursor)
				require.Equal(t, seen, in.seen, "nothing of it is believed")
			} else {
				require.GreaterOrEqual(t, have, 0)
				require.LessOrEqual(t, have, size)
				require.GreaterOrEqual(t, in.seen, seen)
				in.get(p[:rapid.IntRange(0, have).Draw(t, "get")])
				in.release()
			}
			out.shared.head.Store(cursor.Draw(t, "head"))
			room, err := out.room(rapid.IntRange(0, 2*size).Draw(t, "want"))
			if err != nil {
				require.ErrorIs(t, err, errCursor)
				continue
			}
			require.GreaterOrEqual(t, room, 0)
			require.LessOrEqual(t, room, size)
			require.LessOrEqual(t, out.seen, out.tail)
			out.put(p[:rapid.IntRange(0, room).Draw(t, "put")])
			out.publish()
		}
	})
}
