package substratetest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// pattern is what all streams consist of: byte i is pattern[i % len(pattern)]. Its length is a prime, so that a lost, doubled or
// swapped piece of any usual size shows.
var pattern = func() []byte {
	p := make([]byte, 65521)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}()

// fill writes the bytes of a stream from offset off on into p.
func fill(p []byte, off uint64) {
	for len(p) > 0 {
		n := copy(p, pattern[off%uint64(len(pattern)):])
		p = p[n:]
		off += uint64(n)
	}
}

// A writer sends the stream as a session would. It does its worst to find a link that keeps slices it shouldn't: a slice is
// overwritten as soon as the contract lets the session.
type writer struct {
	*harness
	link    substrate.Link
	retains bool
	off     uint64 // bytes the link took
	held    []piece
	scratch []byte
}

// A piece is a slice that the link may keep.
type piece struct {
	end uint64
	b   []byte
}

func (h *harness) writer(l substrate.Link, s substrate.Substrate) *writer {
	return &writer{harness: h, link: l, retains: s.Caps().Retains}
}

// send hands the next bytes of the stream to the link, in slices of the given sizes, and returns what Send did.
func (w *writer) send(sizes ...int) (int, error) { return w.sendPrepared(w.prepare(sizes...)) }

// prepare returns the next bytes of the stream, whole and in slices.
func (w *writer) prepare(sizes ...int) (b []byte, bufs [][]byte) {
	total := 0
	for _, n := range sizes {
		total += n
	}
	if w.retains {
		b = make([]byte, total)
	} else {
		if len(w.scratch) < total {
			w.scratch = make([]byte, total)
		}
		b = w.scratch[:total]
	}
	fill(b, w.off)
	bufs = make([][]byte, len(sizes))
	rest := b
	for i, n := range sizes {
		bufs[i], rest = rest[:n:n], rest[n:]
	}
	return b, bufs
}

func (w *writer) sendPrepared(b []byte, bufs [][]byte) (int, error) {
	n, err := w.link.Send(w.off, bufs)
	w.off += uint64(max(n, 0))
	if w.retains {
		// What the link did not take it has not kept.
		poison(b[max(n, 0):])
		w.held = append(w.held, piece{end: w.off, b: b[:max(n, 0)]})
	} else {
		poison(b)
	}
	return n, err
}

// release tells the link that its peer has everything before off.
func (w *writer) release(off uint64) {
	w.link.Release(off)
	for len(w.held) > 0 && w.held[0].end <= off {
		poison(w.held[0].b)
		w.held = w.held[1:]
	}
}

// poison overwrites p, with whole copies: loops over single bytes are what takes the time under the race detector.
func poison(p []byte) {
	for len(p) > 0 {
		p = p[copy(p, venom):]
	}
}

var venom = bytes.Repeat([]byte{0xDB}, 64<<10)

// A reader receives a stream and checks each byte.
type reader struct {
	*harness
	link substrate.Link
	off  atomic.Uint64 // bytes received so far
	want []byte
}

func (h *harness) reader(l substrate.Link) *reader { return &reader{harness: h, link: l} }

// recv receives once, into p, and returns what Recv did.
func (r *reader) recv(p []byte) (int, error) { return r.got(p, r.link.Recv) }

// drain drains once.
func (r *reader) drain(p []byte) (int, error) { return r.got(p, r.link.Drain) }

var errCorrupt = errors.New("the stream is corrupt")

func (r *reader) got(p []byte, recv func([]byte) (int, error)) (int, error) {
	poison(p)
	n, err := recv(p)
	if n < 0 || n > len(p) {
		return 0, errors.New("more bytes than the buffer holds")
	}
	if len(r.want) < n {
		r.want = make([]byte, len(p))
	}
	off := r.off.Load()
	fill(r.want[:n], off)
	if !bytes.Equal(p[:n], r.want[:n]) {
		i := 0
		for p[i] == r.want[i] {
			i++
		}
		r.Errorf("byte %d of the stream is %#02x, want %#02x", off+uint64(i), p[i], r.want[i])
		return 0, errCorrupt
	}
	r.off.Add(uint64(n))
	return n, err
}

// until receives until there have been n bytes of the stream.
func (r *reader) until(n uint64, p []byte) error {
	for r.off.Load() < n {
		k, err := r.recv(p[:min(uint64(len(p)), n-r.off.Load())])
		if err != nil {
			return err
		}
		if k == 0 {
			return io.ErrNoProgress
		}
	}
	return nil
}

// rest receives until an error comes, and returns that.
func (r *reader) rest() error {
	p := make([]byte, 32<<10)
	for {
		if _, err := r.recv(p); err != nil {
			return err
		}
	}
}

// drainUntil drains until there have been n bytes of the stream, which are on their way. There is no event to wait for: that is
// what Drain is about.
func (r *reader) drainUntil(n uint64) error {
	p := make([]byte, 1000)
	for end := time.Now().Add(patience); r.off.Load() < n; {
		k, err := r.drain(p)
		if err != nil {
			return err
		}
		if k == 0 {
			if time.Now().After(end) {
				return errors.New("bytes that were sent never arrived")
			}
			<-time.After(time.Millisecond)
		}
	}
	return nil
}

// full sends until the link takes no more: nobody receives, so it must stop somewhere. It leaves the deadline in place.
func (w *writer) full() {
	const limit = 1 << 30 // no kernel buffers that much for one link
	for stuck := 0; w.off < limit; {
		require.NoError(w, w.link.SetSendDeadline(time.Now().Add(moment)))
		n, err := w.send(64<<10 - 1)
		if err == nil {
			stuck = 0
			continue
		}
		require.ErrorIs(w, err, os.ErrDeadlineExceeded)
		require.Less(w, n, 64<<10-1)
		if stuck++; n > 0 {
			stuck = 1
		}
		if stuck == 4 { // on a busy machine the other end may just not have had its turn
			return
		}
	}
	w.Fatal("Send takes bytes without end though nobody receives")
}
