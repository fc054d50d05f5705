package fault

import (
	"bytes"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// A pipe is one direction of a conn, whose lock guards it. Positions count bytes from the first one sent; always
// read <= arrived <= sent, and sent-read never exceeds the buffer.
type pipe struct {
	conn  *conn
	index int // 0: from the dialer to the listener
	hosts hosts

	own     rule  // what the link's own scope says
	shape   Shape // what holds, as all scopes together say
	stalled bool
	hole    bool
	stuck   bool // a byte or the end was swallowed: nothing is delivered any more

	store   store
	sent    uint64
	arrived uint64
	read    uint64
	resetAt uint64 // the conn is reset when arrived reaches it
	closing bool   // the sender has closed
	ended   bool   // and the receiver knows
	deaf    bool   // the receiver has closed: bytes are not kept

	marks  []mark    // what is in flight, as sent: one waits for those before it, which keeps the order
	freeAt time.Time // when the line has sent what it was given (Shape.Rate)
	timer  *time.Timer

	sendRNG  *rand.Rand // sizes of pieces, jitter
	recvRNG  *rand.Rand // sizes of short reads
	sendable *sync.Cond
	readable *sync.Cond
	record   *recording // for a duplicate; usually nil
}

// A mark says that everything before end arrives at due, or when what was sent before has arrived.
type mark struct {
	end  uint64
	due  time.Time
	kind markKind
}

type markKind uint8

const (
	markBytes markKind = iota
	markEnd            // the sender closed in an orderly way
	markReset          // the sender closed hard
)

// segment bounds what travels as one on a direction with a rate, so that bytes drip in instead of arriving by the buffer: a
// packet, or 20 ms of a slow line.
func (s Shape) segment() int { return min(1460, max(1, s.Rate/50)) }

func (p *pipe) init(c *conn, index int, h hosts, link uint64) {
	p.conn, p.index, p.hosts = c, index, h
	p.resetAt = math.MaxUint64
	p.sendRNG, p.recvRNG = c.net.rng(link, uint64(2+index)), c.net.rng(link, uint64(4+index))
	p.sendable, p.readable = sync.NewCond(&c.mu), sync.NewCond(&c.mu)
	if c.net.cfg.Retains {
		p.store = &held{}
	} else {
		p.store = &ring{}
	}
}

func (p *pipe) room() int { return p.conn.net.cfg.Buffer - int(p.sent-p.read) }

func (p *pipe) unread() int { return int(p.arrived - p.read) }

// put takes the next piece of b, which is not empty, and returns its size. There must be room. keep says whether a link that
// retains may keep b.
func (p *pipe) put(b []byte, keep bool) int {
	n := min(len(b), p.room())
	if p.shape.SendPiece > 0 {
		n = min(n, 1+p.sendRNG.IntN(p.shape.SendPiece))
	}
	if p.shape.Rate > 0 {
		n = min(n, p.shape.segment())
	}
	p.record.add(b[:n])
	if !p.deaf {
		if !keep {
			p.store.push(bytes.Clone(b[:n]))
		} else {
			p.store.push(b[:n])
		}
	}
	p.sent += uint64(n)
	p.conn.net.stats.sent.Add(uint64(n))
	p.travel(markBytes, n)
	return n
}

// finish sends the end of the stream, or a reset.
func (p *pipe) finish(kind markKind) {
	p.closing = true
	p.travel(kind, 0)
}

// travel sends off everything before sent, n bytes more than the last time.
func (p *pipe) travel(kind markKind, n int) {
	if p.hole {
		p.stuck = true
	}
	if p.stuck {
		return
	}
	s := &p.shape
	if len(p.marks) == 0 && !p.stalled && s.Delay == 0 && s.Jitter == 0 && s.Rate == 0 {
		p.arrive(mark{end: p.sent, kind: kind})
		return
	}
	due := time.Now()
	if s.Rate > 0 {
		if p.freeAt.Before(due) {
			p.freeAt = due
		}
		p.freeAt = p.freeAt.Add(time.Duration(float64(n) / float64(s.Rate) * float64(time.Second)))
		due = p.freeAt
	}
	due = due.Add(s.Delay)
	if s.Jitter > 0 {
		due = due.Add(time.Duration(p.sendRNG.Int64N(int64(s.Jitter) + 1)))
	}
	p.enqueue(mark{end: p.sent, due: due, kind: kind})
}

func (p *pipe) enqueue(m mark) {
	if last := len(p.marks) - 1; last >= 0 && m.kind == markBytes && p.marks[last].kind == markBytes && p.marks[last].due.Equal(m.due) {
		p.marks[last].end = m.end
		return
	}
	p.marks = append(p.marks, m)
	if len(p.marks) == 1 {
		p.arm()
	}
}

// arm sets the timer for the first mark.
func (p *pipe) arm() {
	if p.stalled || p.stuck || len(p.marks) == 0 || p.conn.over {
		return
	}
	if d := time.Until(p.marks[0].due); p.timer == nil {
		p.timer = time.AfterFunc(d, p.onTimer)
	} else {
		p.timer.Reset(d)
	}
}

func (p *pipe) onTimer() {
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	p.deliver()
}

// deliver lets arrive what is due. It may be called too often.
func (p *pipe) deliver() {
	now := time.Now()
	for len(p.marks) > 0 && !p.stalled && !p.stuck && !p.conn.over && !p.marks[0].due.After(now) {
		m := p.marks[0]
		p.marks = p.marks[1:]
		p.arrive(m)
	}
	p.arm()
}

// arrive makes one mark visible to the receiver, or as much of it as the reset allows.
func (p *pipe) arrive(m mark) {
	if m.end >= p.resetAt {
		p.arrived = p.resetAt
		p.conn.reset()
		return
	}
	p.arrived = m.end
	switch m.kind {
	case markBytes:
		p.readable.Broadcast()
	case markEnd:
		p.ended = true
		p.readable.Broadcast()
		p.reverse().sendable.Broadcast() // nobody is left to send to
	case markReset:
		p.lose()
		p.conn.reset()
	}
}

// get fills b with bytes that have arrived; there must be some.
func (p *pipe) get(b []byte) int {
	n := p.store.pop(b[:min(len(b), p.unread())])
	p.read += uint64(n)
	p.conn.net.stats.read.Add(uint64(n))
	p.sendable.Broadcast()
	return n
}

// hang up: the receiver has closed. The sender fills the buffer as before, until it hears of it.
func (p *pipe) hangUp() {
	p.deaf = true
	p.store.drop()
}

// lose drops, with even chance, a part of what has arrived and wasn't read.
func (p *pipe) lose() {
	if r := p.conn.rng; p.unread() > 0 && r.IntN(2) == 0 {
		p.arrived -= uint64(r.IntN(p.unread() + 1))
	}
}

// cut delivers a part of what is in flight, chosen by chance, and then loses.
func (p *pipe) cut() {
	if flight := min(p.sent, p.resetAt) - p.arrived; !p.stuck && !p.stalled && flight > 0 {
		p.arrived += uint64(p.conn.rng.Int64N(int64(flight) + 1))
	}
	p.lose()
}

func (p *pipe) setReset(n uint64) {
	p.resetAt = max(n, p.arrived)
	if p.arrived >= n {
		p.conn.reset()
	}
}

func (p *pipe) apply(r rule) {
	r = r.under(p.own)
	p.shape = Shape{}
	if r.shape != nil {
		p.shape = *r.shape
	}
	p.stalled, p.hole = r.stall, r.hole
	if p.hole && (p.sent > p.arrived || p.closing && !p.ended) {
		p.stuck = true
	}
	p.deliver()
}

func (p *pipe) reverse() *pipe { return &p.conn.pipes[1-p.index] }
