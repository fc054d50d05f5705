package substratetest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

func testDescription(h *harness) {
	require.NotEmpty(h, h.Dialer.Name())
	require.GreaterOrEqual(h, h.Dialer.Caps().MaxSend, 0)
	l := h.listen()
	require.NotEmpty(h, l.Addr().String())
	a, b := h.connect(l)
	for _, addr := range []net.Addr{a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr()} {
		require.NotNil(h, addr)
		require.NotEmpty(h, addr.Network())
		require.NotEmpty(h, addr.String())
	}
}

func testDialRefused(h *harness) {
	if h.Refused == "" {
		h.Skip("this substrate can't tell that nobody listens")
	}
	l, err := h.Dialer.Dial(h.Context(), h.Refused)
	requireClass(h, substrate.Refused, err)
	require.ErrorIs(h, err, substrate.ErrRefused)
	require.Nil(h, l)
}

func testDialBadAddress(h *harness) {
	_, err := h.Dialer.Dial(h.Context(), h.Bad)
	requireClass(h, substrate.Config, err)
	_, err = h.Listener.Listen(h.Context(), h.Bad)
	requireClass(h, substrate.Config, err)
}

func testDialEndedContext(h *harness) {
	l := h.listen()
	ctx, cancel := context.WithCancel(h.Context())
	cancel()
	_, err := h.Dialer.Dial(ctx, l.Addr().String())
	requireClass(h, substrate.PathDown, err)
	require.ErrorIs(h, err, context.Canceled)

	ctx, cancel = context.WithDeadline(h.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = h.Dialer.Dial(ctx, l.Addr().String())
	requireClass(h, substrate.PathDown, err)
	require.ErrorIs(h, err, context.DeadlineExceeded)
}

func testDialHangs(h *harness) {
	if h.Hang == "" {
		h.Skip("no address here that never answers")
	}
	ctx, cancel := context.WithCancel(h.Context())
	var err error
	wait := h.start("Dial of a cancelled context", func() { _, err = h.Dialer.Dial(ctx, h.Hang) })
	h.settle()
	cancel()
	wait()
	requireClass(h, substrate.PathDown, err)
	require.ErrorIs(h, err, context.Canceled)

	ctx, cancel = context.WithTimeout(h.Context(), moment)
	defer cancel()
	h.start("Dial beyond its deadline", func() { _, err = h.Dialer.Dial(ctx, h.Hang) })()
	requireClass(h, substrate.PathDown, err)
	require.ErrorIs(h, err, context.DeadlineExceeded)
}

func testListenerClose(h *harness) {
	l := h.listen()
	var err error
	wait := h.start("Accept of a closed listener", func() { _, err = l.Accept() })
	h.settle()
	require.NoError(h, l.Close())
	wait()
	require.ErrorIs(h, err, net.ErrClosed)
	_, err = l.Accept()
	require.ErrorIs(h, err, net.ErrClosed)
}

func testListenerCloseKeepsLinks(h *harness) {
	l := h.listen()
	address := l.Addr().String()
	a, b := h.connect(l)
	require.NoError(h, l.Close())
	h.exchange(a, b)
	if h.Refused != "" {
		_, err := h.Dialer.Dial(h.Context(), address)
		requireClass(h, substrate.Refused, err)
	}
	again, err := h.Listener.Listen(h.Context(), address)
	require.NoError(h, err, "the address of a closed listener is free")
	require.NoError(h, again.Close())
}

// exchange sends a little each way.
func (h *harness) exchange(a, b substrate.Link) {
	h.Helper()
	for range 2 {
		wait := h.start("Send", func() {
			if _, err := a.Send(0, [][]byte{[]byte("over here")}); err != nil {
				h.Errorf("Send: %v", err)
			}
		})
		p := make([]byte, 9)
		_, err := readFull(b, p)
		require.NoError(h, err)
		require.Equal(h, "over here", string(p))
		wait()
		a, b = b, a
	}
}

func readFull(l substrate.Link, p []byte) (int, error) {
	return io.ReadFull(readerFunc(l.Recv), p)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// testManyLinks opens many links, holds them all, and sends on each a number of its own there and back.
func testManyLinks(h *harness) {
	n := h.links()
	l := h.listen()
	var echoes sync.WaitGroup
	defer echoes.Wait()
	// Each echoer serves several links if there are very many: the race detector doesn't take any number of goroutines.
	queues := make([]chan substrate.Link, min(n, 1000))
	for i := range queues {
		queues[i] = make(chan substrate.Link, n/len(queues)+1)
		echoes.Go(func() {
			var mine []substrate.Link
			for link := range queues[i] {
				if err := echo(link); err != nil {
					h.Errorf("echo: %v", err)
				}
				mine = append(mine, link)
			}
			closeAll(mine)
		})
	}
	accepted := h.start("accepting", func() {
		for i := range n {
			link, err := l.Accept()
			if err != nil {
				h.Errorf("Accept: %v", err)
				break
			}
			queues[i%len(queues)] <- link
		}
		for _, q := range queues {
			close(q)
		}
	})
	links := make([]substrate.Link, 0, n)
	defer func() {
		l.Close() // a test that failed half way still waits for an Accept
		closeAll(links)
	}()
	for range n {
		link, err := h.Dialer.Dial(h.Context(), l.Addr().String())
		require.NoErrorf(h, err, "link %d", len(links))
		links = append(links, link)
	}
	accepted()
	// First all numbers go out, then all come back, in another order.
	msgs := make([][8]byte, n)
	for i, link := range links {
		binary.BigEndian.PutUint64(msgs[i][:], uint64(i)*0x9E3779B97F4A7C15)
		_, err := link.Send(0, [][]byte{msgs[i][:]})
		require.NoErrorf(h, err, "Send on link %d", i)
	}
	for i := range links {
		i = len(links) - 1 - i
		var p [8]byte
		_, err := readFull(links[i], p[:])
		require.NoErrorf(h, err, "Recv on link %d", i)
		require.Equalf(h, msgs[i], p, "link %d", i)
	}
}

func closeAll(links []substrate.Link) {
	for _, l := range links {
		l.Close()
	}
}

// echo sends one message of 8 bytes back.
func echo(l substrate.Link) error {
	var p [8]byte
	if _, err := readFull(l, p[:]); err != nil {
		return err
	}
	_, err := l.Send(0, [][]byte{p[:]})
	return err
}

// requireClass requires an *Error of the class.
func requireClass(h *harness, want substrate.Class, err error) {
	h.Helper()
	var e *substrate.Error
	require.ErrorAs(h, err, &e)
	require.Equalf(h, want, e.Class, "%v is of class %v, want %v", err, e.Class, want)
	require.NotEmpty(h, e.Op)
	require.NotEmpty(h, e.Substrate)
}

// requireBroken requires the error of a link that broke: one that isn't an orderly end.
func requireBroken(h *harness, err error) {
	h.Helper()
	var e *substrate.Error
	require.ErrorAs(h, err, &e)
	require.Containsf(h, []substrate.Class{substrate.PathDown, substrate.PeerGone}, e.Class, "%v", err)
}
