package tcp

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// drainWait is how long Drain waits for bytes where it can't ask the kernel without Go's poller.
const drainWait = time.Millisecond

// drain is the space in which Drain talks to the function that it hands to RawConn.Control. A closure over local variables
// would be allocated on each call.
type drain struct {
	read func(fd uintptr)
	p    []byte
	n    int
	err  error
}

// Drain goes past Go's poller, which refuses to read once a deadline has passed, and asks the kernel itself.
func (l *link) Drain(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	raw, err := l.rawConn()
	if err != nil {
		return l.drainByDeadline(p)
	}
	d := &l.drain
	if d.read == nil {
		d.read = func(fd uintptr) { d.n, d.err = sys.RecvNow(fd, d.p) }
	}
	d.p, d.n, d.err = p, 0, nil
	err = raw.Control(d.read)
	d.p = nil
	switch {
	case err != nil:
		return 0, l.recvError(err)
	case d.err == nil && d.n == 0:
		return 0, l.end()
	case d.err == nil:
		return d.n, nil
	case d.err == error(syscall.EAGAIN):
		return 0, nil
	case errors.Is(d.err, errors.ErrUnsupported):
		return l.drainByDeadline(p)
	}
	return 0, l.recvError(d.err)
}

// drainByDeadline reads with a deadline of its own, very near, and puts the real one back.
func (l *link) drainByDeadline(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn.SetReadDeadline(time.Now().Add(drainWait))
	n, err := l.conn.Read(p)
	l.guard(l.conn.SetReadDeadline(l.recvDeadline))
	switch {
	case n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded):
		return n, nil
	}
	return 0, l.recvError(err)
}

// end says what the end of the stream means. The kernel shows one after an orderly close, but also to whoever reads after a
// reset whose error a Send in another goroutine has already taken away; a session must not mistake a reset for an end.
func (l *link) end() error {
	if e := l.broken.Load(); e != nil {
		return e
	}
	if l.ended.Load() || l.stillOpen() {
		return io.EOF
	}
	e := l.newError("recv", syscall.ECONNRESET)
	l.broken.CompareAndSwap(nil, e)
	return e
}

// stillOpen reports that the connection, at whose end of stream we stand, was not reset before that end. Where the kernel
// can't tell it believes the end of stream.
func (l *link) stillOpen() bool {
	raw, err := l.rawConn()
	if err != nil {
		return true
	}
	open := true
	raw.Control(func(fd uintptr) {
		info, err := sys.TCPInfo(fd)
		if err != nil || info.State != sys.TCPClosed {
			return
		}
		// Reset, but when? Linux leaves EPIPE for a reset that followed an orderly end (tcp_reset in net/ipv4/tcp_input.c). Nothing
		// left means that a Send has it and is about to tell.
		open = errors.Is(sys.SocketError(fd), syscall.EPIPE)
	})
	if open {
		l.ended.Store(true)
	}
	return open
}
