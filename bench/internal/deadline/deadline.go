// Package deadline has the deadlines of connections whose calls look at them by themselves: those of C libraries.
package deadline

import (
	"errors"
	"sync/atomic"
	"time"
)

// Pair has a connection's two deadlines, in ns since 1970; 0 is none. They concern calls that begin later.
type Pair struct{ Read, Write atomic.Int64 }

// SetDeadline sets both.
func (p *Pair) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}

// SetReadDeadline bounds Reads.
func (p *Pair) SetReadDeadline(t time.Time) error { return set(&p.Read, t) }

// SetWriteDeadline bounds Writes.
func (p *Pair) SetWriteDeadline(t time.Time) error { return set(&p.Write, t) }

func set(d *atomic.Int64, t time.Time) error {
	if t.IsZero() {
		d.Store(0)
	} else {
		d.Store(t.UnixNano())
	}
	return nil
}
