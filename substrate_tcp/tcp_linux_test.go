package tcp

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// onFD runs f on the descriptor of a link.
func onFD(t *testing.T, l substrate.Link, f func(fd int)) {
	t.Helper()
	raw, err := l.(*link).rawConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { f(int(fd)) }))
}

// await waits until the kernel shows the connection of l in the given state: on loopback, at once or almost.
func await(t *testing.T, l substrate.Link, want sys.TCPState) {
	t.Helper()
	require.Eventually(t, func() (there bool) {
		onFD(t, l, func(fd int) {
			info, err := sys.TCPInfo(uintptr(fd))
			require.NoError(t, err)
			there = info.State == want
		})
		return there
	}, 10*time.Second, time.Millisecond)
}

// TestDrainAfterReset: Linux keeps what had arrived, and Drain gives it out before the error, which then stays.
func TestDrainAfterReset(t *testing.T) {
	a, b := pair(t, Options{})
	_, err := a.Send(0, [][]byte{[]byte("queued")})
	require.NoError(t, err)
	b.Interrupt()
	abort(a)
	await(t, b, sys.TCPClosed)
	p := make([]byte, 4)
	n, err := b.Drain(p)
	require.NoError(t, err)
	require.Equal(t, "queu", string(p[:n]))
	n, err = b.Drain(p)
	require.NoError(t, err)
	require.Equal(t, "ed", string(p[:n]))
	for range 3 { // the kernel tells the error once and then pretends that the stream has ended
		_, err = b.Drain(p)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.ErrorIs(t, err, substrate.ErrPathDown)
	}
}

// TestSendTakesTheError: after a Send has been told of the reset, Recv must not take what the kernel shows for an end.
func TestSendTakesTheError(t *testing.T) {
	a, b := pair(t, Options{})
	abort(a)
	await(t, b, sys.TCPClosed)
	_, err := b.Send(0, [][]byte{{1}})
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = b.Recv(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// TestErrorTakenElsewhere is the same while that Send, in another goroutine, has not yet returned.
func TestErrorTakenElsewhere(t *testing.T) {
	a, b := pair(t, Options{})
	abort(a)
	await(t, b, sys.TCPClosed)
	onFD(t, b, func(fd int) { require.Equal(t, syscall.ECONNRESET, sys.SocketError(uintptr(fd))) })
	_, err := b.Recv(make([]byte, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
}

// TestResetAfterEnd: the peer ended in an orderly way and only then refused what was sent to it. That is an end.
func TestResetAfterEnd(t *testing.T) {
	for _, tell := range []string{"Recv first", "Send first"} {
		t.Run(tell, func(t *testing.T) {
			a, b := pair(t, Options{})
			_, err := a.Send(0, [][]byte{[]byte("last")})
			require.NoError(t, err)
			require.NoError(t, a.Close())
			await(t, b, sys.TCPCloseWait)
			_, err = b.Send(0, [][]byte{{1}})
			require.NoError(t, err)
			await(t, b, sys.TCPClosed)
			if tell == "Send first" {
				_, err = b.Send(0, [][]byte{{1}})
				require.ErrorIs(t, err, syscall.EPIPE)
				require.ErrorIs(t, err, substrate.ErrPathDown)
			}
			all, err := io.ReadAll(recvReader{b})
			require.NoError(t, err)
			require.Equal(t, "last", string(all))
			_, err = b.Send(0, [][]byte{{1}})
			require.ErrorIs(t, err, substrate.ErrPathDown)
			_, err = b.Drain(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func TestSocketOptions(t *testing.T) {
	const buffer = 64 << 10
	a, b := pair(t, Options{
		Congestion:  "reno",
		ReadBuffer:  buffer,
		WriteBuffer: buffer,
		KeepAlive:   net.KeepAliveConfig{Enable: true, Idle: 77 * time.Second},
	})
	for _, l := range []substrate.Link{a, b} {
		onFD(t, l, func(fd int) {
			get := func(level, opt int) int {
				v, err := syscall.GetsockoptInt(fd, level, opt)
				require.NoError(t, err)
				return v
			}
			require.Equal(t, 1, get(syscall.IPPROTO_TCP, syscall.TCP_NODELAY))
			require.Equal(t, 77, get(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE))
			require.Equal(t, 2*buffer, get(syscall.SOL_SOCKET, syscall.SO_RCVBUF)) // the kernel doubles: see socket(7)
			require.Equal(t, 2*buffer, get(syscall.SOL_SOCKET, syscall.SO_SNDBUF))
			require.Equal(t, syscall.IPPROTO_TCP, get(syscall.SOL_SOCKET, syscall.SO_PROTOCOL), "not multipath")
			name := get(syscall.IPPROTO_TCP, syscall.TCP_CONGESTION) // the first four letters of it
			require.Equal(t, "reno", string([]byte{byte(name), byte(name >> 8), byte(name >> 16), byte(name >> 24)}))
		})
	}
	slow, _ := pair(t, Options{Nagle: true})
	onFD(t, slow, func(fd int) {
		v, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
		require.NoError(t, err)
		require.Zero(t, v)
	})
}

func TestNoSuchCongestionControl(t *testing.T) {
	s := New(Options{Congestion: "wishful"})
	_, err := s.Dial(t.Context(), closedPort(t))
	require.ErrorIs(t, err, substrate.ErrConfig)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "wishful")
	_, err = s.Listen(t.Context(), "127.0.0.1:0")
	require.ErrorIs(t, err, substrate.ErrConfig)
}

func TestKernelCost(t *testing.T) {
	a, b := pair(t, Options{})
	go io.Copy(io.Discard, recvReader{b})
	for range 100 {
		_, err := a.Send(0, [][]byte{make([]byte, 100_000)})
		require.NoError(t, err)
	}
	c := a.Cost()
	require.Positive(t, c.RTT)
	require.Positive(t, c.Samples)
	require.Equal(t, substrate.SourceKernel, c.Source)
	require.NoError(t, b.Close())
	require.NoError(t, a.Close())
	require.Zero(t, a.Cost())
}
