//go:build linux && cgo

package libibverbs

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// joinWait is how long the kernel may look for an address and a route.
const joinWait = 2 * time.Second

// Bounds of what strangers can do to an end that waits, and of ports that turn out to be taken.
const (
	maxStrangers = 32
	maxPorts     = 8
)

// A joiner is a queue pair of an iWARP device. Its manager stays open as long as it: the connection ends with it.
type joiner struct {
	*qp
	joining sync.WaitGroup // Join's own goroutine

	mu       sync.Mutex // of what follows, as long as it doesn't wait
	m        *manager
	listener uint32
	waits    bool
	over     bool
}

var _ verbs.Joiner = (*joiner)(nil)

// Post refuses what iWARP can't do before the driver gets it: siw of Linux 6.1 follows a nil pointer if a piece of memory is empty.
func (q *joiner) Post(recvs []verbs.RecvWR, sends []verbs.SendWR) error {
	for i := range sends {
		wr := &sends[i]
		if wr.Op != verbs.OpSend && wr.Op != verbs.OpWrite {
			return q.fail("post", fmt.Errorf("%w: iWARP has no %s", verbs.ErrInvalid, wr.Op))
		}
		for k := range wr.SGE[:min(int(wr.NumSGE), verbs.MaxSGE)] {
			if wr.SGE[k].Len == 0 {
				return q.fail("post", fmt.Errorf("%w: an empty piece", verbs.ErrInvalid))
			}
		}
	}
	return q.qp.Post(recvs, sends)
}

// Connect is not for iWARP.
func (q *joiner) Connect(verbs.Connection) error {
	return q.fail("connect", fmt.Errorf("%w: iWARP is joined", verbs.ErrInvalid))
}

// manager returns the connection manager, opened if need be.
func (q *joiner) manager() (*manager, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over {
		return nil, verbs.ErrClosed
	}
	var err error
	if q.m == nil {
		q.m, err = openManager()
	}
	return q.m, err
}

func (q *joiner) fail(op string, err error) error {
	return &verbs.Error{Op: op, Device: q.device.name, Err: err}
}

// Await listens.
func (q *joiner) Await(local netip.Addr) (netip.AddrPort, error) {
	m, err := q.manager()
	if err != nil {
		return netip.AddrPort{}, q.fail("await", err)
	}
	for try := 1; ; try++ {
		at, err := q.listen(m, local)
		if err == nil {
			return at, nil
		}
		// The port that the manager has chosen may be one of TCP's own.
		if try == maxPorts || !errors.Is(err, syscall.EADDRINUSE) {
			return netip.AddrPort{}, q.fail("await", err)
		}
	}
}

func (q *joiner) listen(m *manager, local netip.Addr) (at netip.AddrPort, err error) {
	id, err := m.create()
	if err != nil {
		return at, err
	}
	if err = m.bind(id, netip.AddrPortFrom(local, 0)); err == nil {
		if at, err = m.check(id, q.device.name); err == nil {
			err = m.listen(id)
		}
	}
	if err != nil {
		m.destroy(id)
		return at, err
	}
	q.listener, q.waits = id, true
	return at, nil
}

// Join returns when ctx ends also where the kernel doesn't let go: siw connects as TCP does, and gives up after two minutes if nothing answers. Close
// waits for that.
func (q *joiner) Join(ctx context.Context, j verbs.Joint) error {
	m, err := q.manager()
	if err != nil {
		return q.fail("join", err)
	}
	done := make(chan error, 1)
	q.joining.Go(func() {
		key := binary.BigEndian.AppendUint64(nil, j.Key)
		if q.waits {
			done <- q.accept(ctx, m, key)
		} else {
			done <- q.connect(ctx, m, j, key)
		}
	})
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return q.fail("join", err)
	}
	return nil
}

func (q *joiner) connect(ctx context.Context, m *manager, j verbs.Joint, key []byte) error {
	id, err := m.create()
	if err != nil {
		return err
	}
	if err := m.resolve(id, netip.AddrPortFrom(j.Local, 0), j.Remote, joinWait); err != nil {
		return err
	}
	if err := m.expect(ctx, eventAddrResolved); err != nil {
		return err
	}
	if _, err := m.check(id, q.device.name); err != nil {
		return err
	}
	if err := m.route(id, joinWait); err != nil {
		return err
	}
	if err := m.expect(ctx, eventRouteResolved); err != nil {
		return err
	}
	if err := m.connect(id, q.number, key); err != nil {
		return err
	}
	return m.expect(ctx, eventEstablished)
}

// accept lets the peer in, and nobody else.
func (q *joiner) accept(ctx context.Context, m *manager, key []byte) error {
	var peer uint32
	for accepted, n := false, 0; n < maxStrangers; n++ {
		e, err := m.next(ctx)
		switch {
		case err != nil:
			return err
		case e.event == eventConnectRequest && (accepted || len(e.private) < len(key) || subtle.ConstantTimeCompare(e.private[:len(key)], key) == 0):
			m.reject(e.id)
			m.destroy(e.id)
		case e.event == eventConnectRequest:
			if err := m.accept(e.id, q.number); err != nil {
				return err
			}
			peer, accepted = e.id, true
		case e.event == eventEstablished && accepted && e.id == peer:
			return m.destroy(q.listener)
		default:
			return e.err()
		}
	}
	return fmt.Errorf("%d strangers have come instead of the peer", maxStrangers)
}

// Close ends the connection, then the queue pair, which the manager holds.
func (q *joiner) Close() error {
	q.mu.Lock()
	q.over = true
	m := q.m
	q.m = nil
	q.mu.Unlock()
	q.joining.Wait()
	if m != nil {
		m.file.Close()
	}
	return q.qp.Close()
}
