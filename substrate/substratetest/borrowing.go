package substratetest

import (
	"bytes"
	"os"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// borrowers returns a link whose dialled end is a Borrower, or skips the test.
func (h *harness) borrowers() (a substrate.Borrower, b substrate.Link) {
	h.Helper()
	dialed, b := h.pair()
	a, ok := dialed.(substrate.Borrower)
	if !ok {
		h.Skip("links of this substrate borrow nothing")
	}
	return a, b
}

// borrow lends the next bytes of the stream to the link, and returns what Borrow did. Of what the link took it gets a copy of what r doesn't have yet.
func (w *writer) borrow(a substrate.Borrower, size int, r *reader) (int, error) {
	p := make([]byte, size)
	fill(p, w.off)
	n, err := a.Borrow(w.off, p)
	end := w.off + uint64(n)
	from := min(max(w.off, r.off.Load()), end)
	rest := bytes.Clone(p[from-w.off : n])
	third := len(rest) / 3
	bufs := [][]byte{rest[:third], rest[third:]}
	if third == 0 {
		bufs = bufs[1:]
	}
	if len(rest) == 0 {
		bufs = nil
	}
	a.Return(from, bufs)
	poison(p)
	w.off = end
	w.held = append(w.held, piece{end: end, b: rest})
	return n, err
}

// testBorrow: borrowed memory is its owner's again after Return, and bytes of Send stand in line with borrowed ones, whatever their length.
func testBorrow(h *harness) {
	a, b := h.borrowers()
	require.Positive(h, a.Borrows())
	const rounds = 4
	total := uint64(0)
	for _, n := range sizes {
		total += rounds * uint64(n)
	}
	r := h.reader(b)
	sent := h.start("sending", func() {
		w := h.writer(a, h.Dialer)
		for round := range rounds {
			for i, n := range sizes {
				send := func(n int) (int, error) { return w.borrow(a, n, r) }
				if (round+i)%3 == 0 {
					send = func(n int) (int, error) { return w.send(n) }
				}
				if k, err := send(n); k != n || err != nil {
					h.Errorf("%d bytes before %d: %d, %v", n, w.off, k, err)
					return
				}
				w.release(r.off.Load())
			}
		}
	})
	require.NoError(h, r.until(total, make([]byte, 40_000)))
	sent()
}

// testBorrowCutShort: what a Borrow took before its deadline, or before Interrupt, arrives, and nothing else.
func testBorrowCutShort(h *harness) {
	for _, end := range []error{os.ErrDeadlineExceeded, substrate.ErrInterrupted} {
		a, b := h.borrowers()
		w, r := h.writer(a, h.Dialer), h.reader(b)
		w.full()
		require.NoError(h, a.SetSendDeadline(time.Time{}))
		require.NoError(h, r.until(w.off/2, make([]byte, 1000))) // some room again
		size := 2*int(w.off) + 8<<20                             // more than fits
		wait := h.start("Borrow that nobody receives", func() {
			if n, err := w.borrow(a, size, r); n == size || err != end {
				h.Errorf("Borrow: %d, %v", n, err)
			}
		})
		h.settle()
		if end == substrate.ErrInterrupted {
			a.Interrupt()
		} else {
			require.NoError(h, a.SetSendDeadline(time.Now().Add(moment)))
		}
		wait()
		require.NoError(h, r.until(w.off, make([]byte, 40_000)))
		require.NoError(h, b.SetRecvDeadline(time.Now().Add(moment)))
		_, err := r.recv(make([]byte, 1))
		require.ErrorIs(h, err, os.ErrDeadlineExceeded)
		require.NoError(h, a.Close())
		require.NoError(h, b.Close())
	}
}
