package sockemu_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/sockemu"
)

// A crowdedServer is a program with sockemu behind a port that can't keep up: what becomes of the n-th link, from 1 on, is decided by troubled,
// which reports whether the link is through with it.
func crowdedServer(t *testing.T, troubled func(n int, c *net.TCPConn) bool) string {
	t.Helper()
	l, err := newEndpoint(t, quick()).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var n atomic.Int32
	return newPlainServer(t, "127.0.0.1:0", func(c net.Conn) {
		if troubled(int(n.Add(1)), c.(*net.TCPConn)) {
			return
		}
		b, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return
		}
		var back sync.WaitGroup
		back.Go(func() { io.Copy(c, b); c.Close() })
		io.Copy(b, c)
		b.Close()
		back.Wait()
	}).addr()
}

// TestCrowd: a peer that is known to speak sockemu, and only has no time for a link, is asked again; it isn't taken for one that speaks something else.
func TestCrowd(t *testing.T) {
	t.Parallel()
	reset := func(c *net.TCPConn) { c.SetLinger(0) }
	for name, trouble := range map[string]func(c *net.TCPConn){"reset": reset, "closed": func(*net.TCPConn) {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := crowdedServer(t, func(n int, c *net.TCPConn) bool {
				if n == 2 || n == 3 {
					trouble(c)
					return true
				}
				return false
			})
			e := newEndpoint(t, sockemu.Config{})
			for range 2 {
				c, err := e.Dial(testContext(t), "tcp", addr)
				require.NoError(t, err)
				require.False(t, c.Plain())
			}
		})
	}
	// A peer of which nothing is known when its link breaks, or stays silent, but which has answered somebody else meanwhile.
	for name, trouble := range map[string]func(c *net.TCPConn, known <-chan struct{}){
		"reset before it was known": func(c *net.TCPConn, known <-chan struct{}) { <-known; reset(c) },
		"silent":                    func(c *net.TCPConn, known <-chan struct{}) { io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known, first := make(chan struct{}), make(chan struct{})
			addr := crowdedServer(t, func(n int, c *net.TCPConn) bool {
				if n == 1 {
					close(first)
					trouble(c, known)
				}
				return n == 1
			})
			e := newEndpoint(t, sockemu.Config{FallbackTimeout: 3 * time.Second})
			var c *sockemu.Conn
			var err error
			var dialing sync.WaitGroup
			dialing.Go(func() { c, err = e.Dial(testContext(t), "tcp", addr) })
			<-first
			other, oerr := e.Dial(testContext(t), "tcp", addr)
			close(known)
			dialing.Wait()
			require.NoError(t, oerr)
			require.False(t, other.Plain())
			require.NoError(t, err)
			require.False(t, c.Plain())
		})
	}
}
