package netem

import "time"

// A parcel is a packet on its way.
type parcel[T any] struct {
	at  time.Time
	seq uint64
	b   []byte
	ecn ECN
	to  T
}

func (p *parcel[T]) before(q *parcel[T]) bool {
	if c := p.at.Compare(q.at); c != 0 {
		return c < 0
	}
	return p.seq < q.seq
}

// parcels is a binary heap: the first is the next to arrive. container/heap would allocate for each packet.
type parcels[T any] []parcel[T]

func (h *parcels[T]) push(p parcel[T]) {
	s := append(*h, p)
	*h = s
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !p.before(&s[up]) {
			break
		}
		s[i] = s[up]
		i = up
	}
	s[i] = p
}

func (h *parcels[T]) pop() parcel[T] {
	s := *h
	first, last, n := s[0], s[len(s)-1], len(s)-1
	s[n] = parcel[T]{}
	s = s[:n]
	*h = s
	for i := 0; n > 0; {
		down := 2*i + 1
		if down+1 < n && s[down+1].before(&s[down]) {
			down++
		}
		if down >= n || !s[down].before(&last) {
			s[i] = last
			break
		}
		s[i] = s[down]
		i = down
	}
	return first
}
