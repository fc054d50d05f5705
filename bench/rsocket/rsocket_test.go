package rsocket_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/bench/rsocket"
)

// TestStream sends a megabyte there and back, where there is an RDMA device, whose address SOCKEMU_TEST_RDMA_ADDR tells.
func TestStream(t *testing.T) {
	ip := os.Getenv("SOCKEMU_TEST_RDMA_ADDR")
	if ip == "" {
		err := rsocket.Available()
		t.Skipf("SOCKEMU_TEST_RDMA_ADDR is not set; available: %v", err)
	}
	require.NoError(t, rsocket.Available())
	l, err := rsocket.Listen(t.Context(), "tcp", net.JoinHostPort(ip, "0"))
	require.NoError(t, err)
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			_, err = io.CopyN(c, c, 1<<20)
		}
		served <- err
	}()
	c, err := rsocket.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	wrote := make(chan error, 1)
	go func() { _, err := c.Write(sent); wrote <- err }()
	got := make([]byte, len(sent))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.NoError(t, <-wrote)
	require.True(t, bytes.Equal(sent, got), "the bytes differ")
	require.NoError(t, <-served)
}

// TestUnavailable: without the library or a device every call says so.
func TestUnavailable(t *testing.T) {
	if rsocket.Available() == nil {
		t.Skip("rsockets are available here")
	}
	_, err := rsocket.Dial(t.Context(), "tcp", "127.0.0.1:1")
	require.ErrorContains(t, err, "rsockets need")
	_, err = rsocket.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.ErrorContains(t, err, "rsockets need")
}
