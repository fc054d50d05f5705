package shm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// class requires err to be of a class and to say something, which it returns.
func class(t *testing.T, want substrate.Class, err error) string {
	t.Helper()
	var e *substrate.Error
	require.ErrorAs(t, err, &e)
	require.Equalf(t, want, e.Class, "%v", err)
	return err.Error()
}

func TestAddresses(t *testing.T) {
	dir, here := shortDir(t), host(t)
	s := New(Options{Dir: dir})
	path := filepath.Join(dir, "a.shm")
	for _, address := range []string{path, here + ":" + path} {
		l, err := s.Listen(t.Context(), address)
		require.NoError(t, err)
		require.Equal(t, here+":"+path, l.Addr().String())
		require.LessOrEqual(t, len(l.Addr().String()), 120)
		_, err = s.Listen(t.Context(), address)
		class(t, substrate.Config, err) // in use
		require.NoError(t, l.Close())
		require.NoError(t, l.Close())
		require.NoFileExists(t, path)
	}
	long := "/" + strings.Repeat("x", maxPath)
	for _, bad := range []string{"relative", "x:relative", ":/path", "00000000:/path", here + ":" + long, long} {
		_, err := s.Listen(t.Context(), bad)
		class(t, substrate.Config, err)
	}
	_, err := New(Options{Dir: long}).Listen(t.Context(), "")
	require.Contains(t, class(t, substrate.Config, err), "at most 107 bytes")
}

// TestDialRefusals: what a user is shown as the reason why shared memory was not chosen.
func TestDialRefusals(t *testing.T) {
	dir, here := shortDir(t), host(t)
	s := New(Options{})
	dead := filepath.Join(dir, "dead.shm")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	for _, c := range []struct {
		address string
		class   substrate.Class
		says    string
	}{
		{"0badb007:/tmp/x", substrate.Config, "other host: boot id 0badb007, here " + here},
		{here + ":" + dead, substrate.Refused, "refused"},
		{here + ":" + dir + "/none.shm", substrate.Refused, "no such socket"},
		{here + ":" + dir + "/sub/none.shm", substrate.Config, "the directory isn't shared with this process"},
		{here + ":" + dir, substrate.Refused, "refused"},
		{here + ":/" + strings.Repeat("x", maxPath), substrate.Config, "at most 107 bytes"},
		{"", substrate.Config, "want HOST:/path/of/socket"},
	} {
		_, err := s.Dial(t.Context(), c.address)
		require.Contains(t, class(t, c.class, err), c.says)
	}
	_, err = New(Options{RingSize: 12345}).Dial(t.Context(), here+":"+dead)
	require.Contains(t, class(t, substrate.Config, err), "power of two")

	again, err := s.Listen(t.Context(), dead)
	require.NoError(t, err, "a dead process's socket is taken over")
	require.NoError(t, again.Close())
}

// TestOrderlyEndOverDeath: who has said good-bye and then dies has ended, not broken.
func TestOrderlyEndOverDeath(t *testing.T) {
	a, b := pair(t, Options{})
	_, err := a.Send(0, [][]byte{[]byte("last words")})
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.Eventually(t, func() bool { return b.ctl.Load()&hungUp != 0 }, 10*time.Second, time.Millisecond)
	p := make([]byte, 100)
	n, err := b.Recv(p)
	require.NoError(t, err)
	require.Equal(t, "last words", string(p[:n]))
	_, err = b.Recv(p)
	require.ErrorIs(t, err, io.EOF)
}

// TestLastPiece: a Send whose bytes have all been taken is no failure, however soon the peer goes after it has received them.
func TestLastPiece(t *testing.T) {
	dir := shortDir(t)
	p := make([]byte, 2*piece)
	for range 200 {
		a, b := pair(t, Options{Dir: dir})
		var work sync.WaitGroup
		work.Go(func() {
			q := make([]byte, len(p))
			for got := 0; got < len(p); {
				n, err := b.Recv(q)
				if err != nil {
					t.Error(err)
					break
				}
				got += n
			}
			b.Close()
		})
		n, err := a.Send(0, [][]byte{p})
		require.NoError(t, err)
		require.Len(t, p, n)
		work.Wait()
		require.NoError(t, a.Close())
	}
}

