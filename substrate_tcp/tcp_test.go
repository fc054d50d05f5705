package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the two ends of a link over loopback.
func pair(tb testing.TB, opts Options) (dialed, accepted substrate.Link) {
	tb.Helper()
	s := New(opts)
	ln, err := s.Listen(tb.Context(), "127.0.0.1:0")
	require.NoError(tb, err)
	defer ln.Close()
	dialed, err = s.Dial(tb.Context(), ln.Addr().String())
	require.NoError(tb, err)
	tb.Cleanup(func() { dialed.Close() })
	accepted, err = ln.Accept()
	require.NoError(tb, err)
	tb.Cleanup(func() { accepted.Close() })
	return dialed, accepted
}

func TestHotPathAllocatesNothing(t *testing.T) {
	a, b := pair(t, Options{})
	one := [][]byte{make([]byte, 128)}
	many := [][]byte{make([]byte, 10), nil, make([]byte, 100), make([]byte, 18)}
	p := make([]byte, 128)
	r := io.Reader(recvReader{b})
	for name, bufs := range map[string][][]byte{"one buffer": one, "several": many} {
		require.Zerof(t, testing.AllocsPerRun(200, func() {
			if n, err := a.Send(0, bufs); n != 128 || err != nil {
				t.Fatal(n, err)
			}
			if _, err := io.ReadFull(r, p); err != nil {
				t.Fatal(err)
			}
		}), "Send of %s and Recv", name)
	}
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if n, err := b.Drain(p); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}), "Drain of an idle link")
}

type recvReader struct{ substrate.Link }

func (r recvReader) Read(p []byte) (int, error) { return r.Recv(p) }

// TestSendLeavesListAlone: net.Buffers eats the list it is given, so it mustn't be the caller's.
func TestSendLeavesListAlone(t *testing.T) {
	a, b := pair(t, Options{})
	bufs := [][]byte{[]byte("ab"), []byte("cd")}
	for range 2 {
		n, err := a.Send(0, bufs)
		require.NoError(t, err)
		require.Equal(t, 4, n)
		require.Equal(t, [][]byte{[]byte("ab"), []byte("cd")}, bufs)
	}
	p := make([]byte, 8)
	_, err := io.ReadFull(recvReader{b}, p)
	require.NoError(t, err)
	require.Equal(t, "abcdabcd", string(p))
	// Nor does the link hold on to it.
	for _, kept := range a.(*link).vecStore[:2] {
		require.Nil(t, kept)
	}
}

// TestFailedSendKeepsNothing: slices that were not sent are the session's again, the link doesn't hold on to them.
func TestFailedSendKeepsNothing(t *testing.T) {
	a, _ := pair(t, Options{})
	require.NoError(t, a.SetSendDeadline(time.Now().Add(time.Millisecond)))
	bufs := [][]byte{make([]byte, 32<<20), make([]byte, 32<<20)}
	_, err := a.Send(0, bufs)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, [][]byte{nil, nil}, a.(*link).vecStore)
}

// A forgetful conn behaves like a kernel after a reset: who writes learns of it, who reads sees an end.
type forgetful struct{ net.Conn }

func (forgetful) Write([]byte) (int, error) { return 0, syscall.ETIMEDOUT }
func (forgetful) Read([]byte) (int, error)  { return 0, io.EOF }
func (forgetful) RemoteAddr() net.Addr      { return nil }

