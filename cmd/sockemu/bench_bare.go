package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/sockemu/sockemu/bench"
	"github.com/sockemu/sockemu/substrate"
	shm "github.com/sockemu/sockemu/substrate_shm"
)

// bareSHM is links of shared memory without a session above them, to see what the session costs.
func bareSHM() bench.Transport {
	s := shm.New(shm.Options{})
	return bench.Via("bare", s.Name(),
		func(ctx context.Context, _, address string) (*bareConn, error) {
			l, err := s.Dial(ctx, address)
			return &bareConn{Link: l}, err
		},
		func(ctx context.Context, _, _ string) (bareListener, error) {
			l, err := s.Listen(ctx, "")
			return bareListener{l}, err
		})
}

type bareListener struct{ substrate.Listener }

func (l bareListener) Accept() (net.Conn, error) {
	link, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &bareConn{Link: link}, nil
}

// A bareConn makes a connection of a link. Write keeps vec to itself, so there must be one Write at a time.
type bareConn struct {
	substrate.Link
	vec [1][]byte
}

// Read calls the death of the peer's process the end of the stream, as TCP does.
func (c *bareConn) Read(p []byte) (int, error) {
	n, err := c.Recv(p)
	if errors.Is(err, substrate.ErrPathDown) {
		err = io.EOF
	}
	return n, err
}

func (c *bareConn) Write(p []byte) (int, error) {
	c.vec[0] = p
	return c.Send(substrate.Unkept, c.vec[:])
}

func (c *bareConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetSendDeadline(t), c.SetRecvDeadline(t))
}
func (c *bareConn) SetReadDeadline(t time.Time) error  { return c.SetRecvDeadline(t) }
func (c *bareConn) SetWriteDeadline(t time.Time) error { return c.SetSendDeadline(t) }
