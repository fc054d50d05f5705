package netem

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait of a test for the real network.
const patience = 20 * time.Second

// udpSocket is a socket on the loopback interface.
func udpSocket(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

func forward(t *testing.T, cfg UDPConfig, to *net.UDPConn) *Forwarder {
	t.Helper()
	cfg.Listen, cfg.To = "127.0.0.1:0", to.LocalAddr().String()
	f, err := ForwardUDP(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

// exchange sends b from a to the forwarder and returns what b's peer reads, and from whom.
func exchange(t *testing.T, from *net.UDPConn, f *Forwarder, to *net.UDPConn, b []byte) ([]byte, netip.AddrPort) {
	t.Helper()
	_, err := from.WriteTo(b, f.Addr())
	require.NoError(t, err)
	p := make([]byte, 1<<16)
	n, source, err := to.ReadFromUDPAddrPort(p)
	require.NoError(t, err)
	return p[:n], source
}

// TestForwardUDPBothWays: every byte arrives, from a port for each client, and answers find their way back to who asked.
func TestForwardUDPBothWays(t *testing.T) {
	server := udpSocket(t)
	f := forward(t, UDPConfig{Up: MustParse("delay=2ms"), Down: MustParse("delay=1ms")}, server)
	clients := []*net.UDPConn{udpSocket(t), udpSocket(t)}
	sources := make([]netip.AddrPort, 2)
	for round, size := range []int{0, 1, 1200, 40_000} {
		for i, c := range clients {
			data := make([]byte, size)
			for j := range data {
				data[j] = byte(rand.Uint32())
			}
			begin := time.Now()
			got, source := exchange(t, c, f, server, data)
			require.True(t, bytes.Equal(data, got))
			require.GreaterOrEqual(t, time.Since(begin), 2*time.Millisecond)
			if round > 0 {
				require.Equal(t, sources[i], source, "a client keeps its port")
			}
			sources[i] = source
			_, err := server.WriteToUDPAddrPort(data, source)
			require.NoError(t, err)
			p := make([]byte, 1<<16)
			n, from, err := c.ReadFrom(p)
			require.NoError(t, err)
			require.Equal(t, f.Addr().String(), from.String())
			require.True(t, bytes.Equal(data, p[:n]))
		}
	}
	require.NotEqual(t, sources[0], sources[1])
	up, down := f.Stats()
	require.EqualValues(t, 8, up.Delivered)
	require.EqualValues(t, 8, down.Delivered)
}

// TestForwardUDPStream: with loss, copies and damage in play, what arrives over real sockets is what the pipe decided.
func TestForwardUDPStream(t *testing.T) {
	server, client := udpSocket(t), udpSocket(t)
	im := MustParse("loss=10%,burst=3,dup=10%,corrupt=5%")
	f := forward(t, UDPConfig{Up: im, Seed: 5}, server)
	const n, size = 500, 400
	want := NewPipe(im, 5)
	for i := range n {
		b := bytes.Repeat([]byte{byte(i)}, size)
		_, err := client.WriteTo(b, f.Addr())
		require.NoError(t, err)
		for _, d := range want.Admit(epoch, size) { // one after the other: no buffer on the way fills up
			expected := bytes.Clone(b)
			if d.Flip >= 0 {
				expected[d.Flip/8] ^= 1 << (d.Flip % 8)
			}
			p := make([]byte, size+1)
			k, _, err := server.ReadFromUDPAddrPort(p)
			require.NoError(t, err)
			require.Equal(t, expected, p[:k])
		}
	}
	up, _ := f.Stats()
	require.Equal(t, want.Stats(), up)
}

func TestForwardUDPRebinds(t *testing.T) {
	server, client := udpSocket(t), udpSocket(t)
	f := forward(t, UDPConfig{}, server)
	_, before := exchange(t, client, f, server, []byte("1"))
	require.NoError(t, f.Rebind())
	_, after := exchange(t, client, f, server, []byte("2"))
	require.NotEqual(t, before, after)
	_, err := server.WriteToUDPAddrPort([]byte("lost"), before)
	require.NoError(t, err)
	_, err = server.WriteToUDPAddrPort([]byte("found"), after)
	require.NoError(t, err)
	p := make([]byte, 10)
	k, _, err := client.ReadFrom(p)
	require.NoError(t, err)
	require.Equal(t, "found", string(p[:k]))

	periodic := forward(t, UDPConfig{Rebind: 20 * time.Millisecond}, server)
	_, first := exchange(t, client, periodic, server, []byte("3"))
	for deadline := time.Now().Add(patience); ; {
		if _, now := exchange(t, client, periodic, server, []byte("4")); now != first {
			break
		}
		require.True(t, time.Now().Before(deadline), "the port never changed")
	}
}

func TestForwardUDPBoundsAndForgetsClients(t *testing.T) {
	server := udpSocket(t)
	f := forward(t, UDPConfig{Clients: 1, Idle: 50 * time.Millisecond}, server)
	one, two := udpSocket(t), udpSocket(t)
	exchange(t, one, f, server, []byte("1"))
	now, _ := f.Clients()
	require.LessOrEqual(t, now, 1)
	// The second is ignored until the first has been idle for long enough.
	require.NoError(t, server.SetReadDeadline(time.Time{}))
	arrived := make(chan byte, 1)
	go func() {
		p := make([]byte, 1)
		if _, _, err := server.ReadFromUDPAddrPort(p); err == nil {
			arrived <- p[0]
		}
		close(arrived)
	}()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	limit := time.After(patience)
	for done := false; !done; {
		_, err := two.WriteTo([]byte("2"), f.Addr())
		require.NoError(t, err)
		select {
		case got := <-arrived:
			require.Equal(t, byte('2'), got)
			done = true
		case <-again.C:
		case <-limit:
			require.Fail(t, "the idle client was never forgotten")
		}
	}
	_, refused := f.Clients()
	require.NotZero(t, refused)
}

func TestForwardUDPSet(t *testing.T) {
	server, client := udpSocket(t), udpSocket(t)
	f := forward(t, UDPConfig{Up: MustParse("mtu=3")}, server)
	_, err := client.WriteTo([]byte("long"), f.Addr())
	require.NoError(t, err)
	got, _ := exchange(t, client, f, server, []byte("abc"))
	require.Equal(t, "abc", string(got))
	require.NoError(t, f.Set(Impairment{}, Impairment{}))
	got, _ = exchange(t, client, f, server, []byte("long"))
	require.Equal(t, "long", string(got))
	require.Error(t, f.Set(Impairment{Loss: -1}, Impairment{}))
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
}

func TestForwardUDPRefusesNonsense(t *testing.T) {
	for _, cfg := range []UDPConfig{
		{Listen: "127.0.0.1:0", To: "127.0.0.1"},
		{Listen: "127.0.0.1:99999", To: "127.0.0.1:9"},
		{Listen: "127.0.0.1:0", To: "127.0.0.1:9", Up: Impairment{Loss: 2}},
		{Listen: "127.0.0.1:0", To: "127.0.0.1:9", Idle: -1},
	} {
		_, err := ForwardUDP(t.Context(), cfg)
		require.ErrorContains(t, err, "udp forwarder: ")
	}
}

// BenchmarkForwardUDP is the time per datagram of 1400 bytes from socket to socket through the forwarder, a window of 64 on the way.
func BenchmarkForwardUDP(b *testing.B) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(b, err)
	defer server.Close()
	f, err := ForwardUDP(b.Context(), UDPConfig{Listen: "127.0.0.1:0", To: server.LocalAddr().String()})
	require.NoError(b, err)
	defer f.Close()
	c, err := net.Dial("udp", f.Addr().String())
	require.NoError(b, err)
	defer c.Close()
	require.NoError(b, server.SetReadDeadline(time.Now().Add(time.Minute)))
	p, sent := make([]byte, 1400), 0
	b.SetBytes(int64(len(p)))
	for got := range b.N {
		for ; sent < b.N && sent < got+64; sent++ {
			binary.BigEndian.PutUint64(p, uint64(sent))
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := server.ReadFromUDPAddrPort(p); err != nil {
			b.Fatal(err)
		}
	}
}
