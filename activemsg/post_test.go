package activemsg

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

type placement struct {
	id uint64
	n  int
}

// posting returns two endpoints of which b posts, and what b is told.
func posting(t *testing.T, m maker) (a, b *Endpoint, told chan placement) {
	told = make(chan placement, 10)
	a, b = endpoints(t, m, new(Handlers), new(Handlers), Config{}, Config{OnPlaced: func(id uint64, n int) { told <- placement{id, n} }})
	return a, b, told
}

// hasOffer waits until e has the advert.
func hasOffer(e *Endpoint, id, off uint64) bool {
	synctest.Wait()
	return e.posts.offers(id, off)
}

func TestPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, told := posting(t, pipes)
		buf := make([]byte, 10)
		require.NoError(t, b.Post(7, 100, buf))
		require.True(t, hasOffer(a, 7, 100))
		for _, wrong := range [][2]uint64{{8, 100}, {7, 99}, {7, 101}} {
			n, err := a.Place(wrong[0], wrong[1], [][]byte{[]byte("no")})
			require.NoError(t, err)
			require.Zero(t, n)
		}
		n, err := a.Place(7, 100, [][]byte{[]byte("hel"), nil, []byte("lo")})
		require.NoError(t, err)
		require.Equal(t, 5, n)
		require.Equal(t, placement{7, 5}, <-told)
		require.Equal(t, "hello\x00\x00\x00\x00\x00", string(buf))
		n, err = a.Place(7, 100, [][]byte{[]byte("again")})
		require.NoError(t, err)
		require.Zero(t, n, "it is used up")

		// More than fits.
		require.NoError(t, b.Post(7, 105, buf[:4]))
		require.True(t, hasOffer(a, 7, 105))
		n, err = a.Place(7, 105, [][]byte{[]byte("a"), []byte("bcdef"), []byte("g")})
		require.NoError(t, err)
		require.Equal(t, 4, n)
		require.Equal(t, placement{7, 4}, <-told)
		require.Equal(t, "abcdo", string(buf[:5]))
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, told := posting(t, pipes)
		buf := make([]byte, 4)
		require.NoError(t, b.Cancel(1), "nothing is posted")
		for range 20 { // places in the table are used again
			require.NoError(t, b.Post(1, 0, buf))
			require.NoError(t, b.Cancel(1))
			require.NoError(t, b.Cancel(1), "once is enough")
			require.Equal(t, placement{1, 0}, <-told)
			n, err := a.Place(1, 0, [][]byte{{1}})
			require.NoError(t, err)
			require.Zero(t, n)
		}
		require.Equal(t, make([]byte, 4), buf)
		// A cancel that comes too late changes nothing.
		require.NoError(t, b.Post(1, 0, buf))
		require.True(t, hasOffer(a, 1, 0))
		_, err := a.Place(1, 0, [][]byte{{9}})
		require.NoError(t, err)
		require.NoError(t, b.Cancel(1))
		require.Equal(t, placement{1, 1}, <-told)
		synctest.Wait()
		require.Empty(t, told)
		require.NoError(t, a.Err())
	})
}

func TestPostLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, told := posting(t, pipes)
		require.ErrorIs(t, b.Post(0, 0, nil), ErrNoPost)
		for i := range uint64(maxPosts) {
			require.NoError(t, b.Post(i, 0, make([]byte, 1)))
		}
		require.ErrorIs(t, b.Post(99, 0, make([]byte, 1)), ErrNoPost)
		require.NoError(t, b.Cancel(3))
		<-told
		require.ErrorIs(t, b.Post(2, 5, make([]byte, 1)), ErrNoPost, "one for each id")
		require.NoError(t, b.Post(99, 0, make([]byte, 1)))
		require.NoError(t, a.Close())
		<-b.Done()
		require.ErrorIs(t, b.Post(99, 0, make([]byte, 1)), ErrNoPost)
	})
	a, _, _ := posting(t, framedPair)
	require.ErrorIs(t, a.Post(1, 1, make([]byte, 1)), ErrNoPost, "a link can't place")
	n, err := a.Place(1, 1, [][]byte{{1}})
	require.NoError(t, err)
	require.Zero(t, n)
}

