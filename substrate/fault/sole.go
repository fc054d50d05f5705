package fault

import "github.com/sockemu/sockemu/substrate"

// A sole is what moves the bytes of a link for a user who closes it last. One who doesn't keep that promise is found out.
type sole struct {
	substrate.Mover
	l *Link
}

var _ substrate.Sole = (*Link)(nil)

// Sole returns the link's Send and Recv for a user who keeps Close apart from them. If he doesn't, they or Close panic.
func (l *Link) Sole() substrate.Mover { return sole{l, l} }

// Sole: see Link.Sole.
func (k *keeper) Sole() substrate.Mover { return sole{k, k.Link} }

func (s sole) Send(off uint64, bufs [][]byte) (int, error) {
	s.enter()
	defer s.leave()
	return s.Mover.Send(off, bufs)
}

func (s sole) Recv(p []byte) (int, error) {
	s.enter()
	defer s.leave()
	return s.Mover.Recv(p)
}

func (s sole) enter() {
	s.l.conn.mu.Lock()
	defer s.l.conn.mu.Unlock()
	if s.l.closed {
		panic("fault: Send or Recv of a Sole after its Close")
	}
	s.l.moving++
}

func (s sole) leave() {
	s.l.conn.mu.Lock()
	s.l.moving--
	s.l.conn.mu.Unlock()
}