// TestNoAllocations: neither awake nor by way of sleep does a message cost memory.
func TestNoAllocations(t *testing.T) {
	a, b := pair(t, Options{})
	p := make([]byte, 100)
	bufs := [][]byte{p[:50], p[50:]}
	echo := make(chan error, 1)
	go func() {
		q := make([]byte, 100)
		back := [][]byte{q}
		for {
			n, err := b.Recv(q)
			if err != nil {
				echo <- err
				return
			}
			back[0] = q[:n]
			b.Send(0, back)
		}
	}()
	for _, sleepy := range []bool{false, true} {
		allocs := testing.AllocsPerRun(200, func() {
			if sleepy {
				a.forData.skip, b.forRoom.skip = 1, 1
			}
			_, err := a.Send(0, bufs)
			for got := 0; got < len(p) && err == nil; {
				var n int
				n, err = a.Recv(p)
				got += n
			}
			if err != nil {
				panic(err)
			}
		})
		require.Zero(t, int(allocs))
	}
	require.NoError(t, a.Close())
	require.ErrorIs(t, <-echo, io.EOF)
}

// TestIdleLinks: links on which nobody waits have one goroutine together, and it ends with the last of them.
func TestIdleLinks(t *testing.T) {
	s := New(Options{Dir: shortDir(t)})
	l, err := s.Listen(t.Context(), "")
	require.NoError(t, err)
	defer l.Close()
	before := runtime.NumGoroutine()
	links := make([]substrate.Link, 0, 100)
	for range 50 {
		a, err := s.Dial(t.Context(), l.Addr().String())
		require.NoError(t, err)
		b, err := l.Accept()
		require.NoError(t, err)
		links = append(links, a, b)
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 }, 10*time.Second, time.Millisecond) // and Eventually's own
	for _, link := range links {
		require.NoError(t, link.Close())
	}
	require.Nil(t, s.hangups.set)
}

// descriptors counts the open descriptors of this process.
func descriptors(t testing.TB) int {
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(fds)
}

// mappings counts the mappings of links.
func mappings(t testing.TB) int {
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return bytes.Count(maps, []byte("sockemu-shm"))
}

func TestNetworkNamespace(t *testing.T) {
	s, _ := start(t, "serve", name, "", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	roundTrips(t, s)
}

func TestTwoProcesses(t *testing.T) {
	s, cmd := start(t, "serve", name, "", nil)
	require.Contains(t, s.(*linkStream).RemoteAddr().String(), fmt.Sprint("process/", cmd.Process.Pid))
	roundTrips(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, cmd.Wait())
}

func roundTrips(t *testing.T, s stream) {
	for _, size := range []uint32{1, 1000, 1 << 20} {
		require.NoError(t, binary.Write(s, binary.LittleEndian, task{Count: 20, Size: size, Echo: true}))
		p, q := bytes.Repeat([]byte{byte(size), 2, 3}, int(size))[:size], make([]byte, size)
		for i := range p {
			p[i] += byte(i >> 8)
		}
		for range 20 {
			_, err := s.Write(p)
			require.NoError(t, err)
			_, err = io.ReadFull(s, q)
			require.NoError(t, err)
			require.True(t, bytes.Equal(p, q))
		}
	}
}

// TestNoMemory: that a container forbids to make memory files isn't told as a matter of the socket.
func TestNoMemory(t *testing.T) {
	err := dialError(t.Context(), "h:/d/s", "/d/s", os.NewSyscallError("memfd_create", syscall.EPERM))
	require.ErrorIs(t, err, substrate.ErrConfig)
	require.EqualError(t, err, "dial over shm with h:/d/s: configuration: memfd_create: operation not permitted")
	err = dialError(t.Context(), "h:/d/s", "/d/s", &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)})
	require.ErrorContains(t, err, "another user's socket (connect: permission denied)")
	err = dialError(t.Context(), "h:/d/s", "/d/s", io.EOF)
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorContains(t, err, "is it out of file descriptors or memory?", "of the process that accepts")
}
