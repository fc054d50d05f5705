package endpoint

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	shm "github.com/sockemu/sockemu/substrate_shm"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
)

// full is how often a test that takes its time does what it does: few by default, more if the environment says so.
func full(t *testing.T, variable string, few int) int {
	s := os.Getenv(variable)
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// A breaker is a substrate whose links break on demand, at either end, and which can't be had meanwhile.
type breaker struct {
	substrate.Substrate
	mu    sync.Mutex
	links []substrate.Link
	down  bool
}

func (b *breaker) made(l substrate.Link, err error) (substrate.Link, error) {
	if err == nil {
		b.mu.Lock()
		b.links = append(b.links, l)
		b.mu.Unlock()
	}
	return l, err
}

func (b *breaker) Dial(ctx context.Context, addr string) (substrate.Link, error) {
	b.mu.Lock()
	down := b.down
	b.mu.Unlock()
	if down {
		return nil, &substrate.Error{Op: "dial", Substrate: b.Name(), Peer: addr, Class: substrate.PathDown, Err: errors.New("broken for the test")}
	}
	return b.made(b.Substrate.Dial(ctx, addr))
}

func (b *breaker) Listen(ctx context.Context, addr string) (substrate.Listener, error) {
	l, err := b.Substrate.Listen(ctx, addr)
	return breakable{l, b}, err
}

type breakable struct {
	substrate.Listener
	b *breaker
}

func (l breakable) Accept() (substrate.Link, error) { return l.b.made(l.Listener.Accept()) }

// cut breaks the links there are.
func (b *breaker) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.links {
		l.Interrupt() // what it keeps is there until its session closes it
	}
	b.links = nil
}

func (b *breaker) setDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

// A street joins two endpoints of this process by the kernel's TCP and by shared memory.
type street struct {
	roads
	l           *Listener
	atA, atB    *breaker // shared memory, as each end sees it
	tcpA        *breaker
	connections int
}

func newStreet(t *testing.T, cfg Config) *street {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	dir := t.TempDir()
	x := &street{
		atA: &breaker{Substrate: shm.New(shm.Options{Dir: dir})}, atB: &breaker{Substrate: shm.New(shm.Options{Dir: dir})},
		tcpA: &breaker{Substrate: tcp.New(tcp.Options{})},
	}
	cfg.NoWatch = true
	cfg.Session.RetryMin, cfg.Session.RetryMax = 2*time.Millisecond, 20*time.Millisecond
	ca, cb := cfg, cfg
	ca.Substrate, cb.Substrate = x.tcpA, tcp.New(tcp.Options{})
	ca.Others, cb.Others = []Other{{Substrate: x.atA}}, []Other{{Substrate: x.atB}}
	x.ea, x.eb = New(ca), New(cb)
	t.Cleanup(func() { x.ea.Close(); x.eb.Close() })
	var err error
	x.l, err = x.eb.Listen(t.Context(), "127.0.0.1:0", Plain{})
	require.NoError(t, err)
	x.a, x.b = x.connect(t)
	return x
}

func (x *street) connect(t *testing.T) (a, b *session.Session) {
	a, err := x.ea.Dial(t.Context(), x.l.Addr().String(), 0)
	require.NoError(t, err)
	acc, err := x.l.Accept()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, x.ea.AwaitPolicy(ctx, a))
	x.connections++
	return a, acc.Session
}

// force moves the connection, as often as it takes.
func (x *street) force(t *testing.T, name string) {
	for start := time.Now(); on(x.a) != name; <-time.After(time.Millisecond) {
		require.Less(t, time.Since(start), 30*time.Second, "to %s\n%s", name, x.why())
		x.moveTo(name)
	}
}

func allow(text string) func(string) selector.Policy {
	p, err := selector.ParsePolicy(text)
	if err != nil {
		panic(err)
	}
	return func(string) selector.Policy { return p }
}

