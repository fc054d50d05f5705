package sys

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// unixPair returns the two ends of a UNIX connection.
func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

// copies is how many descriptors of this process are open on the same file as f.
func copies(t *testing.T, f *os.File) int {
	t.Helper()
	want, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	require.NoError(t, err)
	open, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	n := 0
	for _, p := range open {
		if to, err := os.Readlink(p); err == nil && to == want {
			n++
		}
	}
	return n
}

// TestDescriptorsOfStrangers: whoever sends more or fewer descriptors than were agreed on, or other bytes, leaves none behind.
func TestDescriptorsOfStrangers(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "counted")
	require.NoError(t, err)
	defer f.Close()
	fd := int(f.Fd())
	for _, c := range []struct {
		name string
		text string
		fds  []int
		good bool
	}{
		{"as agreed", "1234", []int{fd, fd}, true},
		{"none", "1234", nil, false},
		{"one", "1234", []int{fd}, false},
		{"three", "1234", []int{fd, fd, fd}, false},
		{"many", "1234", make([]int, 200), false},
		{"short", "12", []int{fd, fd}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.fds {
				c.fds[i] = fd
			}
			a, b := unixPair(t)
			require.NoError(t, SendFDs(a, []byte(c.text), c.fds...))
			require.NoError(t, a.CloseWrite())
			got := []int{-1, -1}
			err := RecvFDs(b, make([]byte, 4), got)
			if c.good {
				require.NoError(t, err)
				require.Equal(t, 3, copies(t, f))
				for _, fd := range got {
					flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
					require.NoError(t, err)
					require.NotZero(t, flags&unix.FD_CLOEXEC)
					require.NoError(t, CloseFD(fd))
				}
			} else {
				require.Error(t, err)
			}
			require.Equal(t, 1, copies(t, f))

			a, b = unixPair(t)
			require.NoError(t, SendFDs(a, []byte(c.text), c.fds...))
			got1, err := RecvFile(b, make([]byte, 4))
			if c.name == "one" {
				require.NoError(t, err)
				require.NoError(t, got1.Close())
			} else {
				require.Error(t, err)
			}
			require.Equal(t, 1, copies(t, f))
		})
	}
	a, b := unixPair(t)
	require.NoError(t, a.Close())
	require.Error(t, RecvFDs(b, make([]byte, 1), nil))
}

// TestMapOnlySealed: memory whose owner could cut it short under us, and memory of another size, isn't mapped.
func TestMapOnlySealed(t *testing.T) {
	size := os.Getpagesize()
	good, err := SharedMemory("sockemu-test", size)
	require.NoError(t, err)
	defer good.Close()
	require.ErrorIs(t, good.Truncate(0), unix.EPERM)
	_, err = MapShared(good, 2*size)
	require.ErrorContains(t, err, "want")
	m, err := MapShared(good, size)
	require.NoError(t, err)
	m[0] = 7
	require.NoError(t, Unmap(m))

	fd, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	require.NoError(t, err)
	bad := os.NewFile(uintptr(fd), "unsealed")
	defer bad.Close()
	require.NoError(t, bad.Truncate(int64(size)))
	_, err = MapShared(bad, size)
	require.ErrorContains(t, err, "seals")
	plain, err := os.CreateTemp(t.TempDir(), "plain")
	require.NoError(t, err)
	defer plain.Close()
	_, err = MapShared(plain, 0)
	require.Error(t, err)
}

// TestIsEvent: only an event counter is one; a Signal is an edge that a poller sees.
func TestIsEvent(t *testing.T) {
	fd, err := NewEvent()
	require.NoError(t, err)
	require.True(t, IsEvent(fd))
	Signal(fd)
	var b [8]byte
	n, err := unix.Read(fd, b[:])
	require.NoError(t, err)
	require.Equal(t, 8, n)
	require.NoError(t, CloseFD(fd))
	require.False(t, IsEvent(fd))
	f, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer f.Close()
	require.False(t, IsEvent(int(f.Fd())))
}

// TestPeerCredentials: the kernel says who is at the other end.
func TestPeerCredentials(t *testing.T) {
	a, _ := unixPair(t)
	uid, err := PeerUID(a)
	require.NoError(t, err)
	require.Equal(t, os.Getuid(), uid)
	pid, uid, err := PeerProcess(a)
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), pid)
	require.Equal(t, os.Getuid(), uid)
	require.NoError(t, a.Close())
	_, err = PeerUID(a)
	require.ErrorIs(t, err, net.ErrClosed)
	_, _, err = PeerProcess(a)
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestHangups: each end that goes is told of once, by its name, and nobody else.
func TestHangups(t *testing.T) {
	h, err := NewHangups()
	require.NoError(t, err)
	told, ended := make(chan int32, 10), make(chan struct{})
	go func() {
		defer close(ended)
		h.Wait(func(id int32) { told <- id })
	}()
	var others []*net.UnixConn
	for id := range int32(3) {
		a, b := unixPair(t)
		require.NoError(t, h.Add(a, id))
		others = append(others, b)
	}
	for _, id := range []int32{1, 0, 2} {
		require.NoError(t, others[id].Close())
		require.Equal(t, id, <-told)
	}
	require.NoError(t, h.Close())
	<-ended
	require.Empty(t, told)
	a, _ := unixPair(t)
	require.Error(t, h.Add(a, 9))
}
