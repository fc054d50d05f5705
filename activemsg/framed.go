package activemsg

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/sockemu/sockemu/substrate"
)

// FramedConfig tunes a Framed carrier. The zero value is good. Both ends may differ: the smaller figure counts.
type FramedConfig struct {
	Payload int // most bytes of a segment; 0 is 16 KiB
	Slots   int // 0 is 128 for data and those for control
}

// Each end says first what it can take, in preambleLen bytes: the magic, then payload and slots (u32, little-endian). After that there are
// segments, one behind the other.
const (
	preambleLen = 16
	magic       = "sockam\x00\x01" // the last byte is the version
	// Bounds of what is believed of a peer; the smaller figure counts, so they bound no memory.
	maxFramedPayload = 1 << 24
	// framedWaits is what any link holds between its ends: the least that kernels give a socket, less what their bookkeeping takes.
	framedWaits = 8 << 10
)

// Framed makes a carrier over link, which it owns from then on, also if it fails. Both ends call it; it waits for the peer's call until
// ctx ends.
func Framed(ctx context.Context, link substrate.Link, cfg FramedConfig) (Carrier, error) {
	if cfg.Payload == 0 {
		cfg.Payload = 16 << 10
	}
	if cfg.Slots == 0 {
		cfg.Slots = 128 + ControlSlots
	}
	f := &framed{link: link}
	f.in = bufio.NewReaderSize(recvFunc(link.Recv), 64<<10)
	stop := context.AfterFunc(ctx, link.Interrupt)
	err := f.agree(cfg)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		link.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("activemsg: agreeing with the peer: %w", err)
	}
	f.slots = make([][]byte, f.limits.Slots)
	for i := range f.slots {
		f.free = append(f.free, uint64(i))
	}
	return f, nil
}

func (f *framed) agree(cfg FramedConfig) error {
	var mine, peer [preambleLen]byte
	copy(mine[:], magic)
	binary.LittleEndian.PutUint32(mine[8:], uint32(cfg.Payload))
	binary.LittleEndian.PutUint32(mine[12:], uint32(cfg.Slots))
	if _, err := f.link.Send(substrate.Unkept, [][]byte{mine[:]}); err != nil {
		return err
	}
	if _, err := io.ReadFull(f.in, peer[:]); err != nil {
		return err
	}
	payload, slots, err := parsePreamble(&peer)
	if err != nil {
		return &substrate.Error{Op: "agree", Substrate: "activemsg", Class: substrate.Protocol, Err: err}
	}
	f.limits = Limits{Payload: min(cfg.Payload, payload), Slots: min(cfg.Slots, slots), Waits: framedWaits}
	return nil
}

func parsePreamble(b *[preambleLen]byte) (payload, slots int, err error) {
	p, s := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	switch {
	case string(b[:8]) != magic:
		return 0, 0, fmt.Errorf("the peer doesn't speak active messages, or another version: %q", b[:8])
	case p < argsLen || p > maxFramedPayload || s <= ControlSlots || s > maxSlots:
		return 0, 0, fmt.Errorf("the peer offers %d slots of %d bytes", s, p)
	}
	return int(p), int(s), nil
}

type framed struct {
	link   substrate.Link
	limits Limits
	vec    [][]byte // of Send

	in *bufio.Reader

	mu    sync.Mutex
	slots [][]byte // made when first needed
	free  []uint64
}

type recvFunc func(p []byte) (int, error)

func (f recvFunc) Read(p []byte) (int, error) { return f(p) }

func (f *framed) Limits() Limits { return f.limits }

// SendBatch makes one Send of the link of all segments.
func (f *framed) SendBatch(batch []Segment) error {
	f.vec = f.vec[:0]
	for i := range batch {
		f.vec = append(f.vec, batch[i].Head[:], batch[i].Payload)
	}
	return f.flush()
}

func (f *framed) Send(head *[HeaderLen]byte, payload [][]byte) error {
	f.vec = append(append(f.vec[:0], head[:]), payload...)
	return f.flush()
}

func (f *framed) flush() error {
	_, err := f.link.Send(substrate.Unkept, f.vec)
	clear(f.vec)
	return f.cause(err)
}

// cause says what an error of the link means: Close works by Interrupt, as the link may be in use.
func (f *framed) cause(err error) error {
	switch {
	case errors.Is(err, substrate.ErrInterrupted):
		return net.ErrClosed
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &substrate.Error{Op: "recv", Substrate: "activemsg", Class: substrate.PathDown, Err: errEnded}
	}
	return err
}

func (f *framed) Recv(batch []Segment) (n int, err error) {
	// Wait for the first only.
	for n < len(batch) && (n == 0 || f.in.Buffered() >= HeaderLen) {
		if err := f.next(&batch[n]); err != nil {
			return n, f.cause(err)
		}
		n++
	}
	return n, nil
}

func (f *framed) next(s *Segment) error {
	if _, err := io.ReadFull(f.in, s.Head[:]); err != nil {
		return err
	}
	length := binary.LittleEndian.Uint32(s.Head[4:])
	if uint64(length) > uint64(f.limits.Payload) {
		return &substrate.Error{
			Op: "recv", Substrate: "activemsg", Class: substrate.Protocol, Err: fmt.Errorf("a segment of %d bytes", length),
		}
	}
	f.mu.Lock()
	if len(f.free) == 0 {
		f.mu.Unlock()
		return &substrate.Error{Op: "recv", Substrate: "activemsg", Class: substrate.Protocol, Err: errOverrun}
	}
	s.Slot = f.free[len(f.free)-1]
	f.free = f.free[:len(f.free)-1]
	f.mu.Unlock()
	if cap(f.slots[s.Slot]) < int(length) {
		f.slots[s.Slot] = make([]byte, length)
	}
	s.Payload = f.slots[s.Slot][:length]
	_, err := io.ReadFull(f.in, s.Payload)
	return err
}

func (f *framed) Done(s *Segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = append(f.free, s.Slot)
}

func (f *framed) Close() error {
	f.link.Interrupt()
	return f.link.Close()
}
