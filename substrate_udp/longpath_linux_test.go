package udp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// pathTime is how long each measurement of TestLongPaths takes; it is skipped without.
const pathTime = "SOCKEMU_TEST_PATHS"

// TestLongPaths measures what gets through emulated paths between two network namespaces, beside kernel TCP with CUBIC through the same
// emulator: alone, and sharing the path. What it demands leaves room for a busy machine; the figures are in docs/performance.md.
func TestLongPaths(t *testing.T) {
	seconds, err := strconv.Atoi(os.Getenv(pathTime))
	if err != nil {
		t.Skipf("set %s to the seconds of each measurement", pathTime)
	}
	d := time.Duration(seconds) * time.Second
	for _, loss := range []string{"", ",loss=0.1%", ",loss=1%", ",loss=1%,burst=4", ",loss=3%", ",loss=10%"} {
		spec := "rate=200mbit,delay=25ms" + loss
		t.Run(spec, func(t *testing.T) {
			tcp := flows(t, spec, d, 0, "tcp")[0]
			udp := flows(t, spec, d, 0, "udp")[0]
			t.Logf("Mb/s: tcp %.1f, udp %.1f: %.1f times", tcp, udp, udp/tcp)
			switch loss {
			case ",loss=1%":
				require.Greater(t, udp, 3*tcp)
			case ",loss=10%":
				require.Greater(t, udp, tcp)
			}
		})
	}
	for _, spec := range []string{
		"rate=50mbit,delay=10ms", "rate=50mbit,delay=25ms,queue=60k", "rate=50mbit,delay=25ms,queue=600k",
		"rate=50mbit,delay=10ms,loss=0.1%", "rate=20mbit,delay=1ms",
	} {
		t.Run("shared "+spec, func(t *testing.T) {
			both := flows(t, spec, 4*d, 2*d, "udp", "udp")
			t.Logf("udp %.1f, udp %.1f Mb/s: %.0f %%", both[0], both[1], share(both))
			mixed := flows(t, spec, 4*d, 2*d, "udp", "tcp")
			t.Logf("udp %.1f, tcp %.1f Mb/s: %.0f %%", mixed[0], mixed[1], share(mixed))
			tcps := flows(t, spec, 4*d, 2*d, "tcp", "tcp")
			t.Logf("tcp %.1f, tcp %.1f Mb/s: %.0f %%", tcps[0], tcps[1], share(tcps))
		})
	}
}

// share is the part of the first in percent.
func share(rates []float64) float64 { return 100 * rates[0] / (rates[0] + rates[1]) }

// flows sends as much as it can over a path made of spec for d, one flow of each kind at the same time, and returns how many Mb/s
// arrived after the first part of it, skip.
func flows(t *testing.T, spec string, d, skip time.Duration, kinds ...string) []float64 {
	t.Helper()
	im := netem.MustParse(spec)
	p, err := netem.NewPath(netem.PathConfig{Up: im, Down: netem.MustParse("delay=" + im.Delay.String()), Seed: 3})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	var all []flow
	for _, kind := range kinds {
		if kind == "tcp" {
			all = append(all, tcpFlow(t, p))
		} else {
			all = append(all, udpFlow(t, p, Options{}))
		}
	}
	return run(all, d, skip)
}

// A flow sends from A to B.
type flow struct {
	send func([]byte) error
	recv func([]byte) (int, error)
	stop func()
}

// run sends as much as it can with all flows, stops them after d, and returns how many Mb/s arrived after the first part of it, skip.
func run(flows []flow, d, skip time.Duration) []float64 {
	got := make([]atomic.Int64, len(flows))
	var work sync.WaitGroup
	for i, f := range flows {
		work.Go(func() {
			for b := make([]byte, 64<<10); f.send(b) == nil; {
			}
		})
		work.Go(func() {
			b := make([]byte, 256<<10)
			for {
				n, err := f.recv(b)
				got[i].Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	<-time.After(skip)
	before := make([]int64, len(flows))
	for i := range got {
		before[i] = got[i].Load()
	}
	<-time.After(d - skip)
	rates := make([]float64, len(flows))
	for i := range got {
		rates[i] = float64(got[i].Load()-before[i]) * 8 / 1e6 / (d - skip).Seconds()
	}
	for _, f := range flows {
		f.stop()
	}
	work.Wait()
	return rates
}

func tcpFlow(t *testing.T, p *netem.Path) flow {
	var ln net.Listener
	var a, b net.Conn
	pin := func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { require.NoError(t, sys.SetTCPCongestion(fd, "cubic")) })
	}
	require.NoError(t, p.B.In(func() (err error) {
		ln, err = net.Listen("tcp4", fmt.Sprintf("%v:0", p.B.Addr))
		return err
	}))
	defer ln.Close()
	require.NoError(t, p.A.In(func() (err error) {
		a, err = (&net.Dialer{Timeout: 10 * time.Second, Control: pin}).Dial("tcp4", ln.Addr().String())
		return err
	}))
	b, err := ln.Accept()
	require.NoError(t, err)
	return flow{func(p []byte) error { _, err := a.Write(p); return err }, b.Read, func() { a.Close(); b.Close() }}
}

func udpFlow(t *testing.T, p *netem.Path, o Options) flow {
	x, y := New(o), New(o)
	var ln substrate.Listener
	var a, b substrate.Link
	require.NoError(t, p.B.In(func() (err error) {
		ln, err = y.Listen(t.Context(), fmt.Sprintf("%v:0", p.B.Addr))
		return err
	}))
	require.NoError(t, p.A.In(func() (err error) {
		a, err = x.Dial(t.Context(), ln.Addr().String())
		return err
	}))
	b, err := ln.Accept()
	require.NoError(t, err)
	vec := make([][]byte, 1)
	send := func(p []byte) error {
		vec[0] = p
		_, err := a.Send(substrate.Unkept, vec)
		return err
	}
	return flow{send, b.Recv, func() { x.Close(); y.Close() }}
}
