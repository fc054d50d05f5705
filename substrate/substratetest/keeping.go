package substratetest

import (
	"bytes"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// testUnkept: bytes at offset Unkept stand in line with those of the stream and don't count in its offsets; the link is done with
// their slices when Send returns, even one that keeps others.
func testUnkept(h *harness) {
	a, b := h.pair()
	r := h.reader(b)
	const rounds, most = 200, 5000
	position := uint64(0) // in what the peer receives, which is the usual stream
	total := uint64(0)
	for i := range rounds {
		total += uint64(unkeptSize(i) + keptSize(i))
	}
	sent := h.start("sending", func() {
		scratch := make([]byte, most)
		off := uint64(0)
		type held struct {
			position, end uint64
			b             []byte
		}
		var keep []held
		for i := range rounds {
			frame := scratch[:unkeptSize(i)]
			fill(frame, position)
			third := len(frame) / 3
			n, err := a.Send(substrate.Unkept, [][]byte{frame[:third], frame[third:]})
			poison(scratch)
			if n != len(frame) || err != nil {
				h.Errorf("Send of %d bytes that aren't kept: %d, %v", len(frame), n, err)
				return
			}
			position += uint64(n)
			p := make([]byte, keptSize(i))
			fill(p, position)
			if n, err = a.Send(off, [][]byte{p}); n != len(p) || err != nil {
				h.Errorf("Send of %d bytes at %d: %d, %v", len(p), off, n, err)
				return
			}
			position += uint64(n)
			off += uint64(n)
			keep = append(keep, held{position: position, end: off, b: p})
			for len(keep) > 0 && keep[0].position <= r.off.Load() {
				a.Release(keep[0].end)
				poison(keep[0].b)
				keep = keep[1:]
			}
		}
	})
	require.NoError(h, r.until(total, make([]byte, 3000)))
	sent()
}

func unkeptSize(i int) int { return 1 + i*97%4999 }

func keptSize(i int) int { return i * 61 % 3000 }

// keepers returns a link whose dialled end is a Keeper, or skips the test.
func (h *harness) keepers() (a substrate.Keeper, b substrate.Link) {
	h.Helper()
	dialed, b := h.pair()
	a, ok := dialed.(substrate.Keeper)
	if !ok {
		h.Skip("links of this substrate keep nothing")
	}
	return a, b
}

// taken waits until the peer's end has n bytes, and requires that it has no more.
func (h *harness) taken(a substrate.Keeper, n uint64) {
	h.Helper()
	for end := time.Now().Add(patience); a.Taken() < n && time.Now().Before(end); {
		<-time.After(time.Millisecond)
	}
	require.Equal(h, n, a.Taken())
}

func testTaken(h *harness) {
	a, b := h.keepers()
	require.Zero(h, a.Taken())
	w, r := h.writer(a, h.Dialer), h.reader(b)
	_, err := w.send(1500)
	require.NoError(h, err)
	require.Zero(h, a.Taken(), "sent is not received")
	require.NoError(h, r.until(600, make([]byte, 100)))
	h.taken(a, 600)
	b.Interrupt()
	require.NoError(h, r.drainUntil(1500))
	h.taken(a, 1500)
	require.NoError(h, a.Close())
	require.EqualValues(h, 1500, a.Taken(), "and after the end")
}

// testTakenMeanwhile asks for Taken all the time while bytes move.
func testTakenMeanwhile(h *harness) {
	a, b := h.keepers()
	const count, size, buf = 300, 10_007, 4000
	r := h.reader(b)
	stop := make(chan struct{})
	asked := h.start("asking", func() {
		last := uint64(0)
		for {
			now := a.Taken()
			if now < last {
				h.Errorf("Taken fell from %d to %d", last, now)
			}
			if has := r.off.Load(); now > has+buf {
				h.Errorf("Taken is %d, the peer has %d", now, has)
			}
			last = now
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Microsecond):
			}
		}
	})
	sent := h.start("sending", func() {
		w := h.writer(a, h.Dialer)
		for range count {
			if _, err := w.send(size); err != nil {
				h.Errorf("Send: %v", err)
				return
			}
			w.release(r.off.Load())
		}
	})
	err := r.until(count*size, make([]byte, buf))
	sent()
	close(stop)
	asked()
	require.NoError(h, err)
	h.taken(a, count*size)
}

// testKept: what the peer's end doesn't have can be had back from this one, whether the peer is there, goes on to receive meanwhile,
// or is gone.
func testKept(h *harness) {
	for _, peer := range []string{"idle", "receives", "gone"} {
		if peer == "gone" && h.Abort == nil {
			continue
		}
		a, b := h.keepers()
		w, r := h.writer(a, h.Dialer), h.reader(b)
		_, err := w.send(3, 0, 1000)
		require.NoError(h, err)
		require.NoError(h, r.until(1003, make([]byte, 500)))
		w.full()
		require.NoError(h, r.until(r.off.Load()+777, make([]byte, 100)))
		w.full() // once more, so that a ring has gone round
		a.Interrupt()
		received := func() {}
		switch peer {
		case "receives":
			received = h.start("receiving", func() {
				if err := r.until(w.off, make([]byte, 1000)); err != nil {
					h.Errorf("Recv: %v", err)
				}
			})
		case "gone":
			h.Abort(b)
		}
		taken := a.Taken()
		for _, from := range []uint64{taken, taken + (w.off-taken)/2, w.off} {
			want := make([]byte, w.off-from)
			fill(want, from)
			require.Truef(h, bytes.Equal(want, bytes.Join(a.Kept(from), nil)), "what is kept from %d to %d while the peer is: %s", from, w.off, peer)
		}
		received()
		require.NoError(h, a.Close())
		require.NoError(h, b.Close())
	}
}
