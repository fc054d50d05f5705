package sockemu_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/rdma"
	"github.com/sockemu/sockemu/activemsg/verbs/libibverbs"
	"github.com/sockemu/sockemu/bench/rsocket"
	"github.com/sockemu/sockemu/internal/inventory"
)

// A course is something to measure between two ends of this process.
type course struct {
	name string
	// ping sends n bytes there and back, so many times, and returns how long each took.
	ping func(n, times int) []time.Duration
	// flood sends so many messages of n bytes and returns how long it took until the last was there.
	flood func(n, count int) time.Duration
}

// TestDeviceTable prints what a session over verbs delivers of what the queue pair can do, beside rsockets and TCP, at the paper's sizes. By hand:
// SOCKEMU_TEST_RDMA_TABLE=1, see docs/verbs.md. It asserts no figure.
func TestDeviceTable(t *testing.T) {
	device(t)
	if os.Getenv("SOCKEMU_TEST_RDMA_TABLE") == "" {
		t.Skip("SOCKEMU_TEST_RDMA_TABLE is not set")
	}
	courses := []course{bareQueuePair(t), sessionOver(t, "pin:verbs"), overRsocket(t), sessionOver(t, "pin:tcp"), rawTCP(t)}
	// Blocks of the courses take turns, and a ratio is that of neighbours: what the machine does besides changes within a second.
	const reps, pings = 17, 60
	for _, c := range courses { // connections begin with small windows, and adapters with little memory
		c.ping(32<<10, 50)
		c.flood(32<<10, 50)
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "bytes\t")
	for _, c := range courses {
		fmt.Fprintf(w, "%s RTT us\t%s MB/s\t", c.name, c.name)
	}
	fmt.Fprintln(w, "bare/verbs RTT\tverbs/bare MB/s\trsocket/verbs RTT\tverbs/rsocket MB/s\tleast RTT bare\tverbs\tbare/verbs\t")
	for n := 128; n <= 32<<10; n *= 2 {
		rtts, rates := make([][]float64, len(courses)), make([][]float64, len(courses))
		least := make([]time.Duration, len(courses)) // undisturbed: what else runs on the machine matters little for it
		for range reps {
			for i, c := range courses {
				d := c.ping(n, pings)
				slices.Sort(d)
				if least[i] == 0 || d[0] < least[i] {
					least[i] = d[0]
				}
				rtts[i] = append(rtts[i], float64(d[len(d)/2])/1e3)
				count := max(16, min(400, 512<<10/n))
				rates[i] = append(rates[i], float64(n*count)/c.flood(n, count).Seconds()/1e6)
			}
		}
		fmt.Fprintf(w, "%d\t", n)
		var ratios strings.Builder
		for _, other := range []int{0, 2} { // what the session delivers of it: above 1 the session is better
			fmt.Fprintf(&ratios, "%s\t%s\t", quartiles(rtts[other], rtts[1]), quartiles(rates[1], rates[other]))
		}
		for i := range courses {
			slices.Sort(rtts[i])
			slices.Sort(rates[i])
			fmt.Fprintf(w, "%.0f\t%.1f\t", rtts[i][reps/2], rates[i][reps/2])
		}
		fmt.Fprint(w, ratios.String())
		fmt.Fprintf(w, "%.1f\t%.1f\t%.2f\t\n", float64(least[0])/1e3, float64(least[1])/1e3, float64(least[0])/float64(least[1]))
	}
	w.Flush()
	for line := range strings.Lines(out.String()) {
		t.Log(strings.TrimRight(line, "\n"))
	}
}

// quartiles are those of the ratios of two lists, and in front the median.
func quartiles(of, to []float64) string {
	ratios := make([]float64, len(of))
	for i := range of {
		ratios[i] = of[i] / to[i]
	}
	slices.Sort(ratios)
	n := len(ratios)
	return fmt.Sprintf("%.2f (%.2f-%.2f)", ratios[n/2], ratios[n/4], ratios[n-1-n/4])
}

// overConns measures a connection.
func overConns(t *testing.T, name string, a, b net.Conn) course {
	check := func(err error) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	msg, got := make([]byte, 32<<10), make([]byte, 32<<10)
	return course{
		name: name,
		ping: func(n, times int) (all []time.Duration) {
			go func() {
				for range times {
					_, err := io.ReadFull(b, got[:n])
					check(err)
					_, err = b.Write(got[:n])
					check(err)
				}
			}()
			back := make([]byte, n)
			for range times {
				began := time.Now()
				_, err := a.Write(msg[:n])
				check(err)
				_, err = io.ReadFull(a, back)
				check(err)
				all = append(all, time.Since(began))
			}
			return all
		},
		flood: func(n, count int) time.Duration {
			began := time.Now()
			go func() {
				for range count {
					_, err := a.Write(msg[:n])
					check(err)
				}
			}()
			for left := n * count; left > 0; {
				k, err := b.Read(got[:min(left, len(got))])
				check(err)
				left -= k
			}
			return time.Since(began)
		},
	}
}

