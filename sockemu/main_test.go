package sockemu_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/internal/relay"
	"github.com/sockemu/sockemu/sockemu"
)

func TestMain(m *testing.M) {
	// Most tests cut TCP links; a connection that has moved to shared memory wouldn't notice. Those about the choice say so.
	os.Setenv("SOCKEMU_SUBSTRATE", "tcp")
	if mode := os.Getenv(childEnv); mode != "" {
		os.Exit(child(mode))
	}
	flag.Parse()
	if pace == 1 { // most of them wait for cuts and for silence, not for a processor
		if err := flag.Set("test.parallel", strconv.Itoa(max(8, runtime.GOMAXPROCS(0)))); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	sockemu.Default().Close() // the examples use it
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// patience is how long a test waits for what should come at once.
const patience = 30 * time.Second

// quick is a configuration whose times suit tests: everything that takes seconds takes milliseconds.
func quick(change ...func(*sockemu.Config)) sockemu.Config {
	cfg := sockemu.Config{
		Linger: 15 * time.Second, DeadAfter: 600 * time.Millisecond, RetryMin: 2 * time.Millisecond, RetryMax: 20 * time.Millisecond,
		HandshakeTimeout: 10 * time.Second, Fallback: sockemu.FallbackForbid,
	}
	for _, f := range change {
		f(&cfg)
	}
	return cfg
}

func encrypt(cfg *sockemu.Config) { cfg.Security = sockemu.SecurityEncrypt }
func withKey(cfg *sockemu.Config) { cfg.ClusterKey = bytes.Repeat([]byte("k"), 32) }

func newEndpoint(t testing.TB, cfg sockemu.Config) *sockemu.Endpoint {
	t.Helper()
	e, err := sockemu.NewEndpoint(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

// listenAgain listens at an address that was just freed. A program that another test is just starting has a copy of every descriptor between
// its fork and its exec, on a loaded machine for tens of milliseconds: so long the port may be in use.
func listenAgain(t testing.TB, e *sockemu.Endpoint, addr string) *sockemu.Listener {
	t.Helper()
	ctx := testContext(t)
	for {
		l, err := e.Listen(ctx, "tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) || ctx.Err() != nil {
			require.NoError(t, err)
			return l
		}
		<-time.After(time.Millisecond)
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A firewall lets dials through only to the addresses that it is told.
type firewall struct {
	allowed atomic.Pointer[map[string]bool]
}

func (f *firewall) allow(addrs ...string) {
	m := make(map[string]bool)
	for _, a := range addrs {
		m[a] = true
	}
	f.allowed.Store(&m)
}

func (f *firewall) control(_, address string, _ syscall.RawConn) error {
	if m := f.allowed.Load(); m != nil && !(*m)[address] {
		return syscall.EHOSTUNREACH
	}
	return nil
}

// A rig is a client and a server endpoint with a relay in between. The client reaches the server through the relay only, unless
// its firewall is told otherwise: else it would go round an outage, to the address that the server has told it.
type rig struct {
	testing.TB
	cfg            sockemu.Config
	client, server *sockemu.Endpoint
	l              *sockemu.Listener
	relay          *relay.Relay
	wall           firewall
	servers        []*sockemu.Endpoint // all that the relay leads to
	opening        sync.Mutex          // held while a connection is opened, and by whoever cuts
}

func newRig(t testing.TB, change ...func(*sockemu.Config)) *rig {
	t.Helper()
	r := &rig{TB: t, cfg: quick(change...)}
	r.server = newEndpoint(t, r.cfg)
	r.servers = append(r.servers, r.server)
	var err error
	r.l, err = r.server.Listen(testContext(t), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.relay, err = relay.Start(r.l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { r.relay.Close() })
	r.wall.allow(r.relay.Addr())
	ccfg := r.cfg
	ccfg.TCP.Dialer = &net.Dialer{Control: r.wall.control}
	r.client = newEndpoint(t, ccfg)
	return r
}

// pair returns the two ends of a new connection.
func (r *rig) pair() (client, server *sockemu.Conn) {
	r.Helper()
	return pair(r, r.client, r.relay.Addr(), r.l)
}

func pair(t testing.TB, from *sockemu.Endpoint, addr string, l *sockemu.Listener) (client, server *sockemu.Conn) {
	t.Helper()
	c, err := from.Dial(testContext(t), "tcp", addr)
	require.NoError(t, err)
	s, err := l.AcceptConn()
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, x := range []*sockemu.Conn{c, s} {
			x.SetLinger(0)
			x.Close()
		}
	})
	return c, s
}

// DialContext dials through the relay, whatever the address, again and again: one that meets an outage has to try another time, as with TCP.
// Nothing is cut until the server has the connection too: if the last word of a handshake is lost only the client has one, and that ends.
func (r *rig) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	r.opening.Lock()
	defer r.opening.Unlock()
	for {
		before := r.accepted()
		c, err := r.client.Dial(ctx, "tcp", r.relay.Addr())
		if err == nil {
			for range 2000 { // a server that has been replaced doesn't tell
				if r.accepted() > before {
					break
				}
				<-time.After(time.Millisecond)
			}
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (r *rig) accepted() (n uint64) {
	for _, e := range r.servers {
		n += e.Metrics().Accepted
	}
	return n
}

// cutting cuts all connections of the relay every 30 to 100 ms, every fifth time with an outage of 200 ms, until stop is called. Each
// time it waits a little longer: however slow the machine, sooner or later a link lives long enough to get something done.
func (r *rig) cutting() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tm := time.NewTimer(0)
		defer tm.Stop()
		for n := 1; ; n++ {
			tm.Reset(pace * (30*time.Millisecond + rand.N(70*time.Millisecond)) * time.Duration(20+n) / 20)
			select {
			case <-tm.C:
			case <-done:
				return
			}
			r.opening.Lock()
			if n%5 == 0 {
				r.relay.Outage(200 * time.Millisecond)
			} else {
				r.relay.CutAll()
			}
			r.opening.Unlock()
		}
	})
	stop = sync.OnceFunc(func() { close(done); wg.Wait(); r.relay.Refuse(0) })
	r.Cleanup(stop)
	return stop
}

// untilCut calls work again and again, until the relay has cut n connections (fewer where they are cut more slowly) and work has been
// called least times.
func (r *rig) untilCut(n uint64, least int, work func(round int)) {
	r.Helper()
	n = max(n/pace, 4)
	start := time.Now()
	for i := 0; i < least || r.relay.Stats().Cuts < n; i++ {
		require.Less(r, time.Since(start), 4*patience, "round %d, %d cuts", i, r.relay.Stats().Cuts)
		work(i)
	}
}

// random returns n bytes that are the same for the same seed.
func random(seed uint64, n int) []byte {
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

// within fails the test unless f returns in time.
func within(t testing.TB, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s: not within %v", what, d)
	}
}

// eventually waits until ok reports true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, time.Millisecond, what)
}

// echo sends back what it reads, and ends its stream after the peer's.
func echo(c *sockemu.Conn) error {
	if _, err := io.Copy(c, c); err != nil {
		return err
	}
	return c.CloseWrite()
}

// roundTrip sends b and expects an echo of it.
func roundTrip(t testing.TB, c, s net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
		for _, x := range way {
			require.NoError(t, x.SetDeadline(time.Now().Add(patience)))
		}
		_, err := way[0].Write([]byte(text))
		require.NoError(t, err)
		_, err = io.ReadFull(way[1], got)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
		for _, x := range way {
			require.NoError(t, x.SetDeadline(time.Time{}))
		}
	}
}
