package netem

import (
	"math"
	"math/rand/v2"
	"time"
)

// A Pipe decides what happens to each packet on one direction of a path. Everything random about packet i depends on the
// seed and i alone: not on the times, the sizes or what happened to the packets before. And each kind of mishap has dice of its
// own: the same packets are lost whether or not there is jitter.
//
// A Pipe isn't safe for concurrent use.
type Pipe struct {
	im    Impairment
	dice  dice
	bad   bool // in a burst of losses
	stats Stats

	free     time.Time // when the rate has sent everything admitted so far
	residue  int64     // and this many rate-ths of a nanosecond later
	queue    []waiting // packets that aren't sent yet; those before head are
	head     int
	backlog  int       // their bytes
	last     time.Time // when the latest packet arrives that wasn't held back
	delivery [2]Delivery
}

// waiting is a packet in the queue.
type waiting struct {
	sent time.Time // when its last bit leaves the queue
	size int
}

// A Delivery is one arrival of a packet.
type Delivery struct {
	At   time.Time
	ECN  ECN // with what codepoint
	Flip int // the bit to flip, counted from the first byte's lowest; negative: none
}

// Stats counts packets. At any time Delivered + Dropped() = Admitted + Duplicated.
type Stats struct {
	Admitted   uint64 // packets that came
	Bytes      uint64 // and their bytes
	Delivered  uint64 // packets that arrive, copies included
	Duplicated uint64 // copies made
	Corrupted  uint64 // delivered with a bit flipped
	Reordered  uint64 // delivered late, for others to overtake

	Lost       uint64 // dropped by Loss
	QueueFull  uint64 // dropped at the end of a full queue
	TooLarge   uint64 // dropped by MTU
	Blackholed uint64 // dropped by Blackhole
	Overflow   uint64 // dropped since too much was on the way for this process to hold; never by a Pipe itself

	MaxQueue int           // bytes: the longest queue there was
	Waited   time.Duration // by all packets together, from their coming until the rate had sent them
	Marked   uint64        // packets that came without CE and were delivered with it
}

// MeanWait is how long a packet that the queue took was in it on average, with the time to send it.
func (s *Stats) MeanWait() time.Duration {
	taken := s.Admitted - s.QueueFull - s.TooLarge - s.Blackholed - s.Overflow
	if taken == 0 {
		return 0
	}
	return s.Waited / time.Duration(taken)
}

// Dropped is the number of packets dropped, whatever the cause.
func (s *Stats) Dropped() uint64 {
	return s.Lost + s.QueueFull + s.TooLarge + s.Blackholed + s.Overflow
}

// NewPipe returns a pipe for im, which must be valid.
func NewPipe(im Impairment, seed uint64) *Pipe {
	p := &Pipe{dice: roll(seed)}
	p.Set(im)
	return p
}

// Set changes what the pipe does to packets from now on; those in the queue or on the way stay as they are.
func (p *Pipe) Set(im Impairment) {
	if im.Queue == 0 {
		im.Queue = DefaultQueue(im.Rate)
	}
	if im.Gap == 0 {
		im.Gap = DefaultGap
	}
	p.im, p.residue = im, 0
}

// Stats returns what has been counted so far.
func (p *Pipe) Stats() Stats { return p.stats }

// Admit is AdmitECN for a packet whose sender doesn't know of ECN.
func (p *Pipe) Admit(now time.Time, size int) []Delivery { return p.AdmitECN(now, size, NotECT) }

// AdmitECN takes a packet of size bytes at the time now, which never goes back from one call to the next, and returns when it
// arrives: never, once, or twice. The result is good until the next call.
func (p *Pipe) AdmitECN(now time.Time, size int, ecn ECN) []Delivery {
	p.stats.Admitted++
	p.stats.Bytes += uint64(size)
	t := p.dice.throw(&p.im, &p.bad)
	switch {
	case p.im.Blackhole:
		p.stats.Blackholed++
		return nil
	case p.im.MTU > 0 && size > p.im.MTU:
		p.stats.TooLarge++
		return nil
	}
	sent, ok := p.enqueue(now, size)
	if !ok {
		p.stats.QueueFull++
		return nil
	}
	p.stats.Waited += sent.Sub(now)
	if t.lost {
		p.stats.Lost++
		return nil
	}
	was := ecn
	ecn = p.im.passed(ecn, p.im.Mark > 0 && p.backlog > p.im.Mark)
	if ecn == CE && was != CE {
		p.stats.Marked++
	}
	p.delivery[0] = Delivery{At: p.arrival(sent, &t), ECN: ecn, Flip: -1}
	p.stats.Delivered++
	if t.corrupt && size > 0 {
		p.delivery[0].Flip = int(t.where * float64(size*8))
		p.stats.Corrupted++
	}
	if !t.duplicate {
		return p.delivery[:1]
	}
	p.delivery[1] = Delivery{At: p.delivery[0].At, ECN: ecn, Flip: -1}
	p.stats.Delivered++
	p.stats.Duplicated++
	return p.delivery[:2]
}

