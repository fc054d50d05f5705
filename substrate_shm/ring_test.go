package shm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// rings returns both ends of one ring in ordinary memory.
func rings(size int) (*outRing, *inRing) {
	shared, buf := &lane{}, make([]byte, size)
	return &outRing{shared: shared, buf: buf, reach: uint64(size)}, &inRing{shared: shared, buf: buf}
}

// TestRingModel: whatever is put, published, got and released in whatever pieces, and however much of the ring is used meanwhile, the
// bytes come out as they went in, what wasn't released can be had back, and neither end ever sees more than there is.
func TestRingModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(0, 12).Draw(t, "log size")
		out, in := rings(size)
		steady := rapid.Bool().Draw(t, "all of the ring, always")
		var model []byte  // published, not yet got
		var put []byte    // not yet published
		var got []byte    // not yet released
		next := uint32(0) // bytes without a period that a copy has
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				want := rapid.IntRange(0, 2*size).Draw(t, "want")
				room, err := out.room(want)
				require.NoError(t, err)
				reach, used := int(out.reach), len(model)+len(put)+len(got)
				require.LessOrEqual(t, room, max(0, reach-used))
				switch {
				case want <= room:
				case steady:
					require.Equal(t, size-used, room, "a want that wasn't met was looked into")
				case used == 0:
					require.Equal(t, reach, room, "the ring is empty")
				}
				p := make([]byte, min(want, room))
				for i := range p {
					next = next*1664525 + 1013904223
					p[i] = byte(next >> 24)
				}
				out.put(p)
				put = append(put, p...)
			},
			"reach": func(t *rapid.T) {
				if !steady {
					out.reach = uint64(rapid.IntRange(1, size).Draw(t, "reach"))
				}
			},
			"kept": func(t *rapid.T) {
				from := rapid.IntRange(0, len(got)+len(model)).Draw(t, "from")
				all := append(bytes.Clone(got), model...)
				require.True(t, bytes.Equal(all[from:], bytes.Join(out.kept(out.shared.head.Load()+uint64(from)), nil)))
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
				model, got = model[len(p):], append(got, p...)
			},
			"release": func(t *rapid.T) {
				// A sender that sleeps has published all.
				sleeps := len(put) == 0 && rapid.Bool().Draw(t, "the sender sleeps")
				out.look() // as it does before it sleeps
				limit := int(out.limit())
				if sleeps {
					out.shared.full.Store(out.wakeAt())
				}
				got = nil
				enough := len(model) <= limit-limit/4
				require.Equal(t, sleeps && enough, in.release())
				out.shared.full.Store(0)
			},
		})
	})
}

// TestRingGrowsAndShrinks: a sender that finds no room waits for as much as it said it would, however the room has changed, and
// then has some.
func TestRingGrowsAndShrinks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 1 << 10
		out, in := rings(size)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			out.reach = uint64(rapid.SampledFrom([]int{4, 5, 64, 500, size}).Draw(t, "reach"))
			n := rapid.IntRange(1, 2*size).Draw(t, "n")
			room, err := out.room(n)
			require.NoError(t, err)
			out.put(make([]byte, min(n, room)))
			out.show()
			if n <= room {
				continue
			}
			mark := out.wakeAt()
			need := out.missing(n - room)
			require.Positive(t, need)
			require.LessOrEqual(t, need, out.tail-out.seen, "a receiver can take no more than there is")
			out.shared.full.Store(mark)
			had := out.shared.head.Load()
			for out.shared.head.Load()-had < need {
				have, err := in.there(1)
				require.NoError(t, err)
				require.Positive(t, have, "the sender has been left asleep")
				in.get(make([]byte, 1))
				if in.release() {
					require.GreaterOrEqual(t, out.shared.head.Load()-had, need, "woken too early")
				}
			}
			room, err = out.room(1)
			require.NoError(t, err)
			require.Positive(t, room)
			for out.shared.full.Load() != 0 {
				have, err := in.there(1)
				require.NoError(t, err)
				require.Positive(t, have, "never woken")
				in.get(make([]byte, 1))
				in.release()
			}
		}
	})
}

// TestRingTogether: both ends at work at the same time, the sender with a new idea of how much it may use each time. Under the race
// detector this also shows that no byte is written while it may be read.
func TestRingTogether(t *testing.T) {
	const size, total = 1 << 12, 8 << 20
	out, in := rings(size)
	done := make(chan error, 1)
	go func() {
		rng := rand.New(rand.NewPCG(1, 2))
		p := make([]byte, size)
		at := 0
		for at < total {
			have, err := in.there(1 + rng.IntN(size))
			if err != nil {
				done <- err
				return
			}
			if have == 0 {
				runtime.Gosched()
				continue
			}
			q := p[:1+rng.IntN(have)]
			in.get(q)
			in.release()
			for i, b := range q {
				if b != pattern(at+i) {
					done <- fmt.Errorf("byte %d is wrong", at+i)
					return
				}
			}
			at += len(q)
		}
		done <- nil
	}()
	rng := rand.New(rand.NewPCG(3, 4))
	p := make([]byte, size)
	for at := 0; at < total; {
		select {
		case err := <-done:
			require.NoError(t, err)
		default:
		}
		if rng.IntN(20) == 0 {
			out.reach = uint64(1) << rng.IntN(13)
		}
		room, err := out.room(1 + rng.IntN(size))
		require.NoError(t, err)
		if room == 0 {
			runtime.Gosched()
			continue
		}
		q := p[:min(1+rng.IntN(room), total-at)]
		for i := range q {
			q[i] = pattern(at + i)
		}
		out.put(q)
		out.show()
		at += len(q)
	}
	require.NoError(t, <-done)
}

