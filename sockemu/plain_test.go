package sockemu_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/wire"
)

// A plainServer is a TCP server that knows nothing of sockemu.
type plainServer struct {
	l        net.Listener
	accepted atomic.Int32
}

func (s *plainServer) addr() string { return s.l.Addr().String() }

// Accept counts.
func (s *plainServer) Accept() (net.Conn, error) {
	c, err := s.l.Accept()
	if err == nil {
		s.accepted.Add(1)
	}
	return c, err
}

// newPlainServer calls serve for every connection and closes it afterwards.
func newPlainServer(t testing.TB, addr string, serve func(net.Conn)) *plainServer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s := &plainServer{l: l}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := make(map[net.Conn]struct{})
	wg.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = struct{}{}
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

// The ways in which servers answer what they don't understand.
var plainServers = map[string]func(net.Conn){
	"echo":           func(c net.Conn) { io.Copy(c, c) },
	"silent":         func(c net.Conn) { io.Copy(io.Discard, c) },
	"closes at once": func(net.Conn) {},
	"resets":         func(c net.Conn) { c.Read(make([]byte, 1)); c.(*net.TCPConn).SetLinger(0) },
	"banner":         func(c net.Conn) { io.WriteString(c, "SSH-2.0-test\r\n"); io.Copy(io.Discard, c) },
	"http": func(c net.Conn) {
		q, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
			return
		}
		q.Body.Close()
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	},
}

func TestFallback(t *testing.T) {
	t.Parallel()
	for name, serve := range plainServers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newPlainServer(t, "127.0.0.1:0", serve)
			const cache = 3 * time.Second
			e := newEndpoint(t, sockemu.Config{FallbackTimeout: 100 * time.Millisecond, FallbackCache: cache})
			var known time.Time
			for i, accepted := range []int32{2, 3} {
				c, err := e.Dial(testContext(t), "tcp", srv.addr())
				require.NoError(t, err)
				if i == 0 {
					known = time.Now()
				}
				require.True(t, c.Plain())
				require.True(t, c.GID().IsZero())
				require.Equal(t, "plain", c.Stats().State)
				require.Contains(t, c.Explain().String(), "plain TCP")
				_, err = c.Export(t.Context())
				require.ErrorIs(t, err, sockemu.ErrPlain)
				c.SetDeadline(time.Now().Add(patience))
				switch name {
				case "echo":
					c.Write([]byte("hello"))
					c.CloseWrite()
					b, err := io.ReadAll(c)
					require.NoError(t, err)
					require.Equal(t, "hello", string(b))
				case "banner":
					line, err := bufio.NewReader(c).ReadString('\n')
					require.NoError(t, err)
					require.Equal(t, "SSH-2.0-test\r\n", line)
				case "http":
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					line, err := bufio.NewReader(c).ReadString('\n')
					require.NoError(t, err)
					require.Equal(t, "HTTP/1.1 204 No Content\r\n", line)
				}
				require.NoError(t, c.Close())
				eventually(t, "accepted", func() bool { return srv.accepted.Load() >= accepted })
				require.Equal(t, accepted, srv.accepted.Load(), "dial %d: the second is to remember what the first found", i)
			}
			if name != "echo" {
				return
			}
			// Later it asks again.
			<-time.After(time.Until(known.Add(cache)))
			c, err := e.Dial(testContext(t), "tcp", srv.addr())
			require.NoError(t, err)
			c.Close()
			eventually(t, "accepted", func() bool { return srv.accepted.Load() == 5 })
		})
	}
}

func TestFallbackOfHTTPClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "plain") })}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	e := newEndpoint(t, sockemu.Config{})
	tr := &http.Transport{DialContext: (&sockemu.Dialer{Endpoint: e}).DialContext}
	defer tr.CloseIdleConnections()
	p, err := (&http.Client{Transport: tr}).Get("http://" + l.Addr().String())
	require.NoError(t, err)
	defer p.Body.Close()
	b, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	require.Equal(t, "plain", string(b))
}

func TestNoFallback(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*sockemu.Config)
	}{
		{"forbidden", func(cfg *sockemu.Config) { cfg.Fallback = sockemu.FallbackForbid }},
		{"cluster key", withKey},
		{"encryption", encrypt},
	} {
		for name, serve := range plainServers {
			t.Run(tc.name+"/"+name, func(t *testing.T) {
				srv := newPlainServer(t, "127.0.0.1:0", serve)
				cfg := sockemu.Config{HandshakeTimeout: patience}
				if name == "silent" {
					cfg.HandshakeTimeout = 200 * time.Millisecond
				}
				tc.change(&cfg)
				e := newEndpoint(t, cfg)
				_, err := e.Dial(testContext(t), "tcp", srv.addr())
				if name == "silent" {
					// Nothing says that it isn't a slow sockemu peer: a time-out, for programs that check.
					var ne net.Error
					require.ErrorAs(t, err, &ne)
					require.True(t, ne.Timeout(), "%v", err)
				} else if !errors.Is(err, syscall.ECONNRESET) { // a reset can come from anybody on the way
					require.ErrorIs(t, err, sockemu.ErrNotSockemu)
				}
				var op *net.OpError
				require.ErrorAs(t, err, &op)
				require.Equal(t, int32(1), srv.accepted.Load())
			})
		}
	}
}

