package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/sockemu"
)

// pipeCmd is a netcat whose connection doesn't break: stdin goes to the peer, what the peer sends goes to stdout.
type pipeCmd struct {
	Addr     string        `arg:"" optional:"" help:"HOST:PORT to connect to; with -l, where to listen (default :7000)."`
	Listen   bool          `short:"l" help:"Accept one connection instead of making one."`
	Keep     bool          `short:"k" help:"With -l: take the next connection when one has ended, until interrupted; stdin isn't read."`
	NoStdin  bool          `short:"d" help:"Don't read stdin, only receive."`
	Patience time.Duration `default:"10m" placeholder:"D" help:"How long to wait for a way to the peer when the connection has lost it (default ${default}); the first try does not wait."`
	keyFile
	Encrypt bool `help:"Encrypt and authenticate everything."`
	Verbose bool `short:"v" help:"Tell on stderr what happens to the links."`
}

// defaultPipeAddr is where -l listens when nothing is said.
const defaultPipeAddr = ":7000"

// Validate finds flags that contradict each other.
func (c *pipeCmd) Validate() error {
	switch {
	case c.Keep && !c.Listen:
		return errors.New("-k needs -l")
	case c.Addr == "" && !c.Listen:
		return errors.New("say where to connect to (HOST:PORT), or -l to listen")
	case c.Patience <= 0:
		return errors.New("--patience must be positive")
	case !c.Listen:
		return checkPeer(c.Addr)
	case c.Addr != "":
		if err := checkHostPort("tcp", c.Addr, true); err != nil {
			return fmt.Errorf("can't listen at %q: %w", c.Addr, err)
		}
	}
	return nil
}

// Run copies until both directions have ended. It returns nil only if the peer has acknowledged everything that was sent, and
// everything that the peer sent has been written to stdout.
func (c *pipeCmd) Run(ctx context.Context, std *stdio) error {
	// A reader of stdout that is gone must end the connection in order, not this process at once.
	signal.Ignore(syscall.SIGPIPE)
	e, err := c.endpoint(std)
	if err != nil {
		return err
	}
	defer e.Close()
	if !c.Listen {
		conn, err := e.Dial(ctx, "tcp", c.Addr)
		switch {
		case ctx.Err() != nil:
			return errInterrupted
		case err != nil:
			return explainFailure(c.Addr, "", err)
		}
		return c.transfer(ctx, conn, std)
	}
	ln, err := e.Listen(ctx, "tcp", cmp.Or(c.Addr, defaultPipeAddr))
	if err != nil {
		return err
	}
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	fmt.Fprintf(std.err, "listening on %s\n", ln.Addr())
	for {
		conn, err := ln.AcceptConn()
		switch {
		case ctx.Err() != nil && c.Keep && err != nil: // between two connections: that is how this one ends
			return nil
		case ctx.Err() != nil:
			return errInterrupted
		}
		if err != nil {
			return err
		}
		err = c.transfer(ctx, conn, std)
		if !c.Keep || errors.Is(err, errInterrupted) {
			return err
		}
		if err != nil {
			std.log.Error("connection ended", "gid", conn.GID().Short(), "peer", conn.RemoteAddr(), "err", err)
		}
	}
}

// errInterrupted: the user, or whoever stops processes here, had enough.
var errInterrupted = errors.New("interrupted")

// endpoint is configured by the flags. A peer that doesn't speak sockemu is refused: it could promise nothing.
func (c *pipeCmd) endpoint(std *stdio) (*sockemu.Endpoint, error) {
	cfg := sockemu.Config{Patience: c.Patience, Linger: c.Patience, Fallback: sockemu.FallbackForbid}
	if c.Encrypt {
		cfg.Security = sockemu.SecurityEncrypt
	}
	var err error
	if cfg.ClusterKey, err = c.key(std.log); err != nil {
		return nil, err
	}
	if c.Verbose {
		cfg.Logger = newLogger(std.err, "debug")
	}
	e, err := sockemu.NewEndpoint(cfg)
	if err != nil {
		return nil, usageError{err} // of the environment
	}
	return e, nil
}

// transfer moves everything both ways over conn and closes it.
func (c *pipeCmd) transfer(ctx context.Context, conn *sockemu.Conn, std *stdio) error {
	ended := make(chan error, 1)
	go func() {
		if err := c.exchange(conn, std); err != nil {
			abort(conn)
			ended <- err
			return
		}
		err := conn.Close() // waits for the peer's acknowledgement, and tells if there is none
		awaitEnd(conn)
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done(): // also in the middle of that wait; the endpoint's end resets the connection
		abort(conn)
		return errInterrupted
	}
}

// endWait bounds awaitEnd: of two sides that finish at the same time one must go first.
const endWait = time.Second

// awaitEnd gives the peer a moment to learn that the connection has ended: with this process goes the only one that can tell it.
func awaitEnd(conn *sockemu.Conn) {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for start := time.Now(); conn.Stats().State == "closing" && time.Since(start) < endWait; {
		<-t.C
	}
}

// exchange moves both streams to their ends.
//
// Each side half-closes at the end of its stdin. A listener that had nothing to send holds its half-close back until it has written
// out the peer's whole stream: it is the receipt by which the sender knows that its bytes were not only delivered, but written.
// A side whose stdin is a terminal stops with its peer: nobody wants to press ^D after a transfer.
func (c *pipeCmd) exchange(conn *sockemu.Conn, std *stdio) error {
	type result struct {
		closed bool // our half is closed
		err    error
	}
	sent := make(chan result, 1)
	send := func() (r result) {
		var n int64
		if !c.NoStdin && !c.Keep {
			n, r.err = io.Copy(conn, std.in)
		}
		if r.closed = r.err == nil && (n > 0 || !c.Listen); r.closed {
			r.err = conn.CloseWrite()
		}
		return r
	}
	go func() {
		r := send()
		sent <- r
		if r.err != nil {
			abort(conn) // unblocks the other direction, which finds the reason
		}
	}()
	_, err := io.Copy(std.out, conn)
	if f, ok := std.out.(*os.File); ok && err == nil && !c.Keep {
		err = f.Close() // whoever reads it may have something to answer
	}
	if err != nil {
		select {
		case r := <-sent:
			return cmp.Or(r.err, err) // which may be why reading failed
		default:
			return err
		}
	}
	if f, ok := std.in.(*os.File); ok && isTTY(f) {
		select {
		case r := <-sent:
			sent <- r
		default:
			return conn.CloseWrite()
		}
	}
	if r := <-sent; r.closed || r.err != nil {
		return r.err
	}
	return conn.CloseWrite()
}

// abort ends conn at once; the peer sees a reset.
func abort(conn *sockemu.Conn) {
	conn.SetLinger(0)
	conn.Close()
}
