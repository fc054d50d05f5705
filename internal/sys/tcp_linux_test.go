package sys

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pair returns the descriptors of two connected TCP sockets, and a function that closes the first connection.
func pair(t *testing.T) (a, b uintptr, closeA func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	fd := func(c net.Conn, err error) (uintptr, net.Conn) {
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		raw, err := c.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		var fd uintptr
		require.NoError(t, raw.Control(func(f uintptr) { fd = f }))
		return fd, c
	}
	a, c := fd(net.Dial("tcp", ln.Addr().String()))
	b, _ = fd(ln.Accept())
	return a, b, func() { c.Close() }
}

func TestRecvNow(t *testing.T) {
	a, b, closeA := pair(t)
	p := make([]byte, 4)
	_, err := RecvNow(b, p)
	require.Equal(t, unix.EAGAIN, err)
	_, err = unix.Write(int(a), []byte("123456"))
	require.NoError(t, err)
	n, err := RecvNow(b, p)
	require.NoError(t, err)
	require.Equal(t, "1234", string(p[:n]))
	_, err = RecvNow(b, nil)
	require.Equal(t, unix.EAGAIN, err)
	closeA()
	n, err = RecvNow(b, p)
	require.NoError(t, err)
	require.Equal(t, "56", string(p[:n]))
	require.Eventually(t, func() bool { n, err = RecvNow(b, p); return err == nil }, 10*time.Second, time.Millisecond)
	require.Zero(t, n)
	_, err = RecvNow(^uintptr(0), p)
	require.Equal(t, unix.EBADF, err)
}

func TestRecvNowDoesNotBlock(t *testing.T) {
	_, b, _ := pair(t)
	require.NoError(t, unix.SetNonblock(int(b), false)) // os.File.Fd does so to a copy of a descriptor, and to all that share it
	_, err := RecvNow(b, make([]byte, 1))
	require.Equal(t, unix.EAGAIN, err)
	require.NoError(t, unix.SetNonblock(int(b), true))
}

func TestTCPInfo(t *testing.T) {
	a, b, closeA := pair(t)
	info, err := TCPInfo(a)
	require.NoError(t, err)
	require.Equal(t, TCPEstablished, info.State)
	require.Positive(t, info.RTT)
	closeA()
	require.Eventually(t, func() bool {
		info, err = TCPInfo(b)
		return err == nil && info.State == TCPCloseWait
	}, 10*time.Second, time.Millisecond)
	_, err = TCPInfo(^uintptr(0))
	require.ErrorIs(t, err, unix.EBADF)
}

// TestAppLimited: one small message after another doesn't fill any path.
func TestAppLimited(t *testing.T) {
	a, b, _ := pair(t)
	p := make([]byte, 1)
	for range 20 {
		_, err := unix.Write(int(a), p)
		require.NoError(t, err)
		require.Eventually(t, func() bool { n, _ := RecvNow(b, p); return n == 1 }, 10*time.Second, time.Millisecond)
	}
	info, err := TCPInfo(a)
	require.NoError(t, err)
	require.True(t, info.AppLimited)
}

func TestSetTCPCongestion(t *testing.T) {
	a, _, _ := pair(t)
	require.NoError(t, SetTCPCongestion(a, "reno"))
	name, err := unix.GetsockoptString(int(a), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	require.NoError(t, err)
	require.Equal(t, "reno", name)
	require.ErrorIs(t, SetTCPCongestion(a, "wishful"), unix.ENOENT)
}

func TestSetSocketBuffers(t *testing.T) {
	a, _, _ := pair(t)
	before, err := unix.GetsockoptInt(int(a), unix.SOL_SOCKET, unix.SO_RCVBUF)
	require.NoError(t, err)
	require.NoError(t, SetSocketBuffers(a, 0, 50_000))
	after, err := unix.GetsockoptInt(int(a), unix.SOL_SOCKET, unix.SO_RCVBUF)
	require.NoError(t, err)
	require.Equal(t, before, after, "0 leaves it alone")
	send, err := unix.GetsockoptInt(int(a), unix.SOL_SOCKET, unix.SO_SNDBUF)
	require.NoError(t, err)
	require.Equal(t, 100_000, send) // the kernel doubles: see socket(7)
	require.ErrorIs(t, SetSocketBuffers(^uintptr(0), 1, 1), unix.EBADF)
}

func TestSocketError(t *testing.T) {
	a, b, closeA := pair(t)
	require.NoError(t, SocketError(b))
	require.NoError(t, unix.SetsockoptLinger(int(a), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	closeA() // with a reset
	var err error
	require.Eventually(t, func() bool { err = SocketError(b); return err != nil }, 10*time.Second, time.Millisecond)
	require.Equal(t, unix.ECONNRESET, err)
	require.NoError(t, SocketError(b), "it is told once")
}
