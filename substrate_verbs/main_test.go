package verbs

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/internal/inventory"
	"github.com/sockemu/sockemu/substrate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waiting for what must happen.
const patience = 20 * time.Second

// await receives from c.
func await[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing happened")
	}
	return v
}

// newTest makes a Substrate that is closed with the test. Where o.Death says nothing else, a busy machine isn't taken for a dead peer.
func newTest(t testing.TB, o Options) *Substrate {
	if o.Death == 0 {
		o.Death = patience
	}
	s := New(o)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// abort breaks the path of a link as a broken adapter does: nothing is said.
func abort(l substrate.Link) { l.(*link).p.carrier.Close() }

// closedPort returns an address where nobody listens.
func closedPort(t testing.TB, host string) string {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// silentPort returns an address where somebody never answers.
func silentPort(t testing.TB, host string) string {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// join returns both ends of a link between two substrates, and the listener.
func join(t testing.TB, from, to *Substrate) (a, b *link, l substrate.Listener) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := to.Listen(ctx, "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	a, b = joinTo(t, from, l)
	return a, b, l
}

func joinTo(t testing.TB, from *Substrate, l substrate.Listener) (a, b *link) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	x, err := from.Dial(ctx, l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { x.Close() })
	y, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { y.Close() })
	return x.(*link), y.(*link)
}

// A setting is where tests run: two fabrics that lead to each other, and an address at which both listen.
type setting struct {
	a, b   Fabric
	listen string
}

// onSim has two hosts of a simulated network, on every address.
func onSim(cfg sim.Config) setting {
	n := sim.New(cfg)
	f := anywhere{iwarp: cfg.IWARP}
	return setting{newDevices(n.Host("a"), f), newDevices(n.Host("b"), f), "127.0.0.1:0"}
}

// anywhere is a finder for the one device of a sim's host.
type anywhere struct{ iwarp, software bool }

func (anywhere) forget()             {}
func (anywhere) check() error        { return nil }
func (anywhere) addrs() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }
func (f anywhere) find(netip.Addr) (place, error) {
	if f.iwarp {
		return place{device: sim.DeviceName, port: 1, kind: KindIWARP}, nil
	}
	return place{device: sim.DeviceName, port: 1, gid: 1, kind: KindRoCEv2, software: f.software}, nil
}

// onDevice has the machine's, if the environment names one.
func onDevice(t testing.TB) setting {
	if os.Getenv("SOCKEMU_TEST_RDMA_DEVICE") == "" {
		t.Skipf("SOCKEMU_TEST_RDMA_DEVICE names no device (here: %v)", Devices().Check())
	}
	require.NoError(t, Devices().Check())
	ip := os.Getenv("SOCKEMU_TEST_RDMA_ADDR")
	t.Log(inventory.MapLocal(netip.MustParseAddr(ip)))
	// Open as long as the test runs: opening takes a second where the processor is emulated.
	d := machine()
	d.Join()
	t.Cleanup(d.Leave)
	at, err := d.finder.find(netip.MustParseAddr(ip))
	require.NoError(t, err)
	a, err := d.adapter(at)
	require.NoError(t, err)
	t.Log(a)
	a.release()
	return setting{d, d, ip + ":0"}
}
