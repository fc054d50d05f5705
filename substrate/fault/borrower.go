package fault

import (
	"bytes"

	"github.com/sockemu/sockemu/substrate"
)

// A borrower is a Link that borrows (Config.Borrow).
type borrower struct {
	*Link
	least int
	loan  uint64 // the position where what is borrowed begins; the conn's lock guards it
}

var _ substrate.Borrower = (*borrower)(nil)

func (b *borrower) Borrows() int { return b.least }

// Borrow is Send. Its slice is read when the receiver reads: before Return, that is, or never.
func (b *borrower) Borrow(off uint64, p []byte) (int, error) {
	s := sole{b.Link, b.Link}
	s.enter()
	defer s.leave()
	b.conn.mu.Lock()
	b.loan = b.out().sent
	b.conn.mu.Unlock()
	return b.Send(off, [][]byte{p})
}

// Return: see substrate.Borrower.
func (b *borrower) Return(off uint64, bufs [][]byte) {
	b.conn.mu.Lock()
	defer b.conn.mu.Unlock()
	if b.closed || b.out().deaf {
		return // what is in flight is a copy, or nobody reads it
	}
	b.out().store.(*held).replace(b.loan, b.base+off, bufs)
}

// replace gives back the slices from position loan on. From position from on bufs take their place, before that copies: the peer's session has
// those bytes by another link, this one must carry them nevertheless.
func (h *held) replace(loan, from uint64, bufs [][]byte) {
	at := h.popped
	for i, s := range h.slices {
		end := at + uint64(len(s))
		if i >= h.owned && end > loan {
			if at >= from {
				h.slices = h.slices[:i]
				break
			}
			end = min(end, from)
			h.slices[i] = bytes.Clone(s[:end-at])
			if end == from {
				at = end
				h.slices = h.slices[:i+1]
				break
			}
		}
		at = end
	}
	for _, b := range bufs {
		if from += uint64(len(b)); from > at {
			h.push(b[len(b)-int(min(from-at, uint64(len(b)))):])
		}
	}
}