// TestSwitchesForReal: TestSwitches over the kernel's TCP and real shared memory, some of whose links break at the same time.
// SOCKEMU_TEST_SWITCHES says how many.
func TestSwitchesForReal(t *testing.T) {
	n := full(t, "SOCKEMU_TEST_SWITCHES", fewer(15, 5))
	for _, seal := range []bool{false, true} {
		t.Run(fmt.Sprintf("seal=%v", seal), func(t *testing.T) {
			x := newStreet(t, Config{Session: session.Config{Seal: seal}})
			stop, done := make(chan struct{}), make(chan error, 1)
			go func() { done <- chatter(x.a, x.b, 20_000, 0, stop) }()
			links := []*breaker{x.atA, x.atB, x.tcpA}
			start := time.Now()
			moved := 0
			for i := 0; moved < n; i++ {
				require.Less(t, time.Since(start), time.Minute+time.Duration(n)*5*time.Second, "%d moves\n%s", moved, x.why())
				select {
				case err := <-done:
					require.NoError(t, err, x.why())
					t.Fatal("the streams have ended")
				case <-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond):
				}
				to := "shm"
				if on(x.a) == "shm" {
					to = "tcp"
				}
				if i%7 == 6 {
					go links[rand.IntN(len(links))].cut()
				}
				if x.moveTo(to) == nil {
					moved++
				}
			}
			took := time.Since(start)
			close(stop)
			require.NoError(t, <-done)
			s := x.a.Snapshot()
			t.Logf("%d moves in %v, %d links lost, %d MB, every byte once and in order", s.Moved, took, s.Lost, (s.Sent+s.Received)>>20)
		})
	}
}

