package activemsg

import (
	"context"
	"sync"
)

// maxOpen bounds the messages of more than one segment that each end has open at a time; numbers begin with 1.
const maxOpen = 256

// An Out is a message that is being sent. It belongs to one goroutine. It must be ended, whatever happens.
type Out struct {
	ep     *Endpoint
	ctx    context.Context
	id     uint8
	number uint16 // 0 until the first segment is sent
	max    int
	total  int

	pieces  [][]byte // not sent yet
	pending int      // bytes in pieces
	err     error
}

// opens holds the numbers that are free.
type opens struct {
	numbers chan uint16
	pool    sync.Pool
}

func (o *opens) init() {
	o.numbers = make(chan uint16, maxOpen-1)
	for n := range uint16(maxOpen - 1) {
		o.numbers <- n + 1
	}
}

func (o *opens) free(out *Out) {
	if out.number != 0 {
		o.numbers <- out.number
	}
	clear(out.pieces)
	*out = Out{pieces: out.pieces[:0]}
	o.pool.Put(out)
}

// Begin starts a message of at most maxLen bytes for handler id. It, and what is called on the Out, waits for credits until ctx ends. Any
// number of messages can be begun, also by one goroutine; up to 255 of more than one segment are under way at a time.
func (e *Endpoint) Begin(ctx context.Context, id uint8, maxLen int) (*Out, error) {
	if err := e.Err(); err != nil {
		return nil, err
	}
	o, _ := e.opens.pool.Get().(*Out)
	if o == nil {
		o = new(Out)
	}
	o.ep, o.ctx, o.id, o.max = e, ctx, id, maxLen
	return o, nil
}

// Piece adds b to the message. It may be sent at once or later, so b must not change before End has returned.
func (o *Out) Piece(b []byte) error {
	if o.err != nil {
		return o.err
	}
	if len(b) > o.max-o.total {
		o.err = ErrTooLong
		return o.err
	}
	o.total += len(b)
	limit := o.ep.limits.Payload
	for len(b) > 0 {
		if o.pending == limit { // not earlier: the last segment is End's
			if o.err = o.flush(0); o.err != nil {
				return o.err
			}
		}
		n := min(limit-o.pending, len(b))
		o.pieces = append(o.pieces, b[:n])
		o.pending += n
		b = b[n:]
	}
	return nil
}

// End sends what is left of the message. The pieces are the caller's again, and the Out must not be used any more, whether
// it fails or not. A message that fails ends at the peer with io.ErrUnexpectedEOF, if it got there at all.
func (o *Out) End() error {
	if o.err == nil {
		o.err = o.flush(flagLast)
	}
	e, err := o.ep, o.err
	if err != nil && o.number != 0 && e.arrives.spawn(e, func() { e.abort(o) }) {
		return err
	}
	e.opens.free(o)
	return err
}

// abort tells the peer that the rest of a message won't come, when there is a credit for it.
func (e *Endpoint) abort(o *Out) {
	if e.out.take(context.Background(), e) == nil {
		e.submit(header{id: o.id, flags: flagLast | flagAbort, message: o.number}, body{})
	}
	e.opens.free(o)
}

// flush sends the pieces as a segment.
func (o *Out) flush(flags uint8) error {
	e := o.ep
	h := header{id: o.id, flags: flags}
	if o.number == 0 {
		h.flags |= flagFirst
		h.arg = uint64(o.max)
		if flags&flagLast == 0 {
			select {
			case o.number = <-e.opens.numbers:
			case <-e.done:
				return e.Err()
			case <-o.ctx.Done():
				return o.ctx.Err()
			}
		}
	}
	h.message = o.number
	if err := e.out.take(o.ctx, e); err != nil {
		if h.flags&flagFirst != 0 && o.number != 0 {
			e.opens.numbers <- o.number // the peer has never heard of it
			o.number = 0
		}
		return err
	}
	err := e.submit(h, body{pieces: o.pieces})
	clear(o.pieces)
	o.pieces, o.pending = o.pieces[:0], 0
	return err
}
