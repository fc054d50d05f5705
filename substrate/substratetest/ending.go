package substratetest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

func testInterruptRecv(h *harness) {
	_, b := h.pair()
	var n int
	var err error
	wait := h.start("Recv of an interrupted link", func() { n, err = b.Recv(make([]byte, 10)) })
	h.settle()
	b.Interrupt()
	wait()
	require.Zero(h, n)
	require.ErrorIs(h, err, substrate.ErrInterrupted)
}

func testInterruptSend(h *harness) {
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	w.full()
	require.NoError(h, a.SetSendDeadline(time.Time{}))
	const big = 1 << 20
	var n int
	var err error
	wait := h.start("Send of an interrupted link", func() { n, err = w.send(big) })
	h.settle()
	a.Interrupt()
	wait()
	require.ErrorIs(h, err, substrate.ErrInterrupted)
	require.Less(h, n, big)
	// It is the link that was interrupted, not what it had taken.
	require.NoError(h, r.until(w.off, make([]byte, 100_000)))
	require.NoError(h, a.Close())
	if err := r.rest(); !h.Lossy {
		require.ErrorIs(h, err, io.EOF)
		require.Equal(h, w.off, r.off.Load())
	}
}

func testInterruptThenDrain(h *harness) {
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	_, err := w.send(2000)
	require.NoError(h, err)
	require.NoError(h, r.until(10, make([]byte, 10)))
	b.Interrupt()
	_, err = r.recv(make([]byte, 10))
	require.ErrorIs(h, err, substrate.ErrInterrupted)
	require.NoError(h, r.drainUntil(2000))
	n, err := r.drain(make([]byte, 10))
	require.NoError(h, err)
	require.Zero(h, n)
	if h.Lossy {
		return
	}
	// The end can be drained, too.
	_, err = w.send(5)
	require.NoError(h, err)
	require.NoError(h, a.Close())
	require.NoError(h, r.drainUntil(2005))
	require.ErrorIs(h, r.drainUntil(2006), io.EOF)
}

// testInterruptIsFinal: nothing makes an interrupted link usable again.
func testInterruptIsFinal(h *harness) {
	a, b := h.pair()
	_, err := b.Send(0, [][]byte{{1, 2, 3}})
	require.NoError(h, err)
	check := func() {
		h.Helper()
		n, err := a.Send(0, [][]byte{{1}})
		require.Zero(h, n)
		require.ErrorIs(h, err, substrate.ErrInterrupted)
		n, err = a.Send(0, [][]byte{{1}, {2}})
		require.Zero(h, n)
		require.ErrorIs(h, err, substrate.ErrInterrupted)
		n, err = a.Recv(make([]byte, 1))
		require.Zero(h, n)
		require.ErrorIs(h, err, substrate.ErrInterrupted)
	}
	a.Interrupt()
	check()
	a.Interrupt()
	check()
	for _, t := range []time.Time{{}, time.Now().Add(time.Hour), time.Unix(1, 0)} {
		require.NoError(h, a.SetSendDeadline(t))
		require.NoError(h, a.SetRecvDeadline(t))
		check()
	}
	require.NoError(h, a.Close())
	a.Interrupt() // of a closed link: nothing to do, no panic

	// And if a deadline comes at the same time.
	for range 50 {
		_, c := h.pair()
		wait := h.start("setting deadlines", func() {
			c.SetRecvDeadline(time.Time{})
			c.SetSendDeadline(time.Now().Add(time.Hour))
			c.SetRecvDeadline(time.Now().Add(time.Hour))
		})
		c.Interrupt()
		wait()
		_, err := c.Recv(make([]byte, 1))
		require.ErrorIs(h, err, substrate.ErrInterrupted)
		require.NoError(h, c.Close())
	}
}

func testEnd(h *harness) {
	if h.Lossy {
		h.Skip("an orderly end isn't promised here")
	}
	for _, size := range []int{0, 1, 100, 300_000} {
		a, b := h.pair()
		w, r := h.writer(a, h.Dialer), h.reader(b)
		wait := h.start("Send", func() {
			if _, err := w.send(size); err != nil {
				h.Errorf("Send of %d: %v", size, err)
			}
			if err := a.Close(); err != nil {
				h.Errorf("Close: %v", err)
			}
		})
		require.ErrorIs(h, r.rest(), io.EOF)
		wait()
		require.Equal(h, uint64(size), r.off.Load())
		for range 2 { // and it stays the end
			_, err := r.recv(make([]byte, 10))
			require.ErrorIs(h, err, io.EOF)
			_, err = r.drain(make([]byte, 10))
			require.ErrorIs(h, err, io.EOF)
		}
		require.NoError(h, b.Close())
	}
}

func testCloseUnblocks(h *harness) {
	a, _ := h.pair()
	w := h.writer(a, h.Dialer)
	w.full()
	require.NoError(h, a.SetSendDeadline(time.Time{}))
	var sendErr, recvErr error
	sent := h.start("Send of a closed link", func() { _, sendErr = w.send(1 << 20) })
	received := h.start("Recv of a closed link", func() { _, recvErr = a.Recv(make([]byte, 10)) })
	h.settle()
	require.NoError(h, a.Close())
	sent()
	received()
	require.ErrorIs(h, sendErr, net.ErrClosed)
	require.ErrorIs(h, recvErr, net.ErrClosed)
	// And every later call.
	_, err := a.Send(w.off, [][]byte{{1}})
	require.ErrorIs(h, err, net.ErrClosed)
	_, err = a.Recv(make([]byte, 10))
	require.ErrorIs(h, err, net.ErrClosed)
	_, err = a.Drain(make([]byte, 10))
	require.ErrorIs(h, err, net.ErrClosed)
	require.ErrorIs(h, a.SetSendDeadline(time.Time{}), net.ErrClosed)
	require.ErrorIs(h, a.SetRecvDeadline(time.Time{}), net.ErrClosed)
	a.Release(w.off)
	require.NoError(h, a.Close(), "closing twice is no error")
}

