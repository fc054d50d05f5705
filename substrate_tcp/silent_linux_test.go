package tcp

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// silentPort returns an address that answers no dial: a listener whose queue is full, where Linux drops what comes. The
// standard library can't make one, for it chooses the longest queue itself.
func silentPort(t *testing.T) string {
	l, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(l) })
	loopback := [4]byte{127, 0, 0, 1}
	require.NoError(t, syscall.Bind(l, &syscall.SockaddrInet4{Addr: loopback}))
	require.NoError(t, syscall.Listen(l, 0))
	addr, err := syscall.Getsockname(l)
	require.NoError(t, err)
	port := addr.(*syscall.SockaddrInet4).Port
	// A queue of length 0 holds one.
	c, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(c) })
	require.NoError(t, syscall.Connect(c, &syscall.SockaddrInet4{Addr: loopback, Port: port}))
	return fmt.Sprintf("127.0.0.1:%d", port)
}
