package shm

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/substratetest"
)

func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{
		"default":       {},
		"least ring":    {RingSize: MinRingSize},
		"without spins": {RingSize: 64 << 10, Spin: -1},
	} {
		t.Run(name, func(t *testing.T) {
			substratetest.Run(t, func(t *testing.T) substratetest.Env {
				dir := shortDir(t)
				o.Dir = dir
				s := New(o)
				host := host(t)
				return substratetest.Env{
					Dialer:   s,
					Listener: s,
					Refused:  host + ":" + filepath.Join(dir, "nobody.shm"),
					Hang:     silent(t, host, dir),
					Bad:      "no address",
					Abort:    abort,
				}
			})
		})
	}
}

// shortDir returns a new directory: the ones of the testing package have names too long for sockets.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "shm")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func host(t testing.TB) string {
	id, err := hostID()
	if err != nil {
		t.Skip("no boot id: ", err)
	}
	return id
}

// silent returns the address of a socket where nobody takes part in a handshake.
func silent(t testing.TB, host, dir string) string {
	path := filepath.Join(dir, "silent.shm")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return host + ":" + path
}

// abort does what the kernel does to a killed process: it closes the socket, and nobody says good-bye.
func abort(l substrate.Link) {
	l.Interrupt()
	l.(*link).sock.Close()
}

// pair returns both ends of a link, which end with the test.
func pair(t testing.TB, o Options) (dialed, accepted *link) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = shortDir(t)
	}
	s := New(o)
	l, err := s.Listen(t.Context(), "")
	require.NoError(t, err)
	defer l.Close()
	a, err := s.Dial(t.Context(), l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	b, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return a.(*link), b.(*link)
}
