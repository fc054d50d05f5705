package fault

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// bubble runs f in a synctest bubble with a network of its own, hosts "a" and "b" and a listener at "b:1".
func bubble(t *testing.T, cfg Config, f func(t *testing.T, n *Network, ln substrate.Listener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(cfg)
		defer n.Close()
		n.Host("a")
		f(t, n, listen(t, n, "b:1"))
	})
}

// linked is bubble with a link already there, a being the dialer's end.
func linked(t *testing.T, cfg Config, f func(t *testing.T, n *Network, a, b substrate.Link)) {
	t.Helper()
	bubble(t, cfg, func(t *testing.T, n *Network, ln substrate.Listener) {
		a, b := connect(t, n, ln)
		f(t, n, a, b)
	})
}

func listen(t *testing.T, n *Network, address string) substrate.Listener {
	t.Helper()
	a, err := parseAddr(address)
	require.NoError(t, err)
	ln, err := n.Host(a.Host).Listen(t.Context(), address)
	require.NoError(t, err)
	return ln
}

func connect(t *testing.T, n *Network, ln substrate.Listener) (a, b substrate.Link) {
	t.Helper()
	a, err := n.Host("a").Dial(t.Context(), ln.Addr().String())
	require.NoError(t, err)
	return a, accept(t, ln)
}

func accept(t *testing.T, ln substrate.Listener) substrate.Link {
	t.Helper()
	l, err := ln.Accept()
	require.NoError(t, err)
	return l
}

func send(t *testing.T, l substrate.Link, s string) {
	t.Helper()
	n, err := l.Send(0, [][]byte{[]byte(s)})
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

// recv receives exactly len(want) bytes.
func recv(t *testing.T, l substrate.Link, want string) {
	t.Helper()
	p := make([]byte, len(want))
	_, err := io.ReadFull(reader{l}, p)
	require.NoError(t, err)
	require.Equal(t, want, string(p))
}

// nothing requires that nothing is there to be received now.
func nothing(t *testing.T, l substrate.Link) {
	t.Helper()
	synctest.Wait()
	n, err := l.Drain(make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n)
}

// reset requires that l was reset, after the bytes that still come.
func reset(t *testing.T, l substrate.Link) {
	t.Helper()
	_, err := io.ReadAll(reader{l})
	require.ErrorIs(t, err, ErrReset)
	require.ErrorIs(t, err, substrate.ErrPathDown)
	_, err = l.Send(0, [][]byte{{1}})
	require.ErrorIs(t, err, ErrReset)
	require.ErrorIs(t, err, substrate.ErrPathDown)
}

// elapsed returns how long f takes.
func elapsed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// pass lets time pass, as far as there is any in a bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// reader makes an io.Reader of a link.
type reader struct{ substrate.Link }

func (r reader) Read(p []byte) (int, error) { return r.Recv(p) }