// TestNoDowngrade: an address that has spoken sockemu and now answers otherwise is an attack or a mistake.
func TestNoDowngrade(t *testing.T) {
	t.Parallel()
	b := newEndpoint(t, quick())
	l, err := b.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	a := newEndpoint(t, sockemu.Config{FallbackTimeout: time.Second, HandshakeTimeout: 2 * time.Second})
	c, s := pair(t, a, l.Addr().String(), l)
	require.False(t, c.Plain())
	c.Close()
	s.Close()
	require.NoError(t, b.Close())
	for name, serve := range plainServers {
		t.Run(name, func(t *testing.T) {
			newPlainServer(t, l.Addr().String(), serve)
			c, err := a.Dial(testContext(t), "tcp", l.Addr().String())
			require.Error(t, err)
			require.Nil(t, c)
		})
	}
}

// TestAcceptPlain serves clients of all kinds on one port.
func TestAcceptPlain(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, quick(func(cfg *sockemu.Config) { cfg.AcceptPlain, cfg.PlainWait = true, time.Second }))
	l, err := e.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.WriteString(c, "welcome\n")
				io.Copy(c, c)
			})
		}
	})
	defer wg.Wait()
	defer l.Close()
	long := string(random(1, 100_000))
	for _, tc := range []struct {
		name  string
		send  []string // piece by piece
		first bool     // the server is to speak first
	}{
		{"client first", []string{"GET / HTTP/1.1\r\n\r\n"}, false},
		{"one byte", []string{"x"}, false},
		{"much", []string{long}, false},
		{"starts like sockemu", []string{wire.Magic[:3] + "!", long}, false},
		{"starts like sockemu, slowly", []string{wire.Magic[:1], wire.Magic[1:4], "!"}, false},
		{"says nothing at first", []string{"hello"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			rd := bufio.NewReader(c)
			if tc.first {
				line, err := rd.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "welcome\n", line)
			}
			go func() {
				for i, p := range tc.send {
					if i > 0 {
						<-time.After(10 * time.Millisecond)
					}
					io.WriteString(c, p)
				}
				c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(rd)
			require.NoError(t, err)
			want := strings.Join(tc.send, "")
			if !tc.first {
				want = "welcome\n" + want
			}
			require.True(t, want == string(got), "%d bytes, not %d", len(got), len(want))
		})
	}
	t.Run("sockemu", func(t *testing.T) {
		c, err := newEndpoint(t, quick()).Dial(testContext(t), "tcp", l.Addr().String())
		require.NoError(t, err)
		require.False(t, c.Plain())
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, long)
		require.NoError(t, c.CloseWrite())
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.True(t, "welcome\n"+long == string(got))
		require.NoError(t, c.Close())
	})
}

// TestPlainReadsAtOnce: what was read to find a plain client out goes to one of the Reads that wait, and each byte once.
func TestPlainReadsAtOnce(t *testing.T) {
	e := newEndpoint(t, quick(func(cfg *sockemu.Config) { cfg.AcceptPlain = true }))
	l, err := e.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	for range 20 {
		nc, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		_, err = nc.Write([]byte("GET /123"))
		require.NoError(t, err)
		s, err := l.AcceptConn()
		require.NoError(t, err)
		require.True(t, s.Plain())
		require.NoError(t, nc.Close())
		var n atomic.Int64
		var g sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			g.Go(func() {
				<-start
				for p := make([]byte, 1); ; n.Add(1) {
					if _, err := s.Read(p); err != nil {
						return
					}
				}
			})
		}
		close(start)
		g.Wait()
		require.EqualValues(t, 8, n.Load())
		s.Close()
	}
}

// TestPlainClientIsRefused: without AcceptPlain a plain client gets an end, not silence, and the application never sees it.
func TestPlainClientIsRefused(t *testing.T) {
	r := newRig(t)
	c, err := net.Dial("tcp", r.l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	b, err := io.ReadAll(c)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
	require.Less(t, len(b), 100)
	a, s := r.pair() // the next in the queue is a real one
	roundTrip(t, a, s, "hello")
}