func TestBreakIsNotForgotten(t *testing.T) {
	l := WrapConn(forgetful{})
	_, err := l.Recv(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	l = WrapConn(forgetful{})
	_, err = l.Send(0, [][]byte{{1}})
	require.ErrorIs(t, err, substrate.ErrPathDown)
	_, err = l.Recv(make([]byte, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
}

func TestDialClasses(t *testing.T) {
	s := New(Options{Dialer: &net.Dialer{Resolver: &net.Resolver{
		PreferGo: true, // to ask a name server that is down
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ENETUNREACH },
	}}})
	for address, want := range map[string]substrate.Class{
		closedPort(t):             substrate.Refused,
		"":                        substrate.Config,
		"127.0.0.1":               substrate.Config,
		"127.0.0.1:no-such-name":  substrate.Config,
		"127.0.0.1:70000":         substrate.Config,
		"[::1:80":                 substrate.Config,
		"down.example.invalid:80": substrate.PathDown, // the name may exist
	} {
		_, err := s.Dial(t.Context(), address)
		require.Errorf(t, err, "%q", address)
		require.Equalf(t, want, substrate.ClassOf(err), "%q: %v", address, err)
		require.ErrorContains(t, err, "dial over tcp")
	}
}

func TestListenClasses(t *testing.T) {
	s := New(Options{})
	ln, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	_, err = s.Listen(t.Context(), ln.Addr().String())
	require.ErrorIs(t, err, substrate.ErrConfig)
	_, err = s.Listen(t.Context(), "127.0.0.1:70000")
	require.ErrorIs(t, err, substrate.ErrConfig)
}

// TestErrnoClasses: kernels say in many ways that a path is down, in one that nobody listens.
func TestErrnoClasses(t *testing.T) {
	for errno, want := range map[syscall.Errno]substrate.Class{
		refusals[0]:          substrate.Refused,
		syscall.ECONNRESET:   substrate.PathDown,
		syscall.EPIPE:        substrate.PathDown,
		syscall.ETIMEDOUT:    substrate.PathDown,
		syscall.EHOSTUNREACH: substrate.PathDown,
		syscall.ENETUNREACH:  substrate.PathDown,
		syscall.ENETDOWN:     substrate.PathDown,
		syscall.EAFNOSUPPORT: substrate.Config,
	} {
		err := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}
		require.Equalf(t, want, dialClass(err), "%v", errno)
	}
}

// TestDialDeadlineIsTheContexts: net may see a deadline pass before the context does; to the caller it is the context's.
func TestDialDeadlineIsTheContexts(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	err := dialError(ctx, "x:1", &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.ErrorIs(t, err, substrate.ErrPathDown)
}

func TestBareErrors(t *testing.T) {
	a, b := pair(t, Options{})
	require.NoError(t, a.SetRecvDeadline(time.Unix(1, 0)))
	_, err := a.Recv(make([]byte, 1))
	require.True(t, err == os.ErrDeadlineExceeded, err)
	require.NoError(t, a.SetSendDeadline(time.Unix(1, 0)))
	_, err = a.Send(0, [][]byte{{1}})
	require.True(t, err == os.ErrDeadlineExceeded, err)
	require.NoError(t, a.Close())
	_, err = b.Recv(make([]byte, 1))
	require.True(t, err == io.EOF, err)
	_, err = a.Recv(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestNetConn: a layer above takes the connection back, clears the deadlines and goes on.
func TestNetConn(t *testing.T) {
	a, b := pair(t, Options{})
	a.Interrupt()
	c := a.(interface{ NetConn() net.Conn }).NetConn()
	require.IsType(t, (*net.TCPConn)(nil), c)
	require.NoError(t, c.SetDeadline(time.Time{}))
	_, err := c.Write([]byte("plain"))
	require.NoError(t, err)
	p := make([]byte, 5)
	_, err = io.ReadFull(recvReader{b}, p)
	require.NoError(t, err)
	require.Equal(t, "plain", string(p))
}

// TestWrapAnyConn: a connection without a descriptor can be a link, too; Drain then waits a moment instead of asking.
func TestWrapAnyConn(t *testing.T) {
	c1, c2 := net.Pipe()
	a, b := WrapConn(c1), WrapConn(c2)
	defer b.Close()
	require.Zero(t, a.Cost())
	n, err := b.Drain(make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n)

	sent := make(chan error, 1)
	go func() {
		_, err := a.Send(0, [][]byte{[]byte("ab"), []byte("cd")})
		sent <- err
	}()
	p := make([]byte, 4)
	_, err = io.ReadFull(recvReader{b}, p[:1])
	require.NoError(t, err)
	b.Interrupt()
	for got := 1; got < 4; got += n {
		n, err = b.Drain(p[got:])
		require.NoError(t, err)
	}
	require.Equal(t, "abcd", string(p))
	require.NoError(t, <-sent)
	_, err = b.Recv(p)
	require.ErrorIs(t, err, substrate.ErrInterrupted, "Drain puts the deadline back")
	require.NoError(t, a.Close())
	_, err = b.Drain(p)
	require.ErrorIs(t, err, io.EOF)
}

func TestCostOf(t *testing.T) {
	require.Zero(t, costOf(sys.TCPStats{RTTVar: time.Second}), "before the first measurement")
	s := sys.TCPStats{RTT: 100, RTTVar: 10, Delivered: 7, SegsOut: 200, Retrans: 10, DeliveryRate: 1e6, SinceAck: 3}
	require.Equal(t, substrate.Cost{
		RTT: 100, Jitter: 10, PerByte: 1000, Loss: 0.05, Samples: 7, Age: 3, Source: substrate.SourceKernel,
	}, costOf(s))
	s.AppLimited, s.Retrans = true, 1000
	c := costOf(s)
	require.Zero(t, c.PerByte, "the rate of a sender with little to say isn't the path's")
	require.EqualValues(t, 1, c.Loss)
}

func TestTemplatesAreKept(t *testing.T) {
	var dials, controls, listens int
	dialer := &net.Dialer{
		ControlContext: func(context.Context, string, string, syscall.RawConn) error { dials++; return nil },
		Control:        func(string, string, syscall.RawConn) error { controls++; return nil }, // hidden, as in net.Dialer
	}
	opts := Options{Dialer: dialer, Nagle: true, KeepAlive: net.KeepAliveConfig{Enable: true, Idle: time.Minute}}
	opts.ListenConfig.Control = func(string, string, syscall.RawConn) error { listens++; return nil }
	a, b := pair(t, opts)
	a.Close()
	b.Close()
	require.Equal(t, []int{1, 0, 1}, []int{dials, controls, listens})
	require.Zero(t, dialer.KeepAliveConfig, "New copies the template")

	dialer.ControlContext = func(context.Context, string, string, syscall.RawConn) error { return errors.New("not today") }
	_, err := New(opts).Dial(t.Context(), closedPort(t))
	require.ErrorContains(t, err, "not today")
}
