package netem

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newPath makes a path, or skips where that isn't allowed.
func newPath(t testing.TB, cfg PathConfig) *Path {
	t.Helper()
	p, err := NewPath(cfg)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// tcpPair returns the two ends of a kernel TCP connection from A to B.
func tcpPair(t testing.TB, p *Path) (a, b net.Conn) {
	t.Helper()
	var ln net.Listener
	err := p.B.In(func() (err error) {
		ln, err = net.Listen("tcp", net.JoinHostPort(p.B.Addr.String(), "0"))
		return err
	})
	require.NoError(t, err)
	defer ln.Close()
	err = p.A.In(func() (err error) {
		a, err = net.DialTimeout("tcp", ln.Addr().String(), patience)
		return err
	})
	require.NoError(t, err)
	b, err = ln.Accept()
	require.NoError(t, err)
	for _, c := range []net.Conn{a, b} {
		t.Cleanup(func() { c.Close() })
		require.NoError(t, c.SetDeadline(time.Now().Add(60*time.Second)))
	}
	return a, b
}

// TestPathCarriesTCP: the kernel's TCP meets every mishap at once, packet by packet, and still delivers byte by byte.
func TestPathCarriesTCP(t *testing.T) {
	for name, spec := range map[string]string{
		"loss":       "delay=2ms,loss=1%",
		"everything": "rate=100mbit,delay=2ms,jitter=500us,loss=1%,burst=2,dup=2%,reorder=1%,gap=1ms,corrupt=0.5%",
	} {
		t.Run(name, func(t *testing.T) {
			im := MustParse(spec)
			p := newPath(t, PathConfig{Up: im, Down: im, Seed: 11})
			a, b := tcpPair(t, p)
			data := make([]byte, 2<<20)
			rand.NewChaCha8([32]byte{}).Read(data)
			sent := make(chan error, 1)
			go func() {
				_, err := a.Write(data)
				sent <- errors.Join(err, a.(*net.TCPConn).CloseWrite())
			}()
			h := sha256.New()
			n, err := io.Copy(h, b)
			require.NoError(t, err)
			require.NoError(t, <-sent)
			require.EqualValues(t, len(data), n)
			require.Equal(t, sha256.Sum256(data), [32]byte(h.Sum(nil)))
			up, down := p.Stats()
			require.Greater(t, up.Admitted, uint64(len(data)/1500), "MTU-sized packets, no offloads")
			require.NotZero(t, up.Lost)
			for _, s := range []Stats{up, down} {
				require.Equal(t, s.Admitted+s.Duplicated, s.Delivered+s.Dropped())
			}
		})
	}
}

// TestPathMarksTCP: the kernel's TCP asks for ECN, is marked where the queue is longer than said, and loses nothing.
func TestPathMarksTCP(t *testing.T) {
	p := newPath(t, PathConfig{Up: MustParse("rate=50mbit,delay=4ms,queue=1m,ecn=40k"), Down: MustParse("delay=4ms")})
	for _, h := range []*Host{p.A, p.B} {
		require.NoError(t, h.In(func() error {
			return errors.Join(
				os.WriteFile("/proc/sys/net/ipv4/tcp_ecn", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0), // BBR doesn't listen
			)
		}))
	}
	a, b := tcpPair(t, p)
	const size = 4 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := a.Write(make([]byte, size))
		sent <- errors.Join(err, a.(*net.TCPConn).CloseWrite())
	}()
	n, err := io.Copy(io.Discard, b)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.EqualValues(t, size, n)
	up, _ := p.Stats()
	t.Logf("%d of %d packets marked, %v in the queue on average, %d bytes at most", up.Marked, up.Admitted, up.MeanWait(), up.MaxQueue)
	require.NotZero(t, up.Marked)
	require.Less(t, up.Marked, up.Admitted/2)
	require.Zero(t, up.Dropped())
}

