package fault

import (
	"sync"

	"github.com/sockemu/sockemu/substrate"
)

// A keeper is a Link that keeps what its peer hasn't received (Config.Keeps).
type keeper struct {
	*Link
	mu    sync.Mutex
	bytes []byte // from position start on
	start uint64
}

var _ substrate.Keeper = (*keeper)(nil)

// wrap gives l what the configuration asks for.
func (l *Link) wrap() substrate.Link {
	switch cfg := l.conn.net.cfg; {
	case cfg.Keeps && cfg.Gather > 0:
		return gatherer{&keeper{Link: l}, cfg.Gather}
	case cfg.Keeps:
		return &keeper{Link: l}
	case cfg.Retains && cfg.Borrow > 0:
		return &borrower{Link: l, least: cfg.Borrow}
	}
	return l
}

// A gatherer is a keeper for which small writes are gathered.
type gatherer struct {
	*keeper
	most int
}

func (g gatherer) Gather() int { return g.most }

func (l *Link) own() *Link { return l }

// keepPiece bounds what is kept before it is known whether the link takes it.
const keepPiece = 64 << 10

// Send: see Link.Send.
func (k *keeper) Send(off uint64, bufs [][]byte) (int, error) {
	total := 0
	for _, b := range bufs {
		for len(b) > 0 {
			p := b[:min(len(b), keepPiece)]
			k.keep(p)
			n, err := k.Link.Send(off, [][]byte{p})
			k.unkeep(len(p) - n)
			total += n
			if err != nil {
				return total, err
			}
			b = b[n:]
			if off != substrate.Unkept {
				off += uint64(n)
			}
		}
	}
	if total == 0 {
		return k.Link.Send(off, nil) // says whether the link still lives
	}
	return total, nil
}

func (k *keeper) keep(p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if done := k.Taken() - k.start; done > 0 {
		k.bytes = append(k.bytes[:0], k.bytes[done:]...)
		k.start += done
	}
	k.bytes = append(k.bytes, p...)
}

func (k *keeper) unkeep(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bytes = k.bytes[:len(k.bytes)-n]
}

// Taken is the position up to which the peer has received.
func (k *keeper) Taken() uint64 {
	k.conn.mu.Lock()
	defer k.conn.mu.Unlock()
	return k.out().read
}

// Kept returns what was sent from position from on.
func (k *keeper) Kept(from uint64) [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.bytes[from-k.start:]; len(b) > 0 {
		return [][]byte{b[:len(b)/2], b[len(b)/2:]}
	}
	return nil
}