// A counter counts calls of Place and what the longest was.
type counter struct {
	Placer
	chunk, calls, longest int
}

func (c *counter) Limits() Limits {
	l := c.Placer.Limits()
	l.Chunk = c.chunk
	return l
}

func (c *counter) Place(k Key, payload [][]byte) error {
	b := body{pieces: payload}
	c.calls++
	c.longest = max(c.longest, b.length())
	time.Sleep(500 * time.Millisecond)
	return c.Placer.Place(k, payload)
}

// TestPlaceInChunks: heartbeats get through while a large buffer is filled slowly.
func TestPlaceInChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *counter
		a, b, told := posting(t, func(testing.TB) (Carrier, Carrier) {
			x, y := Pipe(PipeConfig{})
			c = &counter{Placer: x.(Placer), chunk: 1000}
			return c, y
		})
		buf, want := make([]byte, 10_500), noise(10_500, 1)
		require.NoError(t, b.Post(1, 2, buf))
		require.True(t, hasOffer(a, 1, 2))
		n, err := a.Place(1, 2, [][]byte{want[:1], want[1:1500], want[1500:1500], want[1500:9000], want[9000:]})
		require.NoError(t, err)
		require.Equal(t, len(buf), n)
		require.Equal(t, placement{1, len(buf)}, <-told)
		require.Equal(t, want, buf)
		require.Equal(t, 11, c.calls)
		require.Equal(t, 1000, c.longest)
		require.NoError(t, a.Err())
		require.NoError(t, b.Err())
	})
}

// TestPostAgain: the next buffer can be posted from OnPlaced.
func TestPostAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *Endpoint
		var off uint64
		buf := make([]byte, 8)
		a, b := endpoints(t, pipes, new(Handlers), new(Handlers), Config{}, Config{OnPlaced: func(id uint64, n int) {
			off += uint64(n)
			if err := b.Post(id, off, buf); err != nil {
				t.Error(err)
			}
		}})
		require.NoError(t, b.Post(1, 0, buf))
		for i := range uint64(100) {
			require.True(t, hasOffer(a, 1, 3*i))
			n, err := a.Place(1, 3*i, [][]byte{{1, 2, 3}})
			require.NoError(t, err)
			require.Equal(t, 3, n)
		}
	})
}

// TestWrongKey: whoever offers a buffer that isn't there has broken the path, not the peer.
func TestWrongKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := Pipe(PipeConfig{})
		a, err := New(x, new(Handlers), Config{})
		require.NoError(t, err)
		defer a.Close()
		defer y.Close()
		ad := advert{id: 1, off: 2, key: Key{RKey: 55, Len: 100}}
		sendRaw(t, y, header{id: controlPost, flags: flagControl, length: advertLen}, numbers(ad.args()))
		require.True(t, hasOffer(a, 1, 2))
		_, err = a.Place(1, 2, [][]byte{make([]byte, 10)})
		require.ErrorIs(t, err, substrate.ErrPathDown)
		require.ErrorIs(t, err, errWrongKey)
		require.ErrorIs(t, a.Err(), substrate.ErrPathDown)
	})
}

// TestEndWithPosts: after the end nothing is placed, and a peer that is killed in the middle of it leaves the buffer to us.
func TestEndWithPosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := Pipe(PipeConfig{})
		b, err := New(x, new(Handlers), Config{OnPlaced: func(id uint64, n int) { t.Errorf("told of %d", n) }})
		require.NoError(t, err)
		buf := make([]byte, 100)
		require.NoError(t, b.Post(1, 2, buf))
		var batch [2]Segment
		n, err := y.Recv(batch[:])
		require.NoError(t, err)
		require.Equal(t, 1, n)
		var args [4]uint64
		getArgs(&args, batch[0].Payload)
		var ad advert
		require.NoError(t, ad.parse(args))
		require.NoError(t, y.(Placer).Place(ad.key, [][]byte{{1, 2, 3}})) // and says no word of it
		y.Close()
		<-b.Done()
		buf[0] = 77
		require.Error(t, y.(Placer).Place(ad.key, [][]byte{{4}}))
		require.EqualValues(t, 77, buf[0])
		require.NoError(t, b.Close())
	})
}

