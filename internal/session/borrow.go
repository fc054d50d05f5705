package session

import "github.com/sockemu/sockemu/internal/sys"

// borrows reports whether a write of n bytes goes to the link from the caller's own memory, though the link retransmits.
func (b *binding) borrows(n int) bool { return b.borrower != nil && n >= b.borrower.Borrows() }

// sendBorrowed is sendDirect for a link that retransmits: it has p until it has taken all of it, and then what the peer has not acknowledged by then,
// in the send buffer. The caller holds tx.
func (s *Session) sendBorrowed(b *binding, p []byte) (int, error) {
	off := s.next.Load()
	s.raiseHi(off + uint64(len(p)))
	if !s.probing.Load() {
		s.armProbe() // before Borrow, which may block on a dead path
	}
	n, err := b.borrower.Borrow(off, p)
	end := off + uint64(n)
	s.pollAck()
	s.bmu.Lock()
	from := min(max(s.acked.Load(), off), end)
	if from < end { // also when the connection has ended: the link sends from there until settle closes it, and then clears the buffer
		s.unack.Append(from, p[from-off:n])
		s.views = s.unack.View(s.views[:0], from, int(end-from))
	}
	s.lentFrom = from
	sys.StoreRelease(&s.next, end)
	sys.StoreRelease(&s.sent, end)
	s.bmu.Unlock()
	b.borrower.Return(from, s.views)
	if acked := s.giveBack(b, end); acked > end {
		err = &liedError{acked, end}
	}
	return n, err
}
