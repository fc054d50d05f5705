package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"time"
)

// A workload is an operation with its buffers. A worker has one. Only serve, which has buffers of its own, runs on
// several connections at a time.
type workload interface {
	// serve is the server's side of c. It returns nil when the client has closed between two operations.
	serve(c net.Conn) error
	// warmUp checks c, as far as anything comes back, and returns the n that block needs to last about d.
	warmUp(c net.Conn, d time.Duration) (n int, err error)
	// block runs n operations on c, or as many as fit into d if n is 0. It returns how many, and how long they took.
	block(c net.Conn, d time.Duration, n int) (ops int, took time.Duration, err error)
	// samples are the times in ns of the single operations of the last block, if they were taken. The caller may sort them.
	samples() []int64
	// countOps is how many operations to count allocations over.
	countOps() int
}

func newWorkload(op Op, size Size, cold bool) (workload, error) {
	switch op {
	case RTT:
		return newPingPong(int(size)), nil
	case BW:
		return newStream(int(size), cold), nil
	}
	return nil, fmt.Errorf("unknown operation %q", op)
}

// pingPong is round trips: size bytes there, the server reads them all and sends them back.
type pingPong struct {
	out, in []byte
	marks   []int64 // when each round trip of the block ended, then how long it took, ns
	n       int
}

const (
	maxMarks = 1 << 17 // a block of 4 ms has some 10,000 at 0.3 us
	warmOps  = 2       // round trips before the clock of a block starts: the other side was asleep while others had their turn
	countRTT = 1000
)

func newPingPong(size int) *pingPong {
	p := &pingPong{out: make([]byte, size), in: make([]byte, size), marks: make([]int64, maxMarks)}
	pattern(p.out)
	return p
}

func (p *pingPong) serve(c net.Conn) error {
	buf := make([]byte, len(p.out))
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return ended(err)
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
}

func (p *pingPong) trip(c net.Conn) error {
	if _, err := c.Write(p.out); err != nil {
		return err
	}
	_, err := io.ReadFull(c, p.in)
	return err
}

func (p *pingPong) warmUp(c net.Conn, _ time.Duration) (int, error) {
	for range 3 {
		clear(p.in)
		if err := p.trip(c); err != nil {
			return 0, err
		}
		if !bytes.Equal(p.in, p.out) {
			return 0, errors.New("the echo differs from what was sent")
		}
	}
	return 0, nil // the clock ends a block
}

func (p *pingPong) block(c net.Conn, d time.Duration, n int) (ops int, took time.Duration, err error) {
	p.n = 0
	if n == 0 {
		for range warmOps {
			if err := p.trip(c); err != nil {
				return 0, 0, err
			}
		}
		n = len(p.marks)
	} else {
		d = math.MaxInt64
	}
	n = min(n, len(p.marks))
	start := time.Now()
	for p.n < n && took < d {
		if err := p.trip(c); err != nil {
			return p.n, took, err
		}
		took = time.Since(start)
		p.marks[p.n] = int64(took)
		p.n++
	}
	for i := p.n - 1; i > 0; i-- {
		p.marks[i] -= p.marks[i-1]
	}
	return p.n, took, nil
}

func (p *pingPong) samples() []int64 { return p.marks[:p.n] }
func (p *pingPong) countOps() int    { return countRTT }

// stream is one-way messages of size bytes. The first 8 bytes of a block say how many bytes the block has; the server
// answers one byte when it has them all, so that a block's time is the time until its last byte was really delivered.
type stream struct {
	size, off int
	src       []byte
	ack       [1]byte
}

const (
	streamHeader = 8
	receiveSize  = 64 << 10 // the receiver's buffer, or the message's size if that is larger
	coldSize     = 64 << 20 // larger than caches
	countBytes   = 64 << 20 // to count allocations over, at most
	maxCountBW   = 4000
	maxWrites    = 1 << 20
)

func newStream(size int, cold bool) *stream {
	n := size
	if cold {
		n = max(size, coldSize/size*size)
	}
	s := &stream{size: size, src: make([]byte, n)}
	pattern(s.src)
	return s
}

func (s *stream) serve(c net.Conn) error {
	buf := make([]byte, max(s.size, receiveSize))
	ack := []byte{1}
	for {
		n, err := io.ReadAtLeast(c, buf, streamHeader)
		if err != nil {
			return ended(err)
		}
		total := binary.BigEndian.Uint64(buf)
		for got := uint64(n); got != total; got += uint64(n) {
			if got > total {
				return fmt.Errorf("%d bytes of a block of %d", got, total)
			}
			if n, err = c.Read(buf); err != nil {
				return fmt.Errorf("after %d bytes of a block of %d: %w", got, total, err)
			}
		}
		if _, err := c.Write(ack); err != nil {
			return err
		}
	}
}

// send sends n messages and waits until they have arrived.
func (s *stream) send(c net.Conn, n int) (time.Duration, error) {
	start := time.Now()
	for i := range n {
		if s.off += s.size; s.off >= len(s.src) {
			s.off = 0
		}
		message := s.src[s.off : s.off+s.size]
		if i == 0 {
			binary.BigEndian.PutUint64(message, uint64(n)*uint64(s.size))
		}
		if _, err := c.Write(message); err != nil {
			return 0, err
		}
	}
	if _, err := io.ReadFull(c, s.ack[:]); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// warmUp finds how many messages take d. A first block says little about a longer one, so the number grows at most
// eightfold at a time; then it is corrected by the median of a few blocks, and stays what it is.
func (s *stream) warmUp(c net.Conn, d time.Duration) (int, error) {
	n := 1
	for {
		took, err := s.send(c, n)
		if err != nil {
			return 0, err
		}
		if took >= d/2 || n == maxWrites {
			break
		}
		n = fit(n, took, d, 8*n)
	}
	took := make([]time.Duration, 3)
	for i := range took {
		var err error
		if took[i], err = s.send(c, n); err != nil {
			return 0, err
		}
	}
	slices.Sort(took)
	return fit(n, took[len(took)/2], d, maxWrites), nil
}

// fit returns how many messages take d, at least 1 and at most limit, when n took took.
func fit(n int, took, d time.Duration, limit int) int {
	return max(min(int(float64(n)*float64(d)/float64(max(took, 1))), limit, maxWrites), 1)
}

func (s *stream) block(c net.Conn, _ time.Duration, n int) (int, time.Duration, error) {
	took, err := s.send(c, n)
	return n, took, err
}

func (s *stream) samples() []int64 { return nil }
func (s *stream) countOps() int    { return min(max(countBytes/s.size, 16), maxCountBW) }

// pattern fills b with bytes of no period that a buffer or a page has.
func pattern(b []byte) {
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
}

// ended turns the end of the stream between two operations into nil.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
