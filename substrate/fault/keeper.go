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
	if l.conn.net.cfg.Keeps {
		return &keeper{Link: l}
	}
	return l
}

func (l *Link) own() *Link { return l }

// Send: see Link.Send.
func (k *keeper) Send(off uint64, bufs [][]byte) (int, error) {
	k.mu.Lock()
	if done := k.Taken() - k.start; done > 0 {
		k.bytes = append(k.bytes[:0], k.bytes[done:]...)
		k.start += done
	}
	for _, b := range bufs {
		k.bytes = append(k.bytes, b...)
	}
	k.mu.Unlock()
	n, err := k.Link.Send(off, bufs)
	k.mu.Lock()
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	k.bytes = k.bytes[:len(k.bytes)-(total-n)]
	k.mu.Unlock()
	return n, err
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
