package sockemu

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
)

// Conn is a connection. It is a net.Conn with what TCP connections have besides (CloseWrite, SetLinger, SetNoDelay) and what only
// this layer has (GID, Stats, Explain, Export). All methods are safe for concurrent use.
//
// While there is no path to the peer, Reads wait and Writes fill the send buffer and then wait: the application sees only
// delay, until Config.Patience runs out. LocalAddr and RemoteAddr are virtual: they stay what they were at first wherever the
// two ends move.
type Conn struct {
	e *Endpoint
	s *session.Session // nil for a plain connection

	// A plain connection.
	plain  net.Conn
	why    string
	used   atomic.Bool // head is gone
	headMu sync.Mutex
	head   []byte // read while finding out that the client is a plain one; guarded by headMu
}

var _ net.Conn = (*Conn)(nil)

func newConn(e *Endpoint, s *session.Session) *Conn { return &Conn{e: e, s: s} }

func newPlainConn(e *Endpoint, nc net.Conn, head []byte, why string) *Conn {
	c := &Conn{e: e, plain: nc, head: head, why: why}
	c.used.Store(len(head) == 0)
	return c
}

// Plain reports whether this is plain TCP, because the peer doesn't speak sockemu.
func (c *Conn) Plain() bool { return c.s == nil }

// Read reads the next bytes, straight from the link into p where possible. At the end of the peer's stream it returns io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	if c.s == nil {
		return c.readPlain(p)
	}
	n, err := c.s.Read(p)
	ordered()
	if err != nil && err != io.EOF {
		err = c.opError("read", err)
	}
	return n, err
}

func (c *Conn) readPlain(p []byte) (int, error) {
	if !c.used.Load() && len(p) > 0 {
		c.headMu.Lock()
		n := copy(p, c.head)
		c.head = c.head[n:]
		c.used.Store(len(c.head) == 0)
		c.headMu.Unlock()
		if n > 0 { // else another Read had the rest meanwhile
			return n, nil
		}
	}
	return c.plain.Read(p)
}

// Write writes p. It blocks when the send buffer is full. When it returns without error the bytes are either with the peer or kept
// here for replay; only a Close that returns without error says that the peer's end has all of them.
func (c *Conn) Write(p []byte) (int, error) {
	if c.s == nil {
		return c.plain.Write(p)
	}
	orders()
	n, err := c.s.Write(p)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// Close ends the connection after what has been written, and waits, for the linger time at most, until the peer's end has it
// all. If it can't, the error says how many bytes are unacknowledged: it matches ErrUndelivered, ErrReset, or whatever ended the
// connection.
func (c *Conn) Close() error {
	orders()
	if c.s == nil {
		return c.plain.Close()
	}
	return c.wrap("close", c.s.Close())
}

// CloseWrite ends this side's stream: the peer reads EOF after the last byte. Reading goes on.
func (c *Conn) CloseWrite() error {
	orders()
	if c.s == nil {
		if h, ok := c.plain.(interface{ CloseWrite() error }); ok {
			return h.CloseWrite()
		}
		return c.wrap("close", errors.ErrUnsupported)
	}
	return c.wrap("close", c.s.CloseWrite())
}

// SetLinger sets how long Close waits, in seconds; 0 makes it reset the connection, a negative value restores
// Config.Linger.
func (c *Conn) SetLinger(sec int) error {
	if c.s == nil {
		if t, ok := c.plain.(*net.TCPConn); ok {
			return t.SetLinger(sec)
		}
		return nil
	}
	c.s.SetLinger(sec)
	return nil
}

// SetNoDelay exists because programs call it on TCP connections. Links never delay small writes.
func (c *Conn) SetNoDelay(noDelay bool) error {
	if t, ok := c.plain.(*net.TCPConn); ok {
		return t.SetNoDelay(noDelay)
	}
	return nil
}

// LocalAddr returns the address of this end at set-up, a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr {
	if c.s == nil {
		return c.plain.LocalAddr()
	}
	return c.s.LocalAddr()
}

// RemoteAddr returns the address of the peer at set-up, a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr {
	if c.s == nil {
		return c.plain.RemoteAddr()
	}
	return c.s.RemoteAddr()
}

// SetDeadline sets the read and the write deadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if c.s == nil {
		return c.plain.SetDeadline(t)
	}
	return c.wrap("set", c.s.SetDeadline(t))
}

// SetReadDeadline bounds pending and future Reads; the zero time means none. A Read that it ends may be repeated.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.s == nil {
		return c.plain.SetReadDeadline(t)
	}
	return c.wrap("set", c.s.SetReadDeadline(t))
}

// SetWriteDeadline bounds pending and future Writes; the zero time means none. A Write that it ends tells how much was
// taken and may be continued from there.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.s == nil {
		return c.plain.SetWriteDeadline(t)
	}
	return c.wrap("set", c.s.SetWriteDeadline(t))
}

// GID returns the connection's identity: the same at both ends, for life. A plain connection has the zero GID.
func (c *Conn) GID() gid.GID {
	if c.s == nil {
		return gid.GID{}
	}
	return c.s.GID()
}

// Export takes the connection out of this process and returns it as bytes, for Import in another one (or this one). Bytes
// in flight, unacknowledged and unread ones go along; the peer sees a delay. Blocked and later calls on c return ErrExported. The
// state holds the connection's secret: whoever has it can take the connection. It can be imported once; a second holder is
// fenced off.
func (c *Conn) Export(ctx context.Context) ([]byte, error) {
	if c.s == nil {
		return nil, c.opError("export", ErrPlain)
	}
	state, err := c.e.e.Export(ctx, c.s)
	if err != nil {
		return nil, c.opError("export", err)
	}
	return state, nil
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return c.opError(op, err)
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
