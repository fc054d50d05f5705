package sys

import (
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// udpSocket opens a UDP socket on loopback with all options.
func udpSocket(t *testing.T) (fd uintptr, addr netip.AddrPort, joins, cuts bool) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(f uintptr) { fd = f }))
	joins, cuts, err = SetUDPOptions(fd, false, true)
	require.NoError(t, err)
	n, err := ForceSocketBuffers(fd, 1<<20)
	require.NoError(t, err)
	require.Positive(t, n)
	return fd, c.LocalAddr().(*net.UDPAddr).AddrPort(), joins, cuts
}

// TestBatchLayout: the kernel steps through an array of structures that are as long as C makes them, on systems of 32 bits, too.
func TestBatchLayout(t *testing.T) {
	const word = unsafe.Sizeof(uintptr(0))
	require.Zero(t, unsafe.Offsetof(mmsghdr{}.n)-unsafe.Sizeof(unix.Msghdr{}))
	require.Equal(t, (unsafe.Sizeof(unix.Msghdr{})+4+word-1)/word*word, unsafe.Sizeof(mmsghdr{}))
}

// TestUDP sends three datagrams in one call, and one that is gathered, and receives them all.
func TestUDP(t *testing.T) {
	a, from, _, cuts := udpSocket(t)
	b, to, _, _ := udpSocket(t)
	r, err := NewUDPReader(4)
	require.NoError(t, err)
	msgs := make([]UDPMessage, 4)
	for i := range msgs {
		msgs[i].Buf = make([]byte, 1<<16)
	}
	_, err = r.Recv(b, msgs)
	require.Equal(t, unix.EAGAIN, err)
	var w UDPWriter
	want := []byte("one|two|3")
	require.NoError(t, w.Send(a, false, to, [][]byte{want[:5], nil, want[5:]}, 0, 0))
	if cuts {
		require.NoError(t, w.Send(a, false, to, [][]byte{want}, 4, 0))
		want = append(want, want...)
	}
	var got []byte
	require.Eventually(t, func() bool {
		n, err := r.Recv(b, msgs)
		if err != nil {
			return false
		}
		for _, m := range msgs[:n] {
			require.Equal(t, from, m.From)
			require.False(t, m.Truncated)
			require.Contains(t, []int{m.N, 4}, m.Segment)
			got = append(got, m.Buf[:m.N]...)
		}
		return len(got) >= len(want)
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, want, got)

	require.Equal(t, unix.EINVAL, w.Send(a, false, to, nil, 0, 0))
	require.Equal(t, unix.EBADF, w.Send(^uintptr(0), false, to, [][]byte{{1}}, 0, 0))
	_, err = r.Recv(^uintptr(0), msgs)
	require.Equal(t, unix.EBADF, err)
}

func TestUDPTruncated(t *testing.T) {
	a, _, _, _ := udpSocket(t)
	b, to, _, _ := udpSocket(t)
	r, err := NewUDPReader(1)
	require.NoError(t, err)
	var w UDPWriter
	require.NoError(t, w.Send(a, false, to, [][]byte{make([]byte, 100)}, 0, 0))
	msgs := []UDPMessage{{Buf: make([]byte, 10)}}
	require.Eventually(t, func() bool { _, err = r.Recv(b, msgs); return err == nil }, 10*time.Second, time.Millisecond)
	require.True(t, msgs[0].Truncated)
	require.Equal(t, 10, msgs[0].N)
}

// TestUDPError: the kernel tells that nobody listens there, and what was sent.
func TestUDPError(t *testing.T) {
	a, _, _, _ := udpSocket(t)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	to := c.LocalAddr().(*net.UDPAddr).AddrPort()
	require.NoError(t, c.Close())
	var w UDPWriter
	p := make([]byte, 8)
	_, _, _, ok := UDPError(a, p)
	require.False(t, ok)
	require.NoError(t, w.Send(a, false, to, [][]byte{[]byte("hello")}, 0, 0))
	var at netip.AddrPort
	var errno error
	n := 0
	require.Eventually(t, func() bool { at, errno, n, ok = UDPError(a, p); return ok }, 10*time.Second, time.Millisecond)
	require.Equal(t, to, at)
	require.Equal(t, unix.ECONNREFUSED, errno)
	require.Equal(t, "hello", string(p[:n]))
}

func TestRoute(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	require.NoError(t, err)
	n, source, err := Route(netip.MustParseAddrPort("127.0.0.1:9"))
	require.NoError(t, err)
	require.Equal(t, netip.MustParseAddr("127.0.0.1"), source)
	require.Equal(t, min(lo.MTU, 65535), n, "an IP packet has no more")
}
