package substratetest

import (
	"errors"
	"io"
	"math"
	"os"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// sizes are those at which something could change: words, packets, pages, the buffers of kernels and rings.
var sizes = []int{
	1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 255, 256, 257, 511, 513, 1000, 1023, 1024, 1025, 1447, 1448, 1460, 1461, 2047, 4095, 4096, 4097,
	8191, 8192, 8193, 16383, 16384, 16385, 32767, 32768, 32769, 65535, 65536, 65537, 131071, 262145, 1<<20 - 1, 1 << 20, 1<<20 + 1,
}

func testSizesBothWays(h *harness) {
	a, b := h.pair()
	ab := h.stream(a, b, h.Dialer, sizes)
	backwards := make([]int, 0, len(sizes))
	for i := range sizes {
		backwards = append(backwards, sizes[len(sizes)-1-i])
	}
	ba := h.stream(b, a, h.Listener, backwards)
	ab()
	ba()
}

// stream sends messages of the given sizes from one end to the other and checks them there; it returns at once, and the function it returns
// waits for the end. s is the substrate of the sending end.
func (h *harness) stream(from, to substrate.Link, s substrate.Substrate, sizes []int) (wait func()) {
	total := uint64(0)
	for _, n := range sizes {
		total += uint64(n)
	}
	r := h.reader(to)
	sent := h.start("sending", func() {
		w := h.writer(from, s)
		for _, n := range sizes {
			k, err := w.send(n)
			if k != n || err != nil {
				h.Errorf("Send of %d bytes at %d: %d, %v", n, w.off-uint64(max(k, 0)), k, err)
				return
			}
			w.release(r.off.Load())
		}
	})
	received := h.start("receiving", func() {
		if err := r.until(total, make([]byte, 40_000)); err != nil {
			h.Errorf("Recv at %d of %d: %v", r.off.Load(), total, err)
		}
	})
	return func() {
		h.Helper()
		sent()
		received()
	}
}

func testGatherLists(h *harness) {
	a, b := h.pair()
	small := make([]int, 3000) // more than one system call takes (IOV_MAX is 1,024)
	for i := range small {
		small[i] = i % 5 // zeros among them
	}
	lists := [][]int{{1, 1}, {0, 5, 0}, {3, 0, 0, 4000, 1}, {70_000, 1, 70_000}, small, {1 << 20, 1 << 20, 7}, {0, 0}, {12}}
	total := uint64(0)
	for _, l := range lists {
		for _, n := range l {
			total += uint64(n)
		}
	}
	r := h.reader(b)
	sent := h.start("sending", func() {
		w := h.writer(a, h.Dialer)
		for i, l := range lists {
			before := w.off
			n, err := w.send(l...)
			if err != nil || uint64(n) != w.off-before {
				h.Errorf("list %d: %d, %v", i, n, err)
				return
			}
			w.release(r.off.Load())
		}
		if w.off != total {
			h.Errorf("Send took %d bytes of %d", w.off, total)
		}
	})
	require.NoError(h, r.until(total, make([]byte, 9999)))
	sent()
}

func testSendNothing(h *harness) {
	a, b := h.pair()
	w := h.writer(a, h.Dialer)
	for _, sizes := range [][]int{{}, {0}, {0, 0, 0}} {
		n, err := w.send(sizes...)
		require.NoError(h, err)
		require.Zero(h, n)
	}
	_, err := w.send(3)
	require.NoError(h, err)
	n, err := w.send(0)
	require.NoError(h, err)
	require.Zero(h, n)
	require.NoError(h, h.reader(b).until(3, make([]byte, 10)))
}

func testTinyBuffers(h *harness) {
	a, b := h.pair()
	for _, size := range []int{1, 2, 3, 13} {
		w, r := h.writer(a, h.Dialer), h.reader(b)
		_, err := w.send(1000)
		require.NoError(h, err)
		require.NoErrorf(h, r.until(1000, make([]byte, size)), "buffers of %d", size)
	}
}

// testBackPressure: a Send that nobody receives blocks, goes on when somebody does, and no byte is lost or counted wrong.
func testBackPressure(h *harness) {
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	w.full()
	taken := w.off
	require.NoError(h, a.SetSendDeadline(time.Time{}))
	const more = 1<<20 + 1
	wait := h.start("Send after the buffer was full", func() {
		if n, err := w.send(more); n != more || err != nil {
			h.Errorf("Send: %d, %v", n, err)
		}
	})
	h.settle()
	require.NoError(h, r.until(taken+more, make([]byte, 100_000)))
	wait()
	// Not one byte more than were taken.
	require.NoError(h, b.SetRecvDeadline(time.Now().Add(moment)))
	_, err := r.recv(make([]byte, 10))
	require.ErrorIs(h, err, os.ErrDeadlineExceeded)
}

// testRelease: what was released is the sender's again, in steps that don't fit the slices, and Release may be called for
// what it was called for before.
func testRelease(h *harness) {
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	p := make([]byte, 777)
	for i := range 50 {
		_, err := w.send(1+i*11, i)
		require.NoError(h, err)
		// The peer has what it has, not all that was sent. (Every link is taken to hold some 2,000 bytes that nobody receives.)
		require.NoError(h, r.until(w.off-min(w.off, uint64(i)*20), p))
		w.release(r.off.Load())
		w.release(r.off.Load() / 2)
	}
	require.NoError(h, r.until(w.off, p))
	w.release(w.off)
}

// testCloseGivesBack: when Close has returned what the link kept is the sender's again, also if it is still on its way.
func testCloseGivesBack(h *harness) {
	for _, size := range []int{1, 2000, 300_000} {
		a, b := h.pair()
		w, r := h.writer(a, h.Dialer), h.reader(b)
		require.NoError(h, a.SetSendDeadline(time.Now().Add(moment))) // nobody receives: as much as goes in
		if _, err := w.send(size); err != nil {
			require.ErrorIs(h, err, os.ErrDeadlineExceeded)
		}
		require.NoError(h, a.Close())
		for _, p := range w.held {
			poison(p.b)
		}
		err := r.rest()
		require.NotErrorIs(h, err, errCorrupt, "after %d bytes", r.off.Load())
		require.LessOrEqual(h, r.off.Load(), w.off)
	}
}

func testRecvDeadline(h *harness) {
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	p := make([]byte, 100)
	for _, after := range []time.Duration{-time.Second, 0, moment} {
		require.NoError(h, b.SetRecvDeadline(time.Now().Add(after)))
		for range 2 { // it holds for every call until it is changed
			n, err := r.recv(p)
			require.Zero(h, n)
			require.ErrorIs(h, err, os.ErrDeadlineExceeded)
		}
	}
	require.NoError(h, b.SetRecvDeadline(time.Time{}))
	_, err := w.send(100)
	require.NoError(h, err)
	require.NoError(h, r.until(100, p))
	// A deadline that doesn't pass does nothing.
	require.NoError(h, b.SetRecvDeadline(time.Now().Add(time.Hour)))
	_, err = w.send(100)
	require.NoError(h, err)
	require.NoError(h, r.until(200, p))
}

func testRecvDeadlineWhileBlocked(h *harness) {
	_, b := h.pair()
	require.NoError(h, b.SetRecvDeadline(time.Now().Add(time.Hour)))
	var err error
	wait := h.start("Recv whose deadline was moved into the past", func() { _, err = b.Recv(make([]byte, 1)) })
	h.settle()
	require.NoError(h, b.SetRecvDeadline(time.Unix(1, 0)))
	wait()
	require.ErrorIs(h, err, os.ErrDeadlineExceeded)
}

func testSendDeadline(h *harness) {
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	require.NoError(h, a.SetSendDeadline(time.Now().Add(-time.Second)))
	n, err := w.send(10)
	require.Zero(h, n)
	require.ErrorIs(h, err, os.ErrDeadlineExceeded)

	// In the middle of a Send: n tells exactly what the peer will receive.
	const big = 32 << 20
	n = 0
	for d := moment; n == 0; d *= 2 { // a busy machine may not have let it begin
		require.Less(h, d, patience)
		// What the link did not take is overwritten, so each try has bytes of its own.
		whole, bufs := w.prepare(big/2, big/2)
		require.NoError(h, a.SetSendDeadline(time.Now().Add(d)))
		n, err = w.sendPrepared(whole, bufs)
		require.ErrorIs(h, err, os.ErrDeadlineExceeded)
	}
	require.Less(h, n, big)
	require.NoError(h, r.until(w.off, make([]byte, 100_000)))
	w.release(w.off)

	require.NoError(h, a.SetSendDeadline(time.Time{}))
	_, err = w.send(1000)
	require.NoError(h, err)
	require.NoError(h, r.until(w.off, make([]byte, 1000)))
}

func testDrain(h *harness) {
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	n, err := r.drain(make([]byte, 10))
	require.NoError(h, err)
	require.Zero(h, n)
	_, err = w.send(1500)
	require.NoError(h, err)
	require.NoError(h, r.drainUntil(1500))
	n, err = r.drain(make([]byte, 10))
	require.NoError(h, err)
	require.Zero(h, n)
	// Receiving goes on as if nothing had been.
	_, err = w.send(10)
	require.NoError(h, err)
	require.NoError(h, r.until(1510, make([]byte, 100)))
	// Nor does a deadline that has passed concern it.
	require.NoError(h, b.SetRecvDeadline(time.Unix(1, 0)))
	_, err = w.send(10)
	require.NoError(h, err)
	require.NoError(h, r.drainUntil(1520))
	_, err = r.recv(make([]byte, 10))
	require.ErrorIs(h, err, os.ErrDeadlineExceeded)
}

func testCost(h *harness) {
	a, b := h.pair()
	check := func() {
		h.Helper()
		for _, l := range []substrate.Link{a, b} {
			c := l.Cost()
			require.GreaterOrEqual(h, c.RTT, time.Duration(0))
			require.GreaterOrEqual(h, c.Jitter, time.Duration(0))
			require.GreaterOrEqual(h, c.SendOverhead, time.Duration(0))
			require.GreaterOrEqual(h, c.Age, time.Duration(0))
			require.GreaterOrEqual(h, c.Samples, 0)
			require.Falsef(h, math.IsNaN(c.PerByte) || math.IsInf(c.PerByte, 0) || c.PerByte < 0, "PerByte is %v", c.PerByte)
			require.Falsef(h, math.IsNaN(c.Loss) || c.Loss < 0 || c.Loss > 1, "Loss is %v", c.Loss)
			require.GreaterOrEqual(h, c.OneWay(1000), time.Duration(0))
		}
	}
	check()
	h.stream(a, b, h.Dialer, []int{1, 1000, 1 << 20})()
	check()
	require.NoError(h, a.Close())
	if err := h.reader(b).rest(); !errors.Is(err, io.EOF) && !h.Lossy {
		h.Errorf("at the end: %v", err)
	}
	check()
}
