package udp

import (
	"context"
	"crypto/sha256"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/substratetest"
)

// through dials every address by way of a bad path.
type through struct {
	*Substrate
	t    *testing.T
	im   netem.Impairment
	mu   sync.Mutex
	ways map[string]*netem.Forwarder
}

func (s *through) Dial(ctx context.Context, address string) (substrate.Link, error) {
	if _, err := resolve(ctx, address); err != nil || ctx.Err() != nil {
		return s.Substrate.Dial(ctx, address)
	}
	s.mu.Lock()
	f := s.ways[address]
	if f == nil {
		f = forward(s.t, netem.UDPConfig{To: address, Up: s.im, Down: s.im, Clients: 4096})
		s.ways[address] = f
	}
	s.mu.Unlock()
	return s.Substrate.Dial(ctx, f.Addr().String())
}

func forward(t testing.TB, cfg netem.UDPConfig) *netem.Forwarder {
	cfg.Listen, cfg.Seed = "127.0.0.1:0", 1
	f, err := netem.ForwardUDP(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestConformanceOverBadPath runs over real sockets with a relay between them that loses, doubles, changes and reorders.
func TestConformanceOverBadPath(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some 20 s")
	}
	im := netem.MustParse("loss=5%,dup=5%,corrupt=1%,reorder=5%")
	substratetest.Run(t, func(t *testing.T) substratetest.Env {
		s := newTest(t, Options{PathDown: 20 * time.Second})
		d := &through{Substrate: s, t: t, im: im, ways: make(map[string]*netem.Forwarder)}
		return substratetest.Env{
			Dialer: d, Listener: s, Listen: "127.0.0.1:0", Hang: silentPort(t), Bad: "127.0.0.1", Abort: abort, Lossy: true,
		}
	})
}

// transfer moves n bytes from one end to the other and compares their sums.
func transfer(t testing.TB, from, to substrate.Link, n int) {
	want, got := sha256.New(), sha256.New()
	var moving sync.WaitGroup
	moving.Go(func() {
		for off := 0; off < n; {
			p := simStream(uint64(off), 0, min(100_000, n-off))
			want.Write(p)
			if _, err := from.Send(uint64(off), [][]byte{p}); err != nil {
				t.Errorf("Send at %d: %v", off, err)
				return
			}
			off += len(p)
		}
	})
	p := make([]byte, 200_000)
	require.NoError(t, to.SetRecvDeadline(time.Now().Add(time.Minute)))
	for left := n; left > 0; {
		k, err := to.Recv(p[:min(len(p), left)])
		require.NoError(t, err, "%d left", left)
		got.Write(p[:k])
		left -= k
	}
	moving.Wait()
	require.Equal(t, want.Sum(nil), got.Sum(nil))
}

// TestRebinding moves bytes both ways through a translator that gives the dialer another port again and again.
func TestRebinding(t *testing.T) {
	s := newTest(t, Options{PathDown: 20 * time.Second})
	ln, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	im := netem.MustParse("rate=200mbit,delay=1ms")
	f := forward(t, netem.UDPConfig{To: ln.Addr().String(), Up: im, Down: im, Rebind: 300 * time.Millisecond})
	a, err := s.Dial(t.Context(), f.Addr().String())
	require.NoError(t, err)
	defer a.Close()
	b, err := ln.Accept()
	require.NoError(t, err)
	defer b.Close()
	was := b.RemoteAddr().String()
	transfer(t, a, b, 10<<20)
	transfer(t, b, a, 10<<20)
	require.NotZero(t, s.Stats().Migrations)
	require.NotEqual(t, was, b.RemoteAddr().String())
}

// TestSmallMTU: full packets vanish on a path that is narrower than its first hop; the link notices.
func TestSmallMTU(t *testing.T) {
	s := newTest(t, Options{})
	ln, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	im := netem.MustParse("mtu=1400,delay=1ms")
	f := forward(t, netem.UDPConfig{To: ln.Addr().String(), Up: im, Down: im})
	a, err := s.Dial(t.Context(), f.Addr().String())
	require.NoError(t, err)
	defer a.Close()
	b, err := ln.Accept()
	require.NoError(t, err)
	defer b.Close()
	transfer(t, a, b, 1<<20)
	require.Less(t, a.(*link).mtu.size, 1400)
}

// narrow takes no packets that are as long as an INIT.
type narrow struct{ transport }

func (n narrow) write(to netip.AddrPort, b *batch) (int, error) {
	for i, p := range b.packets {
		if p.size >= initLen {
			return i, errTooBig
		}
	}
	return n.transport.write(to, b)
}

// TestTooNarrow: a path that doesn't take the packets that every path should is told from one that is just silent.
func TestTooNarrow(t *testing.T) {
	s := newTest(t, Options{})
	ln, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	im := netem.MustParse("mtu=1100")
	f := forward(t, netem.UDPConfig{To: ln.Addr().String(), Up: im, Down: im})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = s.Dial(ctx, f.Addr().String())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorContains(t, err, "none of 1200 bytes")

	here := newTest(t, Options{open: func(ctx context.Context, network, address string) (transport, error) {
		tr, err := listenKernel(ctx, network, address)
		return narrow{tr}, err
	}})
	_, err = here.Dial(t.Context(), ln.Addr().String()) // at once, or never
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorContains(t, err, "doesn't take packets of 1200 bytes")
}

// TestPlainTransport: a system without batches moves one datagram at a time.
func TestPlainTransport(t *testing.T) {
	plain := func(ctx context.Context, network, address string) (transport, error) {
		tr, err := listenKernel(ctx, network, address)
		if err == nil {
			tr.(*kernel).reader = nil // as on systems without batches
		}
		return tr, err
	}
	s := newTest(t, Options{open: plain})
	a, b := pair(t, s, s)
	transfer(t, a, b, 3<<20)
	transfer(t, b, a, 3<<20)
}

// TestNoSegmentation: a way out that can't cut packets takes them one by one.
func TestNoSegmentation(t *testing.T) {
	open := func(ctx context.Context, network, address string) (transport, error) {
		tr, err := listenKernel(ctx, network, address)
		if err == nil {
			tr.(*kernel).cuts = false
		}
		return tr, err
	}
	s := newTest(t, Options{open: open, MTU: 1400})
	a, b := pair(t, s, s)
	transfer(t, a, b, 3<<20)
}

// TestFullSegments: packets of the usual size, cut and joined by the kernel.
func TestFullSegments(t *testing.T) {
	open := func(ctx context.Context, network, address string) (transport, error) {
		tr, err := listenKernel(ctx, network, address)
		if err == nil {
			tr.(*kernel).joins = false // so that they don't become long packets
		}
		return tr, err
	}
	s := newTest(t, Options{open: open, MTU: 1472})
	a, b := pair(t, s, s)
	transfer(t, a, b, 10<<20)
}

// TestPeerDies: a process that is gone, or a new one in its place, is noticed long before the path counts as down.
func TestPeerDies(t *testing.T) {
	for _, again := range []bool{false, true} {
		s, other := newTest(t, Options{PathDown: time.Hour}), newTest(t, Options{})
		ln, err := other.Listen(t.Context(), "127.0.0.1:0")
		require.NoError(t, err)
		address := ln.Addr().String()
		a, err := s.Dial(t.Context(), address)
		require.NoError(t, err)
		b, err := ln.Accept()
		require.NoError(t, err)
		require.NoError(t, b.(*link).sock.tr.close()) // without a word
		if again {
			heir, err := newTest(t, Options{}).Listen(t.Context(), address)
			require.NoError(t, err)
			defer heir.Close()
		}
		_, err = a.Send(0, [][]byte{{1}})
		require.NoError(t, err)
		require.NoError(t, a.SetRecvDeadline(time.Now().Add(20*time.Second)))
		_, err = a.Recv(make([]byte, 1))
		require.ErrorIs(t, err, substrate.ErrPathDown)
	}
}

// TestIPv6 uses the other family.
func TestIPv6(t *testing.T) {
	if c, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here:", err)
	} else {
		c.Close()
	}
	s := newTest(t, Options{})
	for _, at := range []string{"[::1]:0", ":0"} {
		ln, err := s.Listen(t.Context(), at)
		require.NoError(t, err)
		_, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		hosts := []string{"::1"}
		if at == ":0" {
			hosts = append(hosts, "127.0.0.1", "::", "") // and v4 on the same socket
		}
		for _, host := range hosts {
			a, err := s.Dial(t.Context(), net.JoinHostPort(host, port))
			require.NoError(t, err)
			b, err := ln.Accept()
			require.NoError(t, err)
			transfer(t, a, b, 1<<20)
			transfer(t, b, a, 1<<20)
			require.NoError(t, a.Close())
			require.NoError(t, b.Close())
		}
		require.NoError(t, ln.Close())
	}
}
