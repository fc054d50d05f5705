package peers

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestQUIC: a stream carries bytes both ways, and both ends close.
func TestQUIC(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	q := QUIC()
	ln, err := q.Listen(ctx, "127.0.0.1:0")
	require.NoError(t, err)
	c, err := q.Dial(ctx, ln.Addr().String())
	require.NoError(t, err)
	want := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	sent := make(chan error, 1)
	go func() { _, err := c.Write(want); sent <- err }()
	s, err := ln.Accept()
	require.NoError(t, err)
	got := make([]byte, len(want))
	_, err = io.ReadFull(s, got)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, <-sent)
	_, err = s.Write([]byte{1})
	require.NoError(t, err)
	_, err = io.ReadFull(c, got[:1])
	require.NoError(t, err)
	require.NoError(t, c.Close())
	s.Close()
	require.NoError(t, ln.Close())
	_, err = ln.Accept()
	require.Error(t, err)
	// The library keeps the socket for three probe timeouts, to answer what may still be under way. They are long where the machine is busy: nine times the round trip.
	require.Eventually(t, func() bool {
		p, err := net.ListenPacket("udp", ln.Addr().String())
		return err == nil && p.Close() == nil
	}, 2*time.Minute, time.Millisecond, "the port is free again")
}
