package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wait bounds what should happen at once; only a failing test waits that long.
const wait = 20 * time.Second

// An echo is a server that sends back what it gets, and says which server it is first.
func echo(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.WriteString(c, name)
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func start(t *testing.T, pick func(uint64) string) *Relay {
	t.Helper()
	r, err := StartFunc(pick)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func dial(t *testing.T, r *Relay) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(wait)))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// ping sends s and expects it back: the connection is established and moves bytes.
func ping(t *testing.T, c net.Conn, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(t, err)
	expect(t, c, s)
}

func expect(t *testing.T, c net.Conn, s string) {
	t.Helper()
	got := make([]byte, len(s))
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, s, string(got))
}

// broken expects c to end with an error that isn't an orderly end.
func broken(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	require.Error(t, err)
	require.False(t, isTimeout(err), "still open: %v", err)
}

// refused expects that r takes no connection now. The reset may come so early that the dial already sees it.
func refused(t *testing.T, r *Relay) {
	t.Helper()
	if c, err := net.Dial("tcp", r.Addr()); err == nil {
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(wait)))
		broken(t, c)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestForwardsBytesAndHalfClose(t *testing.T) {
	target := echo(t, "")
	r := start(t, func(uint64) string { return target })
	c := dial(t, r)
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.Write(want)
		assert.NoError(t, err)
		assert.NoError(t, c.CloseWrite())
	})
	got, err := io.ReadAll(c)
	wg.Wait()
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	s := r.Stats()
	require.EqualValues(t, len(want), s.Up)
	require.EqualValues(t, len(want), s.Down)
	require.Zero(t, s.Cuts)
}

func TestCutAllResetsEverything(t *testing.T) {
	target := echo(t, "")
	r := start(t, func(uint64) string { return target })
	var conns []net.Conn
	for range 3 {
		c := dial(t, r)
		ping(t, c, "hello")
		conns = append(conns, c)
	}
	require.Equal(t, 3, r.CutAll())
	for _, c := range conns {
		broken(t, c)
	}
	require.Zero(t, r.CutAll())
	require.EqualValues(t, 3, r.Stats().Cuts)
	ping(t, dial(t, r), "as good as new")
}

func TestOutageRefusesUntilItIsOver(t *testing.T) {
	target := echo(t, "")
	r := start(t, func(uint64) string { return target })
	c := dial(t, r)
	ping(t, c, "hello")
	require.Equal(t, 1, r.Outage(time.Hour))
	broken(t, c)
	refused(t, r)
	require.EqualValues(t, 1, r.Stats().Refused)
	r.Refuse(0)
	ping(t, dial(t, r), "back")
}

func TestBlackholeHoldsNewConnectionsUntilItIsOver(t *testing.T) {
	target := echo(t, "")
	r := start(t, func(uint64) string { return target })
	c := dial(t, r)
	ping(t, c, "hello")
	const d = 50 * time.Millisecond
	t0 := time.Now()
	require.Equal(t, 1, r.Blackhole(d))
	broken(t, c)
	ping(t, dial(t, r), "late")
	require.GreaterOrEqual(t, time.Since(t0), d)
}

func TestStallMovesNothingAndLosesNothing(t *testing.T) {
	target := echo(t, "")
	r := start(t, func(uint64) string { return target })
	c := dial(t, r)
	ping(t, c, "before")
	r.Stall()
	r.Stall() // the same as once
	_, err := io.WriteString(c, "during")
	require.NoError(t, err)
	late := dial(t, r)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.True(t, isTimeout(err), "bytes moved, or the connection ended: %v", err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
	r.Resume()
	expect(t, c, "during")
	ping(t, late, "after")
}

func TestCutWhileStalled(t *testing.T) {
	target := echo(t, "")
	r := start(t, func(uint64) string { return target })
	c := dial(t, r)
	ping(t, c, "before")
	r.Stall()
	_, err := io.WriteString(c, "never to arrive")
	require.NoError(t, err)
	require.Equal(t, 1, r.CutAll())
	broken(t, c)
}

func TestPicksATargetForEachConnection(t *testing.T) {
	targets := []string{echo(t, "A"), echo(t, "B")}
	r := start(t, func(n uint64) string { return targets[n%2] })
	for _, want := range []string{"A", "B", "A"} {
		c := dial(t, r)
		expect(t, c, want)
	}
}

func TestTargetThatIsDownResetsTheClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	r := start(t, func(uint64) string { return addr })
	refused(t, r)
	require.EqualValues(t, 1, r.Stats().Refused)
}

func TestCloseLeavesNothing(t *testing.T) {
	target := echo(t, "")
	r, err := Start(target)
	require.NoError(t, err)
	c := dial(t, r)
	ping(t, c, "hello")
	r.Stall()
	dial(t, r)
	r.Blackhole(time.Hour)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	broken(t, c)
	require.Zero(t, r.Stats().Open)
	_, err = net.Dial("tcp", r.Addr())
	require.Error(t, err)
}

// TestBreaksWhileBusy cuts, stalls and refuses while many connections come and go: nothing may hang, race or leak.
func TestBreaksWhileBusy(t *testing.T) {
	target := echo(t, "")
	r := start(t, func(uint64) string { return target })
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 50 {
				c, err := net.Dial("tcp", r.Addr())
				if err != nil {
					continue // reset on arrival
				}
				c.SetDeadline(time.Now().Add(wait))
				c.Write(make([]byte, 1000))
				io.CopyN(io.Discard, c, 1000)
				c.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		clients.Wait()
		close(done)
	}()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
		}
		switch i % 5 {
		case 0:
			r.CutAll()
		case 1:
			r.Stall()
		case 2:
			r.Resume()
		case 3:
			r.Outage(time.Millisecond)
		case 4:
			r.Blackhole(time.Millisecond)
		}
	}
}
