package shm

import "github.com/sockemu/sockemu/internal/sys"

// Taken is the peer's cursor, as far as it makes sense.
func (l *link) Taken() uint64 {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	if l.mem != nil {
		head := l.out.shared.head.Load()
		sys.Observed()
		if head-l.taken <= l.out.sent.Load()-l.taken {
			l.taken = head
		}
	}
	return l.taken
}

// Kept returns what is in the ring from position from on. The peer may go on to receive meanwhile: only Send overwrites.
func (l *link) Kept(from uint64) [][]byte {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	if l.mem == nil {
		return nil
	}
	return l.out.kept(from)
}
