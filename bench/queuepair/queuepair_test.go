package queuepair_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/bench/queuepair"
	"github.com/sockemu/sockemu/internal/inventory"
)

// TestDevice sends some megabytes there and then back, on the device that SOCKEMU_TEST_RDMA_ADDR leads to.
func TestDevice(t *testing.T) {
	ip := os.Getenv("SOCKEMU_TEST_RDMA_ADDR")
	if ip == "" {
		t.Skip("SOCKEMU_TEST_RDMA_ADDR is not set")
	}
	l, err := queuepair.Listen(t.Context(), "tcp", net.JoinHostPort(ip, "0"))
	require.NoError(t, err)
	defer l.Close()
	const size = 5<<20 + 7
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			all := make([]byte, size)
			if _, err = io.ReadFull(c, all); err == nil {
				_, err = c.Write(all)
			}
		}
		served <- err
	}()
	c, err := queuepair.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	want := bytes.Repeat([]byte("seventeen bytes. "), size/17+1)[:size]
	_, err = c.Write(want)
	require.NoError(t, err)
	got := make([]byte, size)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, <-served)
}

// TestNoDevice: who can't have a queue pair gets an error and no connection, at both ends.
func TestNoDevice(t *testing.T) {
	l, err := queuepair.Listen(t.Context(), "tcp", "127.0.0.1:0") // never that of an RDMA device
	require.NoError(t, err)
	defer l.Close()
	dialled := make(chan error, 1)
	go func() {
		_, err := queuepair.Dial(t.Context(), "tcp", l.Addr().String())
		dialled <- err
	}()
	c, err := l.Accept()
	require.ErrorIs(t, err, inventory.ErrNoRDMA)
	require.True(t, c == nil, "a nil *Conn in a net.Conn would not be nil")
	require.Error(t, <-dialled)
}