// sendRaw sends a segment as a peer that keeps to no rules.
func sendRaw(t testing.TB, c Carrier, h header, b body) {
	var head [HeaderLen]byte
	h.put(&head)
	if b.isArgs {
		var args [argsLen]byte
		putArgs(args[:], &b.args)
		b.pieces = [][]byte{args[:]}
	}
	require.NoError(t, c.Send(&head, b.pieces))
}

// TestRouting: while one handler waits for the rest of its message the messages of others are taken from the same path and brought to
// their handlers, in Manual mode by the same Extract.
func TestRouting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams = 5
		var h Handlers
		var bodies [streams][]byte
		ended := make(chan int, 100)
		for i := range streams {
			h.Stream(uint8(i), func(in *In) {
				b, err := io.ReadAll(in)
				if err != nil {
					t.Error(err)
				}
				bodies[i] = append(bodies[i], b...)
				ended <- i
			})
		}
		for _, manual := range []bool{false, true} {
			clear(bodies[:])
			a, b := endpoints(t, pipes, &h, &h, Config{}, Config{Manual: manual})
			extract := func() {
				synctest.Wait()
				for more := manual; more; {
					_, more = b.Extract(100)
				}
				synctest.Wait()
			}
			p := a.Payload()
			var outs [streams]*Out
			for i := range outs { // all begin
				out, err := a.Begin(t.Context(), uint8(i), 3*p)
				require.NoError(t, err)
				require.NoError(t, out.Piece(noise(p+1, uint64(i))))
				outs[i] = out
			}
			extract()
			require.Empty(t, ended)
			for i := streams - 1; i >= 0; i-- { // and end in another order
				require.NoError(t, outs[i].Piece(noise(p, uint64(10+i))))
				require.NoError(t, outs[i].End())
				extract()
				require.Equal(t, i, <-ended)
			}
			for i := range bodies {
				require.Equal(t, append(noise(p+1, uint64(i)), noise(p, uint64(10+i))...), bodies[i])
			}
		}
	})
}

// TestHandlersAreBounded: messages for which there is no goroutine wait their turn.
func TestHandlersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Handlers
		started, release := make(chan bool, 1000), make(chan bool)
		h.Stream(1, func(in *In) {
			started <- true
			<-release
			if b, err := io.ReadAll(in); err != nil || len(b) != in.MaxLen() {
				t.Errorf("%d of %d bytes, %v", len(b), in.MaxLen(), err)
			}
		})
		a, b := endpoints(t, pipes, &h, &h, Config{}, Config{Handlers: 1})
		for i := range 600 {
			require.NoError(t, send(a, 1, make([]byte, i%3), 1))
		}
		synctest.Wait()
		require.Len(t, started, maxOpen)
		close(release)
		synctest.Wait()
		require.Len(t, started, 600)
		require.Zero(t, b.arrives.running)
		require.Zero(t, b.arrives.buffered)
		require.LessOrEqual(t, len(b.arrives.idle), maxUnused)
	})
}

// TestHandlerAfterEnd: what has arrived can be read after the peer has gone.
func TestHandlerAfterEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Handlers
		type result struct {
			b   []byte
			err error
		}
		read, release := make(chan result, 1), make(chan bool)
		h.Stream(1, func(in *In) {
			<-release
			b, err := io.ReadAll(in)
			read <- result{b, err}
		})
		a, b := endpoints(t, pipes, &h, &h, Config{}, Config{})
		require.NoError(t, send(a, 1, []byte("last words"), 100))
		synctest.Wait()
		require.NoError(t, a.Close())
		<-b.Done()
		close(release)
		r := <-read
		require.NoError(t, r.err)
		require.Equal(t, "last words", string(r.b))
		require.True(t, errors.Is(b.Err(), substrate.ErrPeerGone))
	})
}
