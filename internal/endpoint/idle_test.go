//go:build linux

package endpoint

import (
	"context"
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
)

// Limits of an idle connection on a bare link: heap and stacks per end, and goroutines for all of them together.
const (
	idleBytes      = 8 << 10
	idleGoroutines = 64
)

var idleHeap = flag.String("idle.heap", "", "write a heap profile of the idle connections to this file (use -memprofilerate 1024)")

// descriptors raises the limit of open files as far as it can and returns it.
func descriptors(want uint64) uint64 {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	if r.Cur < want {
		up := syscall.Rlimit{Cur: want, Max: max(want, r.Max)}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &up) != nil { // only root may go beyond Max
			up = syscall.Rlimit{Cur: min(want, r.Max), Max: r.Max}
			syscall.Setrlimit(syscall.RLIMIT_NOFILE, &up)
		}
		syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r)
	}
	return r.Cur
}

// idle is a number of idle connections, both ends in this process.
type idle struct {
	over       string
	n          int
	ea, eb     *Endpoint
	ends       []*session.Session
	done       func()
	bytes      float64 // per end
	heap       float64
	stacks     float64
	goroutines int // more than without connections
}

// makeIdle opens n connections, lets each say a word, waits until all links are bare and nothing is left to say, and measures.
func makeIdle(t testing.TB, n int) *idle {
	x := &idle{n: n, done: func() {}}
	var sa, sb substrate.Substrate
	address := "127.0.0.1:0"
	// A few less than asked for over real sockets tell more than all of them over simulated links.
	if most := int(descriptors(uint64(2*n+500))-500) / 2; most >= n*8/10 {
		n = min(n, most)
		x.n = n
		x.over = "tcp"
		sa = tcp.New(tcp.Options{})
		sb = sa
	} else {
		x.over = "fault" // whose links weigh a bit, too
		net := fault.New(fault.Config{Seed: 1})
		sa, sb, address = net.Host("a"), net.Host("b"), "b:1"
		x.done = func() { net.Close() }
	}
	cfg := Config{Backlog: 4096, HandshakeTimeout: time.Minute, KeepAlive: time.Second} // what is small is acknowledged when asked for, and asked for at that pace
	memory := func() (heap, stacks uint64) {
		runtime.GC()
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse, m.StackInuse
	}
	heap0, stacks0 := memory()
	goroutines0 := runtime.NumGoroutine()

	cfg.Substrate = sa
	x.ea = New(cfg)
	cfg.Substrate = sb
	x.eb = New(cfg)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := x.eb.Listen(ctx, address, Plain{})
	require.NoError(t, err)
	x.ends = make([]*session.Session, 2*n)
	var wg sync.WaitGroup
	wg.Go(func() { // each is told something, and answers
		for i := range n {
			acc, err := l.Accept()
			if err != nil {
				return
			}
			x.ends[2*i+1] = acc.Session
			wg.Go(func() {
				p := make([]byte, 8)
				if _, err := acc.Session.Read(p); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				acc.Session.Write(p)
			})
		}
	})
	const dialers = 64
	var dial sync.WaitGroup
	for d := range dialers {
		dial.Go(func() {
			p := make([]byte, 8)
			for i := d; i < n; i += dialers {
				s, err := x.ea.Dial(ctx, l.Addr().String(), 0)
				if err != nil {
					t.Error(err)
					return
				}
				x.ends[2*i] = s
				s.Write(p)
				if _, err := s.Read(p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	dial.Wait()
	if t.Failed() {
		l.Close()
		wg.Wait()
		t.FailNow()
	}
	wg.Wait()

	// Idle: bare, everything acknowledged, and nobody at work.
	limit, tick := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(x.ends); {
		sn := x.ends[i].Snapshot()
		if sn.Mode == "bare" && sn.Acked == sn.Sent && sn.Control == "channel" {
			i++
			continue
		}
		select {
		case <-tick.C:
		case <-limit:
			x.close()
			t.Fatalf("end %d isn't idle: %+v", i, sn)
		}
	}
	for last := -1; ; { // short-lived goroutines leave
		now := runtime.NumGoroutine()
		if now == last || now-goroutines0 <= idleGoroutines/2 {
			break
		}
		last = now
		<-tick.C
	}
	x.goroutines = runtime.NumGoroutine() - goroutines0
	heap1, stacks1 := memory()
	ends := float64(2 * n)
	x.heap, x.stacks = (float64(heap1)-float64(heap0))/ends, (float64(stacks1)-float64(stacks0))/ends
	x.bytes = x.heap + x.stacks
	if *idleHeap != "" {
		f, err := os.Create(*idleHeap)
		require.NoError(t, err)
		require.NoError(t, pprof.Lookup("heap").WriteTo(f, 0))
		require.NoError(t, f.Close())
	}
	return x
}

func (x *idle) close() {
	x.ea.Close()
	x.eb.Close()
	x.done()
	runtime.KeepAlive(x)
}

func TestIdleConnections(t *testing.T) {
	n := fewer(10_000, 500)
	if testing.Short() {
		n = min(n, 2_000)
	}
	start := time.Now()
	x := makeIdle(t, n)
	defer x.close()
	n = x.n
	t.Logf("%d connections over %s, set up in %v: %.0f bytes per end (heap %.0f, stacks %.0f), %d goroutines in all",
		n, x.over, time.Since(start).Round(time.Millisecond), x.bytes, x.heap, x.stacks, x.goroutines)
	if !raceOn { // the detector's shadow words count as heap
		require.LessOrEqual(t, x.bytes, float64(idleBytes), "memory per end")
	}
	require.LessOrEqual(t, x.goroutines, idleGoroutines)
	// They still work.
	for _, i := range []int{0, n / 2, n - 1} {
		exchange(t, x.ends[2*i], peerOf(x, x.ends[2*i]))
	}
}

func peerOf(x *idle, s *session.Session) *session.Session {
	return x.eb.lookup(s.GID(), false)
}

func BenchmarkIdleConn(b *testing.B) {
	for b.Loop() {
		x := makeIdle(b, 2000)
		b.ReportMetric(x.bytes, "bytes/conn-end")
		b.ReportMetric(float64(x.goroutines)/float64(x.n), "goroutines/conn")
		b.StopTimer()
		x.close()
		b.StartTimer()
	}
}
