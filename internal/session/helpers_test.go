package session

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testGID  = gid.GID{0xab, 1}
	testPeer = gid.ProcessID{0xcd, 2}
)

// fakeEnv is a process that can't dial.
type fakeEnv struct{}

func (fakeEnv) Resume(context.Context, *Session, wire.Setup, func() error) (NewLink, error) {
	return NewLink{}, errors.New("no network here")
}
func (fakeEnv) CanDial(*Session) bool { return false }
func (fakeEnv) Bound(*Session)        {}
func (fakeEnv) Ended(*Session)        {}

// fakeChannel takes records and forgets them.
type fakeChannel struct {
	mu    sync.Mutex
	posts int
	last  wire.Record
}

func (c *fakeChannel) Proc() gid.ProcessID { return testPeer }
func (c *fakeChannel) Post(r *wire.Record) {
	c.mu.Lock()
	c.posts++
	c.last = *r
	c.mu.Unlock()
}
func (c *fakeChannel) PostLater(*Session) {}

// fakeLink delivers what it was made with, then says so and waits. What is sent on it vanishes, unless send is set.
type fakeLink struct {
	mu       sync.Mutex
	in       []byte
	eof      bool          // after in the stream ends
	piece    int           // a Recv returns no more than this; 0: no bound
	empty    chan struct{} // closed when everything was delivered
	drained  bool
	gone     chan struct{} // closed by Interrupt
	closed   chan struct{}
	deadline chan struct{} // replaced and closed by a deadline in the past
	send     func(n int) (int, error)
	sent     int
}

func newFakeLink(in []byte) *fakeLink {
	return &fakeLink{in: in, empty: make(chan struct{}), gone: make(chan struct{}), closed: make(chan struct{}), deadline: make(chan struct{})}
}

func (l *fakeLink) feed(p []byte) {
	l.mu.Lock()
	l.in = append(l.in, p...)
	l.kick()
	l.mu.Unlock()
}

func (l *fakeLink) kick() {
	close(l.deadline)
	l.deadline = make(chan struct{})
}

func (l *fakeLink) Send(_ uint64, bufs [][]byte) (int, error) {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	select {
	case <-l.gone:
		return 0, substrate.ErrInterrupted
	default:
	}
	l.mu.Lock()
	l.sent += n
	send := l.send
	l.mu.Unlock()
	if send != nil {
		return send(n)
	}
	return n, nil
}

func (l *fakeLink) Recv(p []byte) (int, error) {
	for first := true; ; first = false {
		l.mu.Lock()
		select {
		case <-l.gone:
			l.mu.Unlock()
			return 0, substrate.ErrInterrupted
		default:
		}
		if l.piece > 0 {
			p = p[:min(len(p), l.piece)]
		}
		if n := copy(p, l.in); n > 0 {
			l.in = l.in[n:]
			l.mu.Unlock()
			return n, nil
		}
		if !l.drained {
			l.drained = true
			close(l.empty)
		}
		if l.eof {
			l.mu.Unlock()
			return 0, io.EOF
		}
		woken := l.deadline
		l.mu.Unlock()
		if !first {
			return 0, os.ErrDeadlineExceeded
		}
		select {
		case <-woken:
		case <-l.gone:
		}
	}
}

func (l *fakeLink) Drain(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := copy(p, l.in)
	l.in = l.in[n:]
	return n, nil
}

func (l *fakeLink) SetRecvDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		l.mu.Lock()
		l.kick()
		l.mu.Unlock()
	}
	return nil
}

func (l *fakeLink) Interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.gone:
	default:
		close(l.gone)
	}
}

func (l *fakeLink) Close() error {
	l.Interrupt()
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *fakeLink) Release(uint64)                  {}
func (l *fakeLink) SetSendDeadline(time.Time) error { return nil }
func (l *fakeLink) Cost() substrate.Cost            { return substrate.Cost{} }
func (l *fakeLink) LocalAddr() net.Addr             { return &net.UnixAddr{Name: "here"} }
func (l *fakeLink) RemoteAddr() net.Addr            { return &net.UnixAddr{Name: "there"} }

// bound returns an accepting session over l, whose peer may send and be sent everything.
func bound(t testing.TB, l *fakeLink, cfg Config, pool *Pool) *Session {
	s := New(testGID, false, [32]byte{1}, cfg, fakeEnv{}, pool)
	err := s.Bind(NewLink{Link: l, Name: "fake", LinkNo: 1, Peer: wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 1, Limit: 1 << 62}})
	require.NoError(t, err)
	return s
}

// finish ends s and checks that nothing of it is left.
func finish(t testing.TB, s *Session, l *fakeLink) {
	s.Abort(net.ErrClosed, "the test is over")
	within(t, s.Done(), "the session doesn't end")
	s.Close()
	if l != nil {
		within(t, l.closed, "the link isn't closed")
	}
	for range 5000 { // a pull may just be leaving
		if s.pool.Used() == 0 {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Errorf("%d bytes were not given back", s.pool.Used())
}

// within fails the test if ch isn't closed soon: a hang in real time.
func within(t testing.TB, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
		return
	default:
	}
	tm := time.NewTimer(20 * time.Second)
	defer tm.Stop()
	select {
	case <-ch:
	case <-tm.C:
		t.Fatal(what)
	}
}
