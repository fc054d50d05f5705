package session

import (
	"fmt"

	"github.com/sockemu/sockemu/internal/blocks"
	"github.com/sockemu/sockemu/substrate"
)

// A keep is what a session knows about a link that holds unacknowledged bytes by itself (substrate.Keeper): the send buffer then
// has only what was not handed to the link yet, and gets the rest back when the link is given up. Guarded by tx; what acked needs doesn't change once Session.kept points here.
type keep struct {
	k      substrate.Keeper // nil: the link keeps nothing
	gather int              // writes so short are corked
	marked bool
	pos    uint64 // the link's position of ...
	off    uint64 // ... this stream offset, from which on the link carries the stream and nothing else
	on     bool   // the link has everything in [taken, next), the send buffer [next, sent)
}

// mark notes where the bare stream begins on b. The caller holds tx and has just sent the last byte that is no part of it.
func (s *Session) mark(b *binding) {
	k := &b.keep
	if k.k == nil || k.marked {
		return
	}
	k.pos = end(k.k)
	k.off, k.marked = s.next.Load(), true
	s.kept.Store(k)
}

// end is k's position behind all that it took. No Send is running.
func end(k substrate.Keeper) uint64 {
	pos := k.Taken()
	for _, v := range k.Kept(pos) {
		pos += uint64(len(v))
	}
	return pos
}

// acked returns the stream offset before which the peer's end of the link has taken everything; 0 if it isn't known.
func (k *keep) acked() uint64 {
	if !k.marked {
		return 0
	}
	t := k.k.Taken()
	if t < k.pos {
		return 0
	}
	return k.off + t - k.pos
}

// keeps reports whether b holds what it took from now on, and begins with it as soon as the peer has taken everything that came
// before the bare stream. The caller holds tx.
func (s *Session) keeps(b *binding) bool {
	if b.keep.on || b.keep.k == nil {
		return b.keep.on
	}
	ack := b.keep.acked()
	if ack == 0 {
		return false
	}
	b.keep.on = true
	s.bmu.Lock()
	s.acked.Store(max(s.acked.Load(), ack))
	s.unack.Release(s.next.Load())
	s.bmu.Unlock()
	return true
}

// takeBack moves what the peer has not taken from b into the send buffer. The caller holds tx, and b has been interrupted.
func (s *Session) takeBack(b *binding) error {
	if !b.keep.on {
		return nil
	}
	b.keep.on = false
	s.bmu.Lock()
	defer s.bmu.Unlock()
	if s.over {
		return nil
	}
	from := max(s.acked.Load(), b.keep.acked())
	s.acked.Store(from)
	all := blocks.New(s.pool, from)
	for _, v := range b.keep.k.Kept(b.keep.pos + from - b.keep.off) {
		all.Append(all.End(), v)
	}
	if next := s.next.Load(); all.End() != next {
		return fmt.Errorf("link %d has kept bytes up to %d, but took them up to %d", b.no, all.End(), next)
	}
	for _, v := range s.unack.View(nil, s.unack.Start(), s.unack.Len()) {
		all.Append(all.End(), v)
	}
	s.unack.Clear()
	s.unack = all
	return nil
}
