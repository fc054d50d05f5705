package endpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// basePath is an address of Dial or Listen as a path.
func (e *Endpoint) basePath(addr string) selector.Path {
	return selector.Path{Substrate: e.cfg.Substrate.Name(), Addr: addr}
}

// paths are the base paths to a peer: the address that was dialled first.
func (e *Endpoint) paths(home string, more []string) []selector.Path {
	var list []selector.Path
	if home != "" {
		list = append(list, e.basePath(home))
	}
	for _, a := range more {
		if a != home {
			list = append(list, e.basePath(a))
		}
	}
	return list
}

// identify completes a Setup with what this process is and where it can be reached, as seen over link. The policy is the one for the
// peer at addr; "" means the far end of link.
func (e *Endpoint) identify(my wire.Setup, link substrate.Link, addr string) wire.Setup {
	if addr == "" {
		addr = link.RemoteAddr().String()
	}
	policy := e.policy(addr)
	e.mu.Lock()
	defer e.mu.Unlock()
	my.Proc = e.proc
	for l := range e.listeners {
		my.Addrs = append(my.Addrs, l.reachable(link)...)
	}
	for _, l := range e.sides {
		if !policy.Allows(l.sub.Name()) {
			continue
		}
		for _, a := range l.reachable(link) {
			my.Offers = append(my.Offers, wire.Offer{Substrate: l.sub.Name(), Addr: a})
		}
	}
	if p := policy.String(); p != "auto" {
		my.Policy = p
	}
	return my
}

// openSides begins to listen on the other substrates, once. What can't be listened on is not offered. That may take a while, so it is called
// without locks.
func (e *Endpoint) openSides() {
	e.opening.Do(func() {
		ctx, cancel := context.WithTimeout(e.ctx, time.Second)
		defer cancel()
		var sides []*Listener
		barred := make(map[string]string)
		for _, o := range e.cfg.Others {
			raw, err := o.Substrate.Listen(ctx, o.Listen)
			if err != nil {
				barred[o.Substrate.Name()] = err.Error()
				level := slog.LevelWarn
				if errors.Is(err, errors.ErrUnsupported) {
					level = slog.LevelDebug // this machine doesn't have it: nothing is wrong
				}
				e.log.Log(ctx, level, "not offered to peers", "substrate", o.Substrate.Name(), "err", err)
				continue
			}
			l := &Listener{e: e, sub: o.Substrate, raw: raw, addr: raw.Addr(), done: make(chan struct{}), closed: true, side: true}
			close(l.done)
			sides = append(sides, l)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.closed {
			for _, l := range sides {
				l.raw.Close()
			}
			return
		}
		e.sides, e.barred = sides, barred
		for _, l := range sides {
			e.wg.Go(l.loop)
		}
	})
}

// Offered returns the substrates that this process offers to its peers, with their addresses, and those that it can't offer, with
// the reasons.
func (e *Endpoint) Offered() (offers []selector.Path, barred map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.sides {
		offers = append(offers, selector.Path{Substrate: l.sub.Name(), Addr: l.addr.String()})
	}
	return offers, e.barred
}

// open makes a link over path and performs the dialer's side of the handshake. q needs no my.Proc and no addr.
func (e *Endpoint) open(ctx context.Context, path selector.Path, q request) (substrate.Link, wire.Setup, agreed, error) {
	ctx, cancel := e.handshakeTime(ctx)
	defer cancel()
	sub := e.subs[path.Substrate]
	if sub == nil {
		err := &substrate.Error{Op: "dial", Substrate: path.Substrate, Peer: path.Addr, Class: substrate.Config, Err: errors.New("this process does not have it")}
		return nil, wire.Setup{}, agreed{}, err
	}
	link, err := sub.Dial(ctx, path.Addr)
	if err != nil {
		return nil, wire.Setup{}, agreed{}, err
	}
	q.my, q.addr = e.identify(q.my, link, q.home), path.Addr
	peer, a, err := dialHandshake(ctx, link, q)
	if err != nil {
		link.Close()
		return nil, wire.Setup{}, agreed{}, err
	}
	return link, peer, a, nil
}

// openTo is open, for a link that must lead to a certain process. Another one learns nothing but that it was asked.
func (e *Endpoint) openTo(ctx context.Context, proc gid.ProcessID, path selector.Path, q request) (substrate.Link, wire.Setup, agreed, error) {
	claim := q.claim
	q.claim = func(peer wire.Setup) error {
		if peer.Proc != proc {
			return fmt.Errorf("%s: %w: process %s, not %s", path.Addr, errElsewhere, peer.Proc, proc)
		}
		if claim != nil {
			return claim(peer)
		}
		return nil
	}
	return e.open(ctx, path, q)
}

// newLink is what a session gets after a handshake.
func (e *Endpoint) newLink(path selector.Path, link substrate.Link, a agreed, no uint64, dialed bool, peer wire.Setup) session.NewLink {
	nl := session.NewLink{
		Link: link, Name: path.Substrate, Addr: path.Addr, Retains: e.subs[path.Substrate].Caps().Retains, LinkNo: no, Dialed: dialed, Peer: peer,
	}
	if e.cfg.Session.Seal {
		nl.Seal = session.NewSeal(a.out, a.in)
	}
	return nl
}

// reachable returns the addresses under which l can be dialled by the peer of link. Listeners that know better than the rule for
// wildcards, because not all of the host's addresses lead to them, have a method Addresses.
func (l *Listener) reachable(link substrate.Link) []string {
	if raw, ok := l.raw.(interface{ Addresses() []string }); ok {
		return raw.Addresses()
	}
	addr := l.addr.String()
	host, port, err := net.SplitHostPort(addr)
	if err != nil || l.sub.Caps().SameHost {
		return []string{addr}
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return []string{addr}
	}
	// A wildcard: the address over which this peer is being talked to is one that it can reach.
	here, err := netip.ParseAddrPort(link.LocalAddr().String())
	if err != nil {
		return nil // not over a network
	}
	return []string{net.JoinHostPort(here.Addr().String(), port)}
}
