package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/relay"
)

// plainResult is what became of a plain TCP connection under the demo's first cut.
type plainResult struct {
	DiedAfterMS float64 `json:"died_after_ms"`
	Sent        uint64  `json:"sent"`    // what Write had accepted
	Arrived     uint64  `json:"arrived"` // what the receiver had read
	Err         string  `json:"error"`   // what the sender was told
}

// String tells it in one line.
func (p plainResult) String() string {
	if p.Err == "" {
		return "not tried"
	}
	return fmt.Sprintf("died after %s at byte %s; %s already written are lost",
		seconds(time.Duration(p.DiedAfterMS*float64(time.Millisecond))), grouped(p.Arrived), bytesText(p.Sent-p.Arrived))
}

// plainTCP streams what the demo streams through rl over a plain TCP connection, cuts that after d, and tells what is left of it. target is told where
// rl must forward to.
func plainTCP(ctx context.Context, rl *relay.Relay, target func(addr string), d time.Duration, size int) (plainResult, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return plainResult{}, err
	}
	defer ln.Close()
	target(ln.Addr().String())
	var arrived atomic.Uint64
	var receiver sync.WaitGroup
	receiver.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := newTally(0)
		for buf := make([]byte, 64<<10); ; {
			n, err := c.Read(buf)
			verr := in.verify(buf[:n])
			arrived.Store(in.pos)
			if err != nil || verr != nil {
				return
			}
		}
	})
	defer receiver.Wait()
	defer ln.Close() // before the wait: the receiver may still be waiting for its connection
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", rl.Addr())
	if err != nil {
		return plainResult{}, err
	}
	defer c.Close()
	// Should the cut find nothing to cut, the deadline ends it.
	if err := c.SetDeadline(time.Now().Add(d + 5*time.Second)); err != nil {
		return plainResult{}, err
	}
	t0 := time.Now()
	cut := time.AfterFunc(d, func() { rl.CutAll() })
	defer cut.Stop()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	out, buf := newTally(0), make([]byte, size)
	for err == nil {
		out.produce(buf)
		var n int
		n, err = c.Write(buf)
		out.count(buf[:n])
	}
	died := time.Since(t0)
	c.Close()
	ln.Close()
	receiver.Wait()
	if ctx.Err() != nil {
		return plainResult{}, ctx.Err()
	}
	return plainResult{
		DiedAfterMS: float64(died.Microseconds()) / 1000, Sent: out.pos, Arrived: arrived.Load(), Err: rootCause(err).Error(),
	}, nil
}

// rootCause is the innermost error: without the addresses, which say nothing here.
func rootCause(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || inner.Unwrap() == nil {
			return err
		}
		err = inner.Unwrap()
	}
}