// pattern is a byte without a period that a ring has.
func pattern(at int) byte { return byte(uint32(at) * 2654435761 >> 24) }

// TestCursorsOfAnEnemy: a cursor may hold anything, at any time. What comes of it is an error or a number of bytes that the ring
// holds.
func TestCursorsOfAnEnemy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(0, 8).Draw(t, "log size")
		out, in := rings(size)
		// near returns cursors about those, for which there is most to be gained, and others.
		near := func(at ...uint64) *rapid.Generator[uint64] {
			return rapid.Custom(func(t *rapid.T) uint64 {
				return rapid.SampledFrom(append(at, rapid.Uint64().Draw(t, "anywhere"))).Draw(t, "near") +
					uint64(rapid.IntRange(-size-1, size+1).Draw(t, "by"))
			})
		}
		p := make([]byte, 2*size)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			in.shared.tail.Store(near(in.seen).Draw(t, "tail"))
			in.shared.tail.turn.Store(near(in.next, in.seen, in.lap+uint64(size)).Draw(t, "turn"))
			seen, next := in.seen, in.next
			have, err := in.there(rapid.IntRange(0, 2*size).Draw(t, "want"))
			if err != nil {
				require.ErrorIs(t, err, errCursor)
				require.Equal(t, [2]uint64{seen, next}, [2]uint64{in.seen, in.next}, "nothing of it is believed")
			} else {
				require.GreaterOrEqual(t, have, 0)
				require.LessOrEqual(t, have, size)
				require.GreaterOrEqual(t, in.seen, seen)
				requireInside(t, in)
				in.get(p[:rapid.IntRange(0, have).Draw(t, "get")])
				requireInside(t, in)
				in.release()
			}
			out.shared.head.Store(near(out.seen, out.tail).Draw(t, "head"))
			room, err := out.room(rapid.IntRange(0, 2*size).Draw(t, "want"))
			if err != nil {
				require.ErrorIs(t, err, errCursor)
				continue
			}
			require.GreaterOrEqual(t, room, 0)
			require.LessOrEqual(t, room, size)
			require.LessOrEqual(t, out.seen, out.tail)
			out.reach = rapid.Uint64Range(1, uint64(size)).Draw(t, "reach")
			if room, err = out.room(size); err != nil {
				continue
			}
			require.LessOrEqual(t, room, int(out.reach))
			out.put(p[:rapid.IntRange(0, room).Draw(t, "put")])
			out.publish()
			kept := 0
			for _, v := range out.kept(near(out.before.Load(), out.seen, out.tail).Draw(t, "from")) {
				kept += len(v)
			}
			require.LessOrEqual(t, kept, size)
		}
	})
}

// TestTurnsOfAnEnemy: a lap that begins before this end has come into the one before could hide that one's beginning.
func TestTurnsOfAnEnemy(t *testing.T) {
	_, in := rings(16)
	turn := func(tail, turn uint64) error {
		in.shared.tail.Store(tail)
		in.shared.tail.turn.Store(turn)
		_, err := in.there(16)
		return err
	}
	require.ErrorIs(t, turn(4, 4), errCursor, "the first lap hasn't been come into")
	require.NoError(t, turn(4, 0))
	in.get(make([]byte, 2))
	require.NoError(t, turn(8, 6))
	require.ErrorIs(t, turn(8, 8), errCursor)
	in.get(make([]byte, 4))
	require.ErrorIs(t, turn(8, 8), errCursor, "this end is at its beginning")
	in.get(make([]byte, 1))
	require.ErrorIs(t, turn(8, 7), errCursor, "what was seen before it lies elsewhere")
	require.ErrorIs(t, turn(8, 6+16+1), errCursor, "the lap before would end behind the buffer")
	require.NoError(t, turn(8, 8))
}

// requireInside: every byte that r believes to be there lies in its buffer.
func requireInside(t *rapid.T, r *inRing) {
	size := uint64(len(r.buf))
	require.LessOrEqual(t, r.lap, r.head)
	if r.next != r.lap {
		require.GreaterOrEqual(t, r.next, r.head)
		require.LessOrEqual(t, r.next-r.lap, size)
		if r.seen <= r.next {
			return
		}
	}
	require.LessOrEqual(t, r.seen-r.next, size)
}
