package ucx_test

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/bench/ucx"
)

// TestStream sends a megabyte there and back over shared memory, where UCX is installed.
func TestStream(t *testing.T) {
	if err := ucx.Available(); err != nil {
		t.Skip(err)
	}
	over := ucx.Over("shm,self")
	l, err := over.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.CopyN(c, c, 1<<20)
		}
		served <- err
		if err == nil {
			io.Copy(io.Discard, c) // progresses until the client has everything
		}
	}()
	c, err := over.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	sent, got := bytes.Repeat([]byte("0123456789abcdef"), 1<<8), make([]byte, 1<<12)
	for range 1 << 8 {
		_, err = c.Write(sent)
		require.NoError(t, err)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sent, got), "the bytes differ")
	}
	require.NoError(t, <-served)
}

// TestUnavailable: without the library every call says so.
func TestUnavailable(t *testing.T) {
	if ucx.Available() == nil {
		t.Skip("UCX is available here")
	}
	_, err := ucx.Over("shm").Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.ErrorContains(t, err, "UCX needs")
}
