package netem

import (
	"sync"
	"time"
)

// maxInFlight bounds the bytes that a line holds: what 5 Gb/s put on the way in 100 ms. What comes beyond is dropped.
const maxInFlight = 64 << 20

// parcelCost is what holding a packet costs beside its bytes: empty ones aren't free.
const parcelCost = 128

// maxSpare bounds the buffers that wait for their next packet.
const maxSpare = 512

// A line carries packets through a Pipe in time: send takes them, out gets them when they arrive, each with whom it is for. out
// is called by one goroutine, in the order of arrival, and must not keep the bytes. It may call other lines' send.
type line[T any] struct {
	out   func(b []byte, ecn ECN, to T)
	alarm alarm
	ended chan struct{}

	mu       sync.Mutex
	pipe     *Pipe
	due      parcels[T]
	seq      uint64 // of parcels: those due at the same time go in the order in which they came
	held     int    // bytes in due and in the hands of out
	overflow uint64
	closed   bool
	spare    [][]byte
}

func newLine[T any](im Impairment, seed uint64, a alarm, out func([]byte, ECN, T)) *line[T] {
	l := &line[T]{out: out, alarm: a, ended: make(chan struct{}), pipe: NewPipe(im, seed)}
	go l.run()
	return l
}

// send puts a copy of b on the way.
func (l *line[T]) send(b []byte, ecn ECN, to T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	now := time.Now()
	if l.held+len(b)+parcelCost > maxInFlight {
		l.overflow++
		return
	}
	for _, d := range l.pipe.AdmitECN(now, len(b), ecn) {
		p := parcel[T]{at: d.At, seq: l.seq, b: append(l.buffer(), b...), ecn: d.ECN, to: to}
		if d.Flip >= 0 {
			p.b[d.Flip/8] ^= 1 << (d.Flip % 8)
		}
		l.seq++
		l.held += len(b) + parcelCost
		l.due.push(p)
		if l.due[0].seq == p.seq {
			l.alarm.set(d.At.Sub(now))
		}
	}
}

// buffer returns an empty buffer.
func (l *line[T]) buffer() []byte {
	if n := len(l.spare); n > 0 {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b[:0]
	}
	return make([]byte, 0, 2048)
}

// run delivers until the line is closed.
func (l *line[T]) run() {
	defer close(l.ended)
	var batch []parcel[T]
	for l.alarm.wait() {
		for batch = l.arrived(batch); len(batch) > 0; batch = l.arrived(batch) {
			for i := range batch {
				l.out(batch[i].b, batch[i].ecn, batch[i].to)
			}
		}
	}
}

// arrived takes the last batch back and returns the packets that are due now. If there are none, it sets the alarm for the next.
func (l *line[T]) arrived(last []parcel[T]) []parcel[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range last {
		l.held -= len(last[i].b) + parcelCost
		if len(l.spare) < maxSpare {
			l.spare = append(l.spare, last[i].b)
		}
	}
	clear(last)
	batch, now := last[:0], time.Now()
	for len(l.due) > 0 && !l.due[0].at.After(now) {
		batch = append(batch, l.due.pop())
	}
	if len(batch) == 0 && len(l.due) > 0 {
		l.alarm.set(l.due[0].at.Sub(now))
	}
	return batch
}

// set changes what the line does to packets that are sent from now on.
func (l *line[T]) set(im Impairment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pipe.Set(im)
}

func (l *line[T]) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.pipe.Stats()
	s.Admitted += l.overflow
	s.Overflow = l.overflow
	return s
}

// close drops what is on the way and waits for out to return. It may be called once.
func (l *line[T]) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.alarm.stop()
	<-l.ended
}
