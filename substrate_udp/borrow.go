package udp

import "github.com/sockemu/sockemu/substrate"

// Borrowing: a large Write is sent from the caller's own memory, and what is not acknowledged when all of it has been taken is copied by the
// session then. Over a path within one host that is a small part of it.

var _ substrate.Borrower = (*link)(nil)

const borrowFrom = 256 << 10

// Borrows: see substrate.Borrower.
func (l *link) Borrows() int { return borrowFrom }

// Borrow: see substrate.Borrower.
func (l *link) Borrow(off uint64, p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.borrowed[0], l.loan = p, l.end
	n, err := l.send(off, l.borrowed[:])
	l.borrowed[0] = nil
	return n, err
}

// Return: see substrate.Borrower. It replaces the pieces that Borrow has made.
func (l *link) Return(off uint64, bufs [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.state == gone {
		return // nothing is kept, or copies are
	}
	first := len(l.pieces)
	for first > l.head && l.pieces[first-1].end > l.loan {
		first--
	}
	l.release(first, off)
	from := l.end
	for _, b := range bufs {
		from -= uint64(len(b))
	}
	l.unpush(from)
	for _, b := range bufs {
		from += uint64(len(b))
		off += uint64(len(b))
		l.push(piece{from, b, off, nil})
	}
	l.sender.settle()
}

// unpush lets go of the pieces from an offset of the link's stream on. The one that this offset is in the middle of is in memory of ours.
func (s *sender) unpush(from uint64) {
	for i := len(s.pieces) - 1; i >= s.head && s.pieces[i].end > from; i-- {
		p := &s.pieces[i]
		if start := p.start(); start < from {
			p.data, p.end = p.data[:from-start], from
			return
		}
		if p.mem != nil {
			p.mem.drop()
		}
		*p = piece{}
		s.pieces = s.pieces[:i]
	}
}