func sessionOver(t *testing.T, policy string) course {
	l, err := newEndpoint(t, patient(policy)).Listen(t.Context(), "tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_TCP_ADDR"), "0"))
	require.NoError(t, err)
	e := newEndpoint(t, patient(policy))
	for range 10 { // the first may take longer than a probe may
		c, err := e.Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Log(err)
			if s, err := l.AcceptConn(); err == nil {
				s.Close()
			}
			continue
		}
		s, err := l.AcceptConn()
		require.NoError(t, err)
		t.Cleanup(func() { c.Close(); s.Close() })
		return overConns(t, strings.TrimPrefix(policy, "pin:"), c, s)
	}
	t.Fatal("no connection with ", policy)
	return course{}
}

func overRsocket(t *testing.T) course {
	require.NoError(t, rsocket.Available())
	l, err := rsocket.Listen(t.Context(), "tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_RDMA_ADDR"), "0"))
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Errorf("rsocket: %v", err)
		}
		accepted <- c
	}()
	a, err := rsocket.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	b := <-accepted
	t.Cleanup(func() { a.Close(); b.Close() })
	return overConns(t, "rsocket", a, b)
}

func rawTCP(t *testing.T) course {
	l, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_TCP_ADDR"), "0"))
	require.NoError(t, err)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	b, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return overConns(t, "raw tcp", a, b)
}

// bareQueuePair measures the carrier of active messages alone: work requests and completions, no credits, no endpoint.
func bareQueuePair(t *testing.T) course {
	m, err := inventory.MapLocal(netip.MustParseAddr(os.Getenv("SOCKEMU_TEST_RDMA_ADDR")))
	require.NoError(t, err)
	d, err := libibverbs.New().Open(m.Device)
	require.NoError(t, err)
	adapter, err := rdma.Open(d, rdma.Config{Port: m.Port, GIDIndex: &m.GIDIndex})
	require.NoError(t, err)
	t.Cleanup(func() { adapter.Close() })
	t.Log(adapter)
	x, err := adapter.Prepare(rdma.ConnConfig{Payload: 16 << 10})
	require.NoError(t, err)
	y, err := adapter.Prepare(rdma.ConnConfig{Payload: 16 << 10})
	require.NoError(t, err)
	a, err := x.Connect(y.Local())
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	b, err := y.Connect(x.Local())
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	check := func(err error) {
		if err != nil {
			t.Errorf("bare: %v", err)
		}
	}
	msg := make([]byte, 32<<10)
	var head [activemsg.HeaderLen]byte
	send := func(c activemsg.Carrier, n int) {
		for n > 0 {
			k := min(n, c.Limits().Payload)
			check(c.Send(&head, [][]byte{msg[:k]}))
			n -= k
		}
	}
	// take receives n bytes, or as many segments as there are with n 0.
	take := func(c activemsg.Carrier, n int) (segments int) {
		batch := make([]activemsg.Segment, 16)
		for {
			k, err := c.Recv(batch)
			check(err)
			for i := range batch[:k] {
				copy(msg, batch[i].Payload) // as a user would
				n -= len(batch[i].Payload)
				c.Done(&batch[i])
			}
			if segments += k; n <= 0 {
				return segments
			}
		}
	}
	return course{
		name: "bare",
		ping: func(n, times int) (all []time.Duration) {
			go func() {
				for range times {
					take(b, n)
					send(b, n)
				}
			}()
			for range times {
				began := time.Now()
				send(a, n)
				take(a, n)
				all = append(all, time.Since(began))
			}
			return all
		},
		flood: func(n, count int) time.Duration {
			const window = 64 // segments; half of them are acknowledged at a time
			total := count * ((n + a.Limits().Payload - 1) / a.Limits().Payload)
			began := time.Now()
			quiet := make(chan struct{})
			go func() {
				defer close(quiet)
				sent, acked := 0, 0
				for range count {
					for sent-acked >= window {
						acked += window / 2 * take(a, 0)
					}
					send(a, n)
					sent += (n + a.Limits().Payload - 1) / a.Limits().Payload
				}
				for acked < total/(window/2)*(window/2) {
					acked += window / 2 * take(a, 0)
				}
			}()
			told := 0
			for got := 0; got < total; {
				got += take(b, 0)
				for ; got-told >= window/2; told += window / 2 {
					send(b, 1)
				}
			}
			took := time.Since(began)
			<-quiet
			return took
		},
	}
}