// TestFailover measures how long the application waits for a byte when shared memory breaks under it and can't be had any more, on
// a machine that is busy. SOCKEMU_TEST_FAILOVERS says how often.
func TestFailover(t *testing.T) {
	x := newStreet(t, Config{Choice: selector.Config{Interval: time.Minute}})
	go func() {
		buf := make([]byte, 1000)
		for {
			n, err := x.b.Read(buf)
			if err != nil {
				return
			}
			if _, err := x.b.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	msg := make([]byte, 1000)
	ping := func() time.Duration {
		start := time.Now()
		_, err := x.a.Write(msg)
		require.NoError(t, err)
		require.NoError(t, readFull(x.a, msg))
		return time.Since(start)
	}
	ping()
	for range runtime.NumCPU() {
		hog := exec.Command("sh", "-c", "while :; do :; done")
		hog.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, hog.Start())
		defer hog.Wait()
		defer hog.Process.Kill()
	}
	var gaps []time.Duration
	for i := range full(t, "SOCKEMU_TEST_FAILOVERS", 4) {
		x.atA.setDown(false)
		x.force(t, "shm")
		for range 100 {
			ping()
		}
		x.atA.setDown(true)
		broken := time.Now()
		if i%2 == 0 {
			x.atA.cut()
		} else {
			x.atB.cut()
		}
		for on(x.a) != "tcp" {
			require.Less(t, time.Since(broken), 20*time.Second, "%s", x.why())
			ping()
		}
		ping()
		gaps = append(gaps, time.Since(broken))
	}
	slices.Sort(gaps)
	t.Logf("%d breaks: bytes move on TCP %v (p50), %v (p99), %v (most) later", len(gaps), gaps[len(gaps)/2], gaps[len(gaps)*99/100], gaps[len(gaps)-1])
	require.Less(t, gaps[len(gaps)/2], 5*time.Second)
	x.a.SetLinger(0)
	x.a.Close()
}

// TestIdleSharedMemory: connections over shared memory that say nothing cost no goroutines and next to no processor time.
// SOCKEMU_TEST_IDLE says how many seconds of it.
func TestIdleSharedMemory(t *testing.T) {
	const n = 100
	seconds := full(t, "SOCKEMU_TEST_IDLE", 1)
	x := newStreet(t, Config{Policy: allow("pin:shm")})
	one := runtime.NumGoroutine()
	ends := []*session.Session{x.a, x.b}
	for range n - 1 {
		a, b := x.connect(t)
		ends = append(ends, a, b)
	}
	msg := make([]byte, 100)
	for i := 0; i < len(ends); i += 2 {
		require.Equal(t, "shm", on(ends[i]))
		_, err := ends[i].Write(msg)
		require.NoError(t, err)
		require.NoError(t, readFull(ends[i+1], msg))
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() < one+n/4 }, 20*time.Second, 10*time.Millisecond, "goroutines: %d, %d with one", runtime.NumGoroutine(), one)
	used := func() time.Duration {
		var r syscall.Rusage
		require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	// What is left of the set-up, the young connections' measurements above all, ends within seconds.
	share, window := 0.0, time.Duration(seconds)*time.Second
	calm := func() bool {
		before := used()
		<-time.After(window)
		share = float64(used()-before) / float64(window)
		return share < 0.005
	}
	for start := time.Now(); !calm(); {
		require.Less(t, time.Since(start), 12*window, "%.2f %% of a processor", 100*share)
	}
	t.Logf("%d idle connections: %d goroutines (%d with one), %.3f %% of a processor over %v", n, runtime.NumGoroutine(), one, 100*share, window)
	for _, s := range ends {
		s.SetLinger(0)
		s.Close()
	}
}

// elsewhere is shared memory of another host: its addresses say so.
type elsewhere struct{ substrate.Substrate }

func (s elsewhere) Listen(ctx context.Context, addr string) (substrate.Listener, error) {
	l, err := s.Substrate.Listen(ctx, addr)
	return farListener{l}, err
}

type farListener struct{ substrate.Listener }

func (farListener) Addr() net.Addr { return textAddr("0badc0de:/run/user/0/sockemu/x.shm") }

// TestPinToAnotherHost: shared memory that is pinned but can't be, because the peer is on another host, is an error that says so.
func TestPinToAnotherHost(t *testing.T) {
	dir := t.TempDir()
	ea := New(Config{Substrate: tcp.New(tcp.Options{}), Others: []Other{{Substrate: shm.New(shm.Options{Dir: dir})}}, Policy: allow("pin:shm"), NoWatch: true})
	defer ea.Close()
	eb := New(Config{Substrate: tcp.New(tcp.Options{}), Others: []Other{{Substrate: elsewhere{shm.New(shm.Options{Dir: dir})}}}, NoWatch: true})
	defer eb.Close()
	l, err := eb.Listen(t.Context(), "127.0.0.1:0", Plain{})
	require.NoError(t, err)
	s, err := ea.Dial(t.Context(), l.Addr().String(), 0)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = ea.AwaitPolicy(ctx, s)
	require.NoError(t, ctx.Err(), "at once")
	require.ErrorIs(t, err, substrate.ErrConfig)
	require.ErrorContains(t, err, "other host: boot id 0badc0de")
	s.Abort(net.ErrClosed, "the policy can't be met")
}

// Connections that begin on TCP and move to shared memory, while links of both kinds break at random moments, and without that.
func init() {
	for _, seal := range []bool{false, true} {
		for _, every := range []time.Duration{0, 20 * time.Millisecond} {
			if raceOn {
				every *= 10
			}
			morePipes[fmt.Sprintf("moves/seal=%v/cut every %v", seal, every)] = movingPipe(seal, every)
		}
	}
}

func movingPipe(seal bool, every time.Duration) nettest.MakePipe {
	linger := lingers()
	return func() (net.Conn, net.Conn, func(), error) { return makeMoving(seal, every, linger()) }
}

func makeMoving(seal bool, every, linger time.Duration) (c1, c2 net.Conn, stop func(), err error) {
	links := []*breaker{{Substrate: tcp.New(tcp.Options{})}, {Substrate: shm.New(shm.Options{})}, {Substrate: shm.New(shm.Options{})}}
	cfg := Config{
		Session: session.Config{Seal: seal, Linger: linger, RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond},
		Policy:  allow("prefer:shm"), NoWatch: true, Substrate: links[0],
	}
	cfg.Others = []Other{{Substrate: links[1]}}
	a := New(cfg)
	cfg.Others = []Other{{Substrate: links[2]}}
	b := New(cfg)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	stop = func() {
		close(quit)
		wg.Wait()
		hangUp(c1, c2)
		a.Close()
		b.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	l, err := b.Listen(ctx, "127.0.0.1:0", Plain{})
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := a.Dial(ctx, l.Addr().String(), 0)
	if err != nil {
		return nil, nil, nil, err
	}
	acc, err := l.Accept()
	if err != nil {
		return nil, nil, nil, err
	}
	if every > 0 {
		wg.Go(func() { cuts(quit, every, func() { links[rand.IntN(len(links))].cut() }) })
	}
	return s, acc.Session, stop, nil
}
