package sim

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// joinConnection is that of iWARP, of which TCP takes care.
var joinConnection = verbs.Connection{MTU: 4096, Timeout: 12, Retry: verbs.MaxRetry}

// A joiner is a queue pair of a network with Config.IWARP.
type joiner struct {
	*qp
	at     netip.AddrPort // where it is awaited; not valid if it isn't
	key    uint64
	waits  chan struct{} // closed when key is set
	joined chan struct{} // closed when the peer has come
	gone   chan struct{} // closed by Close
}

var _ verbs.Joiner = (*joiner)(nil)

func newJoiner(q *qp) *joiner {
	return &joiner{qp: q, waits: make(chan struct{}), joined: make(chan struct{}), gone: make(chan struct{})}
}

// Await takes loopback and private addresses for the host's own.
func (j *joiner) Await(local netip.Addr) (netip.AddrPort, error) {
	n := j.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := j.device.check("await"); err != nil {
		return netip.AddrPort{}, err
	}
	if !local.IsLoopback() && !local.IsPrivate() {
		return netip.AddrPort{}, bad("await", verbs.ErrNoDevice)
	}
	n.lastPort++
	j.at = netip.AddrPortFrom(local, n.lastPort)
	n.awaited[j.at] = j
	return j.at, nil
}

func (j *joiner) Join(ctx context.Context, to verbs.Joint) error {
	var err error
	if j.at.IsValid() {
		err = j.accept(ctx, to.Key)
	} else {
		err = j.connect(ctx, to)
	}
	if err != nil {
		return bad("join", err)
	}
	return nil
}

func (j *joiner) accept(ctx context.Context, key uint64) error {
	j.key = key
	close(j.waits)
	select {
	case <-j.joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-j.gone:
		return verbs.ErrClosed
	}
}

func (j *joiner) connect(ctx context.Context, to verbs.Joint) error {
	n := j.net
	n.mu.Lock()
	peer := n.awaited[to.Remote]
	n.mu.Unlock()
	if peer == nil {
		return syscall.ECONNREFUSED
	}
	select {
	case <-peer.waits:
	case <-peer.gone:
		return syscall.ECONNREFUSED
	case <-ctx.Done():
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if peer.key != to.Key || n.awaited[to.Remote] != peer || n.cut[[2]*Host{j.device.host, peer.device.host}] {
		return fmt.Errorf("the peer refused: %w", syscall.ECONNREFUSED)
	}
	for _, q := range [][2]*qp{{j.qp, peer.qp}, {peer.qp, j.qp}} {
		c := joinConnection
		c.RemoteQP, c.RemoteGID = q[1].number, q[1].gid
		if err := q[0].connect(c); err != nil {
			return err
		}
	}
	delete(n.awaited, to.Remote)
	close(peer.joined)
	return nil
}

// Connect is not for iWARP.
func (j *joiner) Connect(verbs.Connection) error { return bad("connect", verbs.ErrInvalid) }

// Post refuses what iWARP hasn't.
func (j *joiner) Post(recvs []verbs.RecvWR, sends []verbs.SendWR) error {
	for i := range sends {
		wr := &sends[i]
		if wr.Op != verbs.OpSend && wr.Op != verbs.OpWrite {
			return bad("post", verbs.ErrInvalid)
		}
		for k := range wr.SGE[:min(int(wr.NumSGE), verbs.MaxSGE)] {
			if wr.SGE[k].Len == 0 {
				return bad("post", verbs.ErrInvalid)
			}
		}
	}
	return j.qp.Post(recvs, sends)
}

// Fail ends the TCP connection, which the peer notices.
func (j *joiner) Fail() error {
	err := j.qp.Fail()
	j.hangUp()
	return err
}

// Close does the same, and nobody is awaited any more.
func (j *joiner) Close() error {
	j.net.mu.Lock()
	delete(j.net.awaited, j.at)
	select {
	case <-j.gone:
	default:
		close(j.gone)
	}
	j.net.mu.Unlock()
	err := j.qp.Close()
	j.hangUp()
	return err
}

// hangUp fails the peer, unless the network is cut. What is on its way is lost.
func (j *joiner) hangUp() {
	n := j.net
	n.mu.Lock()
	defer n.mu.Unlock()
	peer := n.qps[j.conn.RemoteQP]
	if peer != nil && peer.conn.RemoteQP == j.number && peer.state == stateReady && !n.cut[[2]*Host{j.device.host, peer.device.host}] {
		peer.fail()
	}
}