// TestPathRunsPrograms: a program is started in the host's network, not in ours.
func TestPathRunsPrograms(t *testing.T) {
	p := newPath(t, PathConfig{Up: MustParse("delay=5ms"), Down: MustParse("delay=5ms"), MTU: 1280})
	cmd := exec.Command("cat", "/proc/self/net/dev")
	var out bytes.Buffer
	cmd.Stdout = &out
	require.NoError(t, p.A.Start(cmd))
	require.NoError(t, cmd.Wait())
	require.Contains(t, out.String(), "netem0:")
	require.Contains(t, out.String(), "lo:")
	own, err := os.ReadFile("/proc/self/net/dev")
	require.NoError(t, err)
	require.NotContains(t, string(own), "netem0:")
}

// TestPathRoundTrip: a datagram there and back takes the delay of both directions, and Set changes it.
func TestPathRoundTrip(t *testing.T) {
	p := newPath(t, PathConfig{Up: MustParse("delay=20ms"), Down: MustParse("delay=10ms")})
	var a, b *net.UDPConn
	require.NoError(t, p.B.In(func() (err error) {
		b, err = net.ListenUDP("udp", &net.UDPAddr{IP: p.B.Addr.AsSlice()})
		return err
	}))
	defer b.Close()
	require.NoError(t, p.A.In(func() (err error) {
		a, err = net.DialUDP("udp", nil, b.LocalAddr().(*net.UDPAddr))
		return err
	}))
	defer a.Close()
	require.NoError(t, a.SetDeadline(time.Now().Add(patience)))
	require.NoError(t, b.SetDeadline(time.Now().Add(patience)))
	buf := make([]byte, 2000)
	roundTrip := func(size int) time.Duration {
		begin := time.Now()
		_, err := a.Write(buf[:size])
		require.NoError(t, err)
		n, from, err := b.ReadFromUDPAddrPort(buf)
		require.NoError(t, err)
		require.Equal(t, size, n)
		_, err = b.WriteToUDPAddrPort(buf[:1], from)
		require.NoError(t, err)
		_, err = a.Read(buf)
		require.NoError(t, err)
		return time.Since(begin)
	}
	require.GreaterOrEqual(t, roundTrip(100), 30*time.Millisecond)
	require.NoError(t, p.Set(MustParse("mtu=1000"), Impairment{}))
	_, err := a.Write(buf[:1200])
	require.NoError(t, err)
	roundTrip(900)
	up, _ := p.Stats()
	require.EqualValues(t, 1, up.TooLarge)
	require.Error(t, p.Set(Impairment{Loss: 2}, Impairment{}))
}

func TestPathRefusesNonsense(t *testing.T) {
	_, err := NewPath(PathConfig{MTU: 10})
	require.ErrorContains(t, err, "MTU 10: want 68 to 65535")
	_, err = NewPath(PathConfig{Down: Impairment{Loss: 2}})
	require.ErrorContains(t, err, "down: loss=2")
}

// BenchmarkPathTCP is the throughput of one kernel TCP connection over paths with 1500-byte packets.
func BenchmarkPathTCP(b *testing.B) {
	for _, spec := range []string{"none", "rate=200mbit,delay=1ms", "rate=500mbit,delay=1ms"} {
		b.Run(spec, func(b *testing.B) {
			im := MustParse(spec)
			p := newPath(b, PathConfig{Up: im, Down: im})
			from, to := tcpPair(b, p)
			chunk := make([]byte, 64<<10)
			b.SetBytes(int64(len(chunk)))
			got := make(chan error, 1)
			go func() {
				_, err := io.CopyN(io.Discard, to, int64(b.N*len(chunk)))
				got <- err
			}()
			begin := time.Now()
			for range b.N {
				if _, err := from.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-got; err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N*len(chunk)*8)/time.Since(begin).Seconds()/1e6, "Mb/s")
			up, _ := p.Stats()
			if b.N > 1 {
				b.Log("up: " + strconv.FormatUint(up.Admitted, 10) + " packets, dropped " + strconv.FormatUint(up.Dropped(), 10))
			}
		})
	}
}

func TestHint(t *testing.T) {
	require.ErrorContains(t, hint(os.ErrPermission), "needs root")
	require.Equal(t, io.EOF, hint(io.EOF))
}
