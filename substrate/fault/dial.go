package fault

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// Dial opens a link to address, a "host:port". It takes the delay there and back, hangs while the path is stalled, swallows
// bytes or the backlog is full, and fails when ctx ends; a link that had reached the listener by then arrives there, and ends.
func (h *Host) Dial(ctx context.Context, address string) (substrate.Link, error) {
	l, class, err := h.dial(ctx, address)
	if err != nil {
		return nil, &substrate.Error{Op: "dial", Substrate: name, Peer: address, Class: class, Err: err}
	}
	return l.wrap(), nil
}

func (h *Host) dial(ctx context.Context, address string) (*Link, substrate.Class, error) {
	dialled, err := parseAddr(address)
	if err != nil {
		return nil, substrate.Config, err
	}
	d, class, err := h.plan(dialled)
	if err != nil {
		return nil, class, err
	}
	l, err := d.run(ctx)
	if err == ErrRefused {
		return nil, substrate.Refused, err
	}
	return l, substrate.PathDown, err
}

// A dial is one attempt to open a link.
type dial struct {
	net            *Network
	from, to       Addr
	dialled        Addr // what the application asked for: not to, behind a Route
	seed           uint64
	rng            *rand.Rand
	ghostRNG       *rand.Rand // apart: ghosts run beside the dial
	late, repeated bool
	onLink         func(s Scope, from, to string)
}

// plan finds out where the dial goes and what chance has in store for it.
func (h *Host) plan(dialled Addr) (*dial, substrate.Class, error) {
	n := h.net
	n.mu.Lock()
	route := n.route
	n.mu.Unlock()
	to := dialled
	if route != nil {
		var err error
		if to, err = parseAddr(route(h.name, dialled.String())); err != nil {
			return nil, substrate.Config, fmt.Errorf("route: %w", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return nil, substrate.PathDown, net.ErrClosed
	case n.hosts[to.Host] == nil:
		return nil, substrate.Config, ErrNoHost
	case to.Port == 0:
		return nil, substrate.Config, errors.New("port 0")
	}
	pair := hosts{h.name, to.Host}
	n.dials[pair]++
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s|%s|%d", pair.from, pair.to, n.dials[pair])
	d := &dial{net: n, from: h.pickPort(), to: to, dialled: dialled, seed: hash.Sum64(), onLink: n.onLink}
	d.rng, d.ghostRNG = n.rng(d.seed, 6), n.rng(d.seed, 7)
	d.late = d.rng.Float64() < n.late
	d.repeated = d.rng.Float64() < n.duplicate
	return d, 0, nil
}

// run goes the way of a dial: there, into the queue of the listener, and back.
func (d *dial) run(ctx context.Context) (*Link, error) {
	if err := d.travel(ctx, 0); err != nil {
		return nil, err
	}
	if d.late {
		return nil, d.hang(ctx)
	}
	ln := d.net.listenerAt(d.to)
	if ln == nil {
		if err := d.travel(ctx, 1); err != nil {
			return nil, err
		}
		return nil, ErrRefused
	}
	c, err := d.net.newConn(d.from, d.to, d.dialled, d.seed)
	if err != nil {
		return nil, err
	}
	mine, theirs := &c.ends[0], &c.ends[1]
	if d.onLink != nil {
		d.onLink(d.net.On(mine), d.from.Host, d.to.Host)
	}
	if d.repeated {
		d.duplicate(c)
	}
	select {
	case ln.queue <- theirs:
	case <-ln.done:
		err = ErrRefused
	case <-ctx.Done():
		err = ctx.Err()
	case <-d.net.done:
		err = net.ErrClosed
	}
	if err != nil {
		d.net.Cut(mine)
		return nil, err
	}
	if ln.closed() {
		ln.flush() // it may have closed before the link was in the queue
	}
	if err := d.travel(ctx, 1); err != nil {
		mine.Close()
		return nil, err
	}
	return mine, nil
}

// travel waits as long as a packet takes in a direction, and until the path is open.
func (d *dial) travel(ctx context.Context, index int) error {
	if err := d.pass(ctx); err != nil {
		return err
	}
	h := hosts{d.from.Host, d.to.Host}
	if index == 1 {
		h = hosts{h.to, h.from}
	}
	r := d.net.ruleFor(index, h)
	if r.shape == nil || r.shape.Delay == 0 && r.shape.Jitter == 0 {
		return nil
	}
	t := time.NewTimer(r.shape.Delay + time.Duration(d.rng.Int64N(int64(r.shape.Jitter)+1)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-d.net.done:
		return net.ErrClosed
	}
	return d.pass(ctx)
}

// pass waits until the path is open both ways: opening a link takes both.
func (d *dial) pass(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		open, changed := d.net.open(d.from.Host, d.to.Host)
		if open {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-d.net.done:
			return net.ErrClosed
		}
	}
}

// open reports whether packets pass between two hosts, and returns a channel that is closed when that may have changed.
func (n *Network) open(from, to string) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	there, back := n.ruleLocked(0, hosts{from, to}), n.ruleLocked(1, hosts{to, from})
	return !there.stall && !there.hole && !back.stall && !back.hole, n.changed
}

// listenerAt returns who listens at a, nil if nobody does or the host refuses.
func (n *Network) listenerAt(a Addr) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refused[a.Host] {
		return nil
	}
	return n.listeners[a]
}
