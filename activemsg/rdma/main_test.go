package rdma

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/libibverbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		fmt.Fprintln(os.Stderr, "the peer process ends:", child())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const patience = 20 * time.Second

// patient is for emulated machines on a busy one: they may be silent for seconds.
var patient = ConnConfig{Timeout: 18, Retry: 6} // 7.5 s

// A setup is two adapters that can reach each other.
type setup struct {
	a, b *Adapter
	net  *sim.Network // nil with a real device
}

// paths are the tests that run over every kind of device.
var paths = []struct {
	name string
	f    func(t *testing.T, s *setup)
}{
	{"Send", testSend},
	{"Stream", testStream},
	{"Batch", testBatch},
	{"Place", testPlace},
	{"StaleKey", testStaleKey},
	{"WrongKey", testWrongKey},
	{"LastWord", testLastWord},
	{"CloseEndsRecv", testCloseEndsRecv},
	{"SegmentsOutliveClose", testSegmentsOutliveClose},
	{"PeerGone", testPeerGone},
}

// TestSim runs them over simulated networks.
func TestSim(t *testing.T) {
	for name, cfg := range map[string]sim.Config{
		"Immediate": {},
		"IWARP":     {Seed: 2, IWARP: true, Delay: 30 * time.Microsecond},
		"Delayed":   {Seed: 1, Delay: 30 * time.Microsecond, Jitter: 50 * time.Microsecond, LateWrites: true},
	} {
		for _, p := range paths {
			t.Run(name+p.name, func(t *testing.T) { p.f(t, simulated(t, cfg)) })
		}
	}
}

// TestDevice runs them over the device that SOCKEMU_TEST_RDMA_DEVICE names. The other tests that need it have names that begin like this one's.
func TestDevice(t *testing.T) {
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) { p.f(t, onDevice(t)) })
	}
}

func simulated(t testing.TB, cfg sim.Config) *setup {
	n := sim.New(cfg)
	open := func(host string) *Adapter {
		d, err := n.Host(host).Open(sim.DeviceName)
		require.NoError(t, err)
		return adapter(t, d, Config{})
	}
	return &setup{open("a"), open("b"), n}
}

func adapter(t testing.TB, d verbs.Device, cfg Config) *Adapter {
	a, err := Open(d, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return a
}

// onDevice opens the device twice.
func onDevice(t testing.TB) *setup {
	name := os.Getenv("SOCKEMU_TEST_RDMA_DEVICE")
	if name == "" {
		_, err := libibverbs.New().Devices()
		t.Skipf("SOCKEMU_TEST_RDMA_DEVICE names no device (%v)", err)
	}
	s := &setup{}
	for _, p := range []**Adapter{&s.a, &s.b} {
		a, err := openDevice()
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, a.Close()) })
		*p = a
	}
	t.Log(s.a)
	return s
}

func openDevice() (*Adapter, error) {
	d, err := libibverbs.New().Open(os.Getenv("SOCKEMU_TEST_RDMA_DEVICE"))
	if err != nil {
		return nil, err
	}
	cfg, err := deviceConfig()
	if err != nil {
		d.Close()
		return nil, err
	}
	return Open(d, cfg)
}

// deviceConfig takes the port and the address that SOCKEMU_TEST_RDMA_PORT and _GID choose.
func deviceConfig() (cfg Config, err error) {
	if s := os.Getenv("SOCKEMU_TEST_RDMA_PORT"); s != "" {
		if cfg.Port, err = strconv.Atoi(s); err != nil {
			return cfg, err
		}
	}
	if s := os.Getenv("SOCKEMU_TEST_RDMA_GID"); s != "" {
		var i int
		i, err = strconv.Atoi(s)
		cfg.GIDIndex = &i
	}
	return cfg, err
}

// connect makes the two ends of a path, which are closed with the test.
func (s *setup) connect(t testing.TB, ca, cb ConnConfig) (a, b *Carrier) {
	x, err := s.a.Prepare(iwarp(ca, false))
	require.NoError(t, err)
	y, err := s.b.Prepare(iwarp(cb, true))
	require.NoError(t, err)
	other := make(chan error, 1)
	go func() {
		var err error
		b, err = y.Connect(x.Local()) // iWARP's waits for a's
		other <- err
	}()
	a, err = x.Connect(y.Local())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	require.NoError(t, await(t, other))
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	require.Equal(t, a.Limits().Payload, b.Limits().Payload)
	require.Equal(t, a.Limits().Slots, b.Limits().Slots)
	return a, b
}

// iwarp adds what only iWARP looks at.
func iwarp(cfg ConnConfig, await bool) ConnConfig {
	cfg.Local, _ = netip.ParseAddr(cmp.Or(os.Getenv("SOCKEMU_TEST_RDMA_ADDR"), "127.0.0.1"))
	cfg.Await = await
	return cfg
}

func head(n byte) *[activemsg.HeaderLen]byte { return &[activemsg.HeaderLen]byte{n, 1, 2, 3} }

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*11)
	}
	return b
}

// take receives n segments.
func take(t testing.TB, c *Carrier, n int) []activemsg.Segment {
	t.Helper()
	timer := time.AfterFunc(patience, func() { c.fail("test", 0, context.DeadlineExceeded) })
	defer timer.Stop()
	var all []activemsg.Segment
	for len(all) < n {
		var batch [8]activemsg.Segment
		k, err := c.Recv(batch[:min(len(batch), n-len(all))])
		require.NoError(t, err)
		all = append(all, batch[:k]...)
	}
	return all
}

func await[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing happened")
	}
	return v
}
