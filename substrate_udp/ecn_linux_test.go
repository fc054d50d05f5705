package udp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/substrate"
)

// TestECNOverSockets: through the kernel's sockets and a relay whose queue marks, marks arrive and are answered; where the relay clears
// codepoints that is found out. Over both families.
func TestECNOverSockets(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(at, func(t *testing.T) {
			if c, err := net.ListenPacket("udp", at); err != nil {
				t.Skip(err)
			} else {
				c.Close()
			}
			run := func(spec string) Stats {
				s := New(Options{MTU: 1472, PathDown: 20 * time.Second})
				defer s.Close()
				ln, err := s.Listen(t.Context(), at)
				require.NoError(t, err)
				defer ln.Close()
				f, err := netem.ForwardUDP(t.Context(), netem.UDPConfig{
					To: ln.Addr().String(), Listen: at, Up: netem.MustParse(spec), Down: netem.MustParse("delay=2ms"),
				})
				require.NoError(t, err)
				defer f.Close()
				a, err := s.Dial(t.Context(), f.Addr().String())
				require.NoError(t, err)
				defer a.Close()
				b, err := ln.Accept()
				require.NoError(t, err)
				defer b.Close()
				transfer(t, a, b, 2<<20)
				up, _ := f.Stats()
				require.LessOrEqual(t, s.Stats().ECNMarks, up.Marked)
				return s.Stats()
			}
			c := run("rate=50mbit,delay=2ms,queue=2m,ecn=30k")
			require.NotZero(t, c.ECNMarks)
			require.NotZero(t, c.ECNPaths)
			require.Zero(t, c.ECNBleached+c.ECNMangled+c.ECNFalse, "%+v", c)
			c = run("rate=50mbit,delay=2ms,queue=2m,ecn=30k,bleach")
			require.Zero(t, c.ECNMarks)
			require.NotZero(t, c.ECNBleached)
		})
	}
}

// TestECNOfOneHost: nothing on the way between two processes of one host marks, so nothing is asked.
func TestECNOfOneHost(t *testing.T) {
	s := newTest(t, Options{})
	a, b := pair(t, s, s)
	transfer(t, a, b, 1<<20)
	require.Equal(t, ecnOff, a.(*link).ecn.state)
	require.Zero(t, a.(*link).ecn.sent+b.(*link).ecn.sent)
	require.Zero(t, s.Stats().ECNPaths)
}

// TestECNPaths measures what ECN is good for on emulated paths between two network namespaces: what gets through, and how long packets wait
// in the queue, with and without it, and beside it kernel TCP with CUBIC. Skipped without SOCKEMU_TEST_PATHS, as TestLongPaths.
func TestECNPaths(t *testing.T) {
	seconds, err := strconv.Atoi(os.Getenv(pathTime))
	if err != nil {
		t.Skipf("set %s to the seconds of each measurement", pathTime)
	}
	d := time.Duration(seconds) * time.Second
	for _, spec := range []string{
		"rate=50mbit,delay=10ms,queue=600k,ecn=60k", "rate=100mbit,delay=5ms,queue=1m,ecn=60k", "rate=200mbit,delay=25ms,queue=2500k,ecn=250k",
		"rate=100mbit,delay=5ms,queue=1m,ecn=60k,loss=0.5%", "rate=100mbit,delay=5ms,queue=1m,ecn=60k,bleach",
	} {
		t.Run(spec, func(t *testing.T) {
			for _, kind := range []string{"udp", "udp without ECN", "tcp", "tcp without ECN"} {
				rate, q := ecnFlows(t, spec, d, 0, kind)
				t.Logf("%-16s %6.1f Mb/s; in the queue %6.2f ms on average; %d dropped, %d marked of %d", kind, rate[0],
					float64(q.MeanWait().Microseconds())/1000, q.QueueFull, q.Marked, q.Admitted)
			}
			rate, q := ecnFlows(t, spec, 4*d, 2*d, "udp", "udp")
			t.Logf("udp beside udp   %6.1f and %.1f Mb/s; in the queue %6.2f ms on average; %d dropped", rate[0], rate[1],
				float64(q.MeanWait().Microseconds())/1000, q.QueueFull)
			rate, q = ecnFlows(t, spec, 4*d, 2*d, "udp", "tcp")
			t.Logf("udp beside tcp   %6.1f and %.1f Mb/s; in the queue %6.2f ms on average; %d dropped", rate[0], rate[1],
				float64(q.MeanWait().Microseconds())/1000, q.QueueFull)
		})
	}
}

// ecnFlows is flows that tells of the queue.
func ecnFlows(t *testing.T, spec string, d, skip time.Duration, kinds ...string) (rates []float64, queue netem.Stats) {
	im := netem.MustParse(spec)
	p, err := netem.NewPath(netem.PathConfig{Up: im, Down: netem.MustParse("delay=" + im.Delay.String()), Seed: 3})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	var flows []flow
	for _, kind := range kinds {
		switch kind {
		case "tcp", "tcp without ECN":
			on := map[string]string{"tcp": "1", "tcp without ECN": "0"}[kind]
			for _, h := range []*netem.Host{p.A, p.B} {
				require.NoError(t, h.In(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_ecn", []byte(on), 0) }))
			}
			flows = append(flows, tcpFlow(t, p))
		default:
			flows = append(flows, udpFlow(t, p, Options{NoECN: kind == "udp without ECN"}))
		}
	}
	rates = run(flows, d, skip)
	queue, _ = p.Stats()
	return rates, queue
}

// TestECNBetweenHosts: marks of a path between two network namespaces arrive, and keep its queue from overflowing.
func TestECNBetweenHosts(t *testing.T) {
	p, err := netem.NewPath(netem.PathConfig{Up: netem.MustParse("rate=50mbit,delay=2ms,queue=2m,ecn=40k"), Down: netem.MustParse("delay=2ms")})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	x, y := newTest(t, Options{PathDown: 20 * time.Second}), newTest(t, Options{PathDown: 20 * time.Second})
	var ln substrate.Listener
	var a substrate.Link
	require.NoError(t, p.B.In(func() (err error) {
		ln, err = y.Listen(t.Context(), fmt.Sprintf("%v:0", p.B.Addr))
		return err
	}))
	defer ln.Close()
	require.NoError(t, p.A.In(func() (err error) {
		a, err = x.Dial(t.Context(), ln.Addr().String())
		return err
	}))
	defer a.Close()
	b, err := ln.Accept()
	require.NoError(t, err)
	defer b.Close()
	transfer(t, a, b, 4<<20)
	up, _ := p.Stats()
	c := x.Stats()
	t.Logf("%d packets, %d marked, in the queue %v on average and %d bytes at most; %+v", up.Admitted, up.Marked, up.MeanWait(), up.MaxQueue, c)
	require.NotZero(t, c.ECNMarks)
	require.LessOrEqual(t, c.ECNMarks, up.Marked)
	require.NotZero(t, c.ECNPaths)
	if c.Timeouts < 2 { // else it has looked again
		require.EqualValues(t, 1, c.ECNPaths)
	}
	require.Zero(t, up.QueueFull)
	require.Zero(t, c.ECNBleached+c.ECNFalse+c.ECNMangled)
}