func testCloseUnblocksPeer(h *harness) {
	a, b := h.pair()
	var recvErr error
	received := h.start("Recv after the peer closed", func() { _, recvErr = b.Recv(make([]byte, 10)) })
	h.settle()
	require.NoError(h, a.Close())
	received()
	if !h.Lossy {
		require.ErrorIs(h, recvErr, io.EOF)
	}
	// Sending to nobody fails, if not at once.
	w := h.writer(b, h.Listener)
	var err error
	h.start("Send after the peer closed", func() {
		for err == nil {
			_, err = w.send(64 << 10)
		}
	})()
	requireBroken(h, err)
	if !h.Lossy {
		// The peer's end was orderly and stays so, whatever became of what was sent to it.
		_, err = b.Recv(make([]byte, 10))
		require.ErrorIs(h, err, io.EOF)
	}
}

func testCloseUnblocksPeersSend(h *harness) {
	a, b := h.pair()
	w := h.writer(b, h.Listener)
	w.full()
	require.NoError(h, b.SetSendDeadline(time.Time{}))
	var err error
	wait := h.start("Send whose peer closed", func() { _, err = w.send(1 << 20) })
	h.settle()
	require.NoError(h, a.Close())
	wait()
	requireBroken(h, err)
}

func testAbortUnblocksPeer(h *harness) {
	if h.Abort == nil {
		h.Skip("links of this substrate can't be broken on demand")
	}
	l := h.listen()
	for range 10 { // which of the two calls hears of it first is a race: each must hear of it in its own right
		a, b := h.connect(l)
		w := h.writer(b, h.Listener)
		w.full()
		require.NoError(h, b.SetSendDeadline(time.Time{}))
		var sendErr, recvErr error
		sent := h.start("Send on a broken link", func() { _, sendErr = w.send(1 << 20) })
		received := h.start("Recv on a broken link", func() { _, recvErr = b.Recv(make([]byte, 10)) })
		h.settle()
		h.Abort(a)
		sent()
		received()
		requireBroken(h, sendErr)
		requireBroken(h, recvErr)
		_, err := b.Send(w.off, [][]byte{{1}})
		requireBroken(h, err)
		_, err = b.Recv(make([]byte, 10))
		requireBroken(h, err)
		_, err = b.Drain(make([]byte, 10))
		requireBroken(h, err)
		require.NoError(h, a.Close())
		require.NoError(h, b.Close())
	}
}

// testAbortIsNoEnd: bytes that had arrived may be received or lost, but a break never looks like an end.
func testAbortIsNoEnd(h *harness) {
	if h.Abort == nil {
		h.Skip("links of this substrate can't be broken on demand")
	}
	a, b := h.pair()
	w, r := h.writer(a, h.Dialer), h.reader(b)
	_, err := w.send(1000)
	require.NoError(h, err)
	require.NoError(h, r.until(100, make([]byte, 100)))
	h.Abort(a)
	h.start("Recv on a broken link", func() { err = r.rest() })()
	requireBroken(h, err)
	require.LessOrEqual(h, r.off.Load(), w.off)
}

// testConcurrentCalls calls everything that may be called from anywhere while bytes move: nothing may race, block or panic.
func testConcurrentCalls(h *harness) {
	for _, last := range []func(substrate.Link){substrate.Link.Interrupt, func(l substrate.Link) { l.Close() }} {
		a, b := h.pair()
		var moving, calling sync.WaitGroup
		stop := make(chan struct{})
		for _, l := range []substrate.Link{a, b} {
			moving.Go(func() {
				for off, err := uint64(0), error(nil); err == nil || err == os.ErrDeadlineExceeded; {
					<-time.After(10 * time.Microsecond) // in a bubble time passes only while everybody waits
					var n int                           // below, a new slice each time: the link may keep it
					n, err = l.Send(off, [][]byte{make([]byte, 1000), make([]byte, 10)})
					l.Release(off)
					off += uint64(n)
				}
			})
			moving.Go(func() {
				p := make([]byte, 5000)
				for err := error(nil); err == nil || err == os.ErrDeadlineExceeded; {
					<-time.After(10 * time.Microsecond)
					_, err = l.Recv(p)
				}
			})
			for range 2 {
				calling.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						l.SetSendDeadline(time.Now().Add(time.Duration(i%3-1) * time.Millisecond))
						l.SetRecvDeadline(time.Now().Add(time.Duration(i%3-1) * time.Millisecond))
						l.Cost()
						l.LocalAddr()
						l.RemoteAddr()
						l.Release(0)
						<-time.After(50 * time.Microsecond)
					}
				})
			}
		}
		<-time.After(moment)
		for range 4 {
			calling.Go(func() { last(a) })
			calling.Go(func() { last(b) })
		}
		h.start("calls on links that were interrupted or closed", moving.Wait)()
		close(stop)
		calling.Wait()
		require.NoError(h, a.Close())
		require.NoError(h, b.Close())
	}
}