// enqueue returns when the last bit of a packet has been sent at the path's rate, or false if the queue has no room for it.
func (p *Pipe) enqueue(now time.Time, size int) (time.Time, bool) {
	for p.head < len(p.queue) && !p.queue[p.head].sent.After(now) {
		p.backlog -= p.queue[p.head].size
		p.head++
	}
	if p.head == len(p.queue) {
		p.queue, p.head = p.queue[:0], 0
	} else if p.head > len(p.queue)/2 {
		p.queue = p.queue[:copy(p.queue, p.queue[p.head:])]
		p.head = 0
	}
	if p.im.Rate == 0 {
		// After a rate was lifted nobody overtakes those who still wait for it.
		if p.head < len(p.queue) {
			now = p.free
		}
		return now, true
	}
	size = max(size, 1) // so that the queue holds only so many empty packets, too
	if p.backlog+size > p.im.Queue {
		return time.Time{}, false
	}
	if p.free.Before(now) {
		p.free, p.residue = now, 0
	}
	// Exactly size*8/rate seconds: what is left of a nanosecond is carried over.
	work := int64(size)*8*int64(time.Second) + p.residue
	p.free = p.free.Add(time.Duration(work / p.im.Rate))
	p.residue = work % p.im.Rate
	p.queue = append(p.queue, waiting{p.free, size})
	p.backlog += size
	p.stats.MaxQueue = max(p.stats.MaxQueue, p.backlog)
	return p.free, true
}

// arrival is when a packet that left the queue at the time sent reaches the other end.
func (p *Pipe) arrival(sent time.Time, t *throw) time.Time {
	delay := p.im.Delay + time.Duration(t.jitter*float64(p.im.Jitter))
	at := sent.Add(min(max(delay, 0), maxDelay))
	if !p.im.Unordered && at.Before(p.last) {
		at = p.last
	}
	if t.reorder {
		p.stats.Reordered++
		return at.Add(p.im.Gap) // and nobody needs to wait for it
	}
	p.last = at
	return at
}

// dice are random streams, one for each kind of mishap.
type dice struct{ loss, duplicate, corrupt, where, reorder, jitter *rand.Rand }

func roll(seed uint64) dice {
	var stream uint64
	next := func() *rand.Rand {
		stream++
		return rand.New(rand.NewPCG(seed, stream))
	}
	return dice{loss: next(), duplicate: next(), corrupt: next(), where: next(), reorder: next(), jitter: next()}
}

// A throw is what chance has in store for one packet.
type throw struct {
	lost, duplicate, corrupt, reorder bool

	where  float64 // of the flipped bit, 0 to 1
	jitter float64 // in units of Jitter
}

// throw throws all dice, also those whose result won't matter: packet i+1 shall not depend on what happened to packet i.
func (d *dice) throw(im *Impairment, bad *bool) throw {
	t := throw{
		duplicate: d.duplicate.Float64() < im.Duplicate,
		corrupt:   d.corrupt.Float64() < im.Corrupt,
		where:     d.where.Float64(),
		reorder:   d.reorder.Float64() < im.Reorder,
	}
	*bad = d.loss.Float64() < lossChance(im, *bad)
	t.lost = *bad
	u := d.jitter.Float64()
	switch im.Shape {
	case Uniform:
		t.jitter = 2*u - 1
	case Normal:
		t.jitter = min(max(math.Sqrt2*math.Erfinv(2*u-1), -8), 8) // u may be 0
	case Pareto:
		t.jitter = 2 * (math.Pow(1-u, -1.0/3) - 1)
	}
	return t
}

// lossChance is the chance of the next packet to be lost, after one that was (bad) or wasn't: Gilbert's model, which is that of
// Elliott (1963) with nothing lost in the good state and everything in the bad one. A burst of mean length b ends with the
// chance 1/b at each packet; bursts start as often as the mean loss demands.
func lossChance(im *Impairment, bad bool) float64 {
	switch {
	case im.Burst <= 1 || im.Loss == 1:
		return im.Loss
	case bad:
		return 1 - 1/im.Burst
	}
	return im.Loss / im.Burst / (1 - im.Loss)
}
