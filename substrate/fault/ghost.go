package fault

import (
	"context"
	"net"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// A recording keeps the first bytes that a dialer sends, for a duplicate. The lock of the conn guards it; a nil one
// keeps nothing.
type recording struct {
	buf  []byte
	left int
}

func (r *recording) add(b []byte) {
	if r == nil {
		return
	}
	n := min(len(b), r.left)
	r.buf = append(r.buf, b[:n]...)
	r.left -= n
}

// duplicate records what the dialer sends on c and plays it to the listener on a link of its own, later.
func (d *dial) duplicate(c *conn) {
	rec := &recording{left: d.ghostRNG.IntN(min(d.net.cfg.ReplayBytes, d.net.cfg.Buffer) + 1)}
	c.mu.Lock()
	c.pipes[0].record = rec
	c.mu.Unlock()
	d.later(func() {
		c.mu.Lock()
		c.pipes[0].record = nil
		prefix := rec.buf
		c.mu.Unlock()
		if d.ghost(prefix) {
			d.net.stats.duplicates.Add(1)
		}
	})
}

// hang waits until the dialer gives up, and only then lets its link arrive.
func (d *dial) hang(ctx context.Context) error {
	select {
	case <-ctx.Done():
		d.later(func() {
			if d.ghost(nil) {
				d.net.stats.late.Add(1)
			}
		})
		return ctx.Err()
	case <-d.net.done:
		return net.ErrClosed
	}
}

func (d *dial) later(f func()) {
	d.net.after(time.Duration(1+d.ghostRNG.Int64N(int64(d.net.cfg.ReplayDelay))), f)
}

// ghost offers a link to the listener that nobody has dialled. It carries prefix, and ends later: in an orderly way or by
// a reset. It is dropped if nobody listens or the queue is full.
func (d *dial) ghost(prefix []byte) bool {
	ln := d.net.listenerAt(d.to)
	if ln == nil {
		return false
	}
	c, err := d.net.newConn(d.from, d.to, d.dialled, ^d.seed)
	if err != nil {
		return false
	}
	dialer := &c.ends[0]
	if len(prefix) > 0 {
		dialer.Send(substrate.Unkept, [][]byte{prefix}) // fits into the buffer: it doesn't block
	}
	if !ln.offer(&c.ends[1]) {
		c.ends[1].Close()
		dialer.Close()
		return false
	}
	if ln.closed() {
		ln.flush()
	}
	d.later(func() {
		if d.ghostRNG.IntN(2) == 0 {
			d.net.Cut(dialer)
		}
		dialer.Close()
	})
	return true
}
