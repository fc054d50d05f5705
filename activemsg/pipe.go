package activemsg

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// PipeConfig tunes a Pipe. The zero value is good.
type PipeConfig struct {
	Payload int // most bytes of a segment; 0 is 16 KiB
	Slots   int // 0 is 128 for data and those for control
	// Look is how long who waits looks for messages before sleeping, at most. 0: not at all.
	Look time.Duration
}

// Pipe returns the two ends of a carrier within this process. It doesn't buffer beyond its slots: a segment for which there is none
// breaks it, so it proves that endpoints keep to their credits.
func Pipe(cfg PipeConfig) (a, b Carrier) {
	if cfg.Payload == 0 {
		cfg.Payload = 16 << 10
	}
	if cfg.Slots == 0 {
		cfg.Slots = 128 + ControlSlots
	}
	ab, ba := newLane(cfg), newLane(cfg)
	exposed := &exposures{buffers: map[uint32][]byte{}}
	x := &pipe{limits: Limits{Payload: cfg.Payload, Slots: cfg.Slots, Look: cfg.Look}, out: ab, in: ba, exposures: exposed}
	y := &pipe{limits: x.limits, out: ba, in: ab, exposures: exposed}
	return x, y
}

type pipe struct {
	limits  Limits
	out, in *lane
	*exposures
}

var (
	_ Placer = (*pipe)(nil)
	_ Poller = (*pipe)(nil)
)

// A lane is one direction.
type lane struct {
	mu       sync.Mutex
	cond     sync.Cond
	slots    []Segment // the memory: Payload has its whole capacity
	free     []uint64
	queue    []uint64 // slots in use, a ring as long as slots
	head, n  int
	closed   bool // by the sender: what is queued can still be received
	deserted bool // by the receiver
}

func newLane(cfg PipeConfig) *lane {
	l := &lane{slots: make([]Segment, cfg.Slots), queue: make([]uint64, cfg.Slots)}
	l.cond.L = &l.mu
	for i := range l.slots {
		l.slots[i] = Segment{Slot: uint64(i)}
		l.free = append(l.free, uint64(i))
	}
	return l
}

func (p *pipe) Limits() Limits { return p.limits }

var (
	errOverrun = errors.New("the peer has no slot for the segment")
	errEnded   = errors.New("the peer has ended the path")
)

func (p *pipe) Send(head *[HeaderLen]byte, payload [][]byte) error {
	l := p.out
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return net.ErrClosed
	case l.deserted:
		return &substrate.Error{Op: "send", Substrate: "pipe", Class: substrate.PathDown, Err: errEnded}
	case len(l.free) == 0:
		return &substrate.Error{Op: "send", Substrate: "pipe", Class: substrate.Protocol, Err: errOverrun}
	}
	at := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	s := &l.slots[at]
	s.Head = *head
	s.Payload = s.Payload[:0]
	for _, b := range payload {
		s.Payload = append(s.Payload, b...)
	}
	l.queue[(l.head+l.n)%len(l.queue)] = at
	l.n++
	l.cond.Signal()
	return nil
}

func (p *pipe) Recv(batch []Segment) (n int, err error) {
	for n == 0 && err == nil {
		p.Sleep()
		n, err = p.Poll(batch, 0)
	}
	return n, err
}

// Poll doesn't look longer than once: nothing comes while it does.
func (p *pipe) Poll(batch []Segment, _ time.Duration) (n int, err error) {
	l := p.in
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.deserted:
		return 0, net.ErrClosed
	case l.n == 0 && l.closed:
		return 0, &substrate.Error{Op: "recv", Substrate: "pipe", Class: substrate.PathDown, Err: errEnded}
	}
	for n < len(batch) && l.n > 0 {
		batch[n] = l.slots[l.queue[l.head]]
		l.head = (l.head + 1) % len(l.queue)
		l.n--
		n++
	}
	return n, nil
}

func (p *pipe) Arm() error { return nil }

// Sleep needs no Arm: it sees what is there.
func (p *pipe) Sleep() error {
	l := p.in
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.n == 0 && !l.closed && !l.deserted {
		l.cond.Wait()
	}
	return nil
}

func (p *pipe) Done(s *Segment) {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.in.free = append(p.in.free, s.Slot)
}

func (p *pipe) Close() error {
	p.out.mu.Lock()
	p.out.closed = true
	p.out.cond.Broadcast()
	p.out.mu.Unlock()
	p.in.mu.Lock()
	p.in.deserted = true
	p.in.cond.Broadcast()
	p.in.mu.Unlock()
	return nil
}

// exposures are the buffers that may be placed into, of both ends.
type exposures struct {
	mu      sync.Mutex
	last    uint32
	buffers map[uint32][]byte
}

func (x *exposures) Expose(buf []byte) (Key, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last++
	x.buffers[x.last] = buf
	return Key{RKey: x.last, Len: uint32(len(buf))}, nil
}

func (x *exposures) Hide(k Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.buffers, k.RKey)
}

var errWrongKey = errors.New("the key opens no buffer of the peer")

func (x *exposures) Place(k Key, payload [][]byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	to, ok := x.buffers[k.RKey]
	ok = ok && k.Addr <= uint64(len(to))
	if ok {
		to = to[k.Addr:] // addresses count from the beginning of the buffer
	}
	for _, b := range payload {
		if !ok || len(b) > len(to) {
			return &substrate.Error{Op: "place", Substrate: "pipe", Class: substrate.PathDown, Err: errWrongKey}
		}
		to = to[copy(to, b):]
	}
	return nil
}
