package bench

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/sockemu/sockemu/bench/internal/host"
)

// ModeRaw is the name of the mode that everything is compared with.
const ModeRaw = "raw"

// A Transport is one way to make a stream connection. Both worker processes look it up in a Registry, so it must be
// ready to use in any process of the program.
type Transport interface {
	// Name is the mode as reports show it: "raw", "thin", "thick", "peer:NAME".
	Name() string
	// Substrate is what carries the bytes: "tcp", "udp", "shm", "verbs", or "auto".
	Substrate() string
	// Dial connects to what the Addr of a listener of the same transport says. Neither side sends anything before the client
	// does; a transport may wait with its own set-up until then.
	Dial(ctx context.Context, address string) (net.Conn, error)
	// Listen accepts connections at address, "host:0".
	Listen(ctx context.Context, address string) (net.Listener, error)
}

// An Optional is a Transport that not every machine has.
type Optional interface {
	Transport
	// Available says what is missing on this machine, or nil. It is asked once per process.
	Available() error
}

// If makes t Optional: available says what is missing on this machine, or nil.
func If(available func() error, t Transport) Optional { return optional{t, available} }

type optional struct {
	Transport
	available func() error
}

func (o optional) Available() error { return o.available() }

// missing says why this machine doesn't have t, or nil.
func missing(t Transport) error {
	if o, ok := t.(Optional); ok {
		return o.Available()
	}
	return nil
}

// A Registry is the transports that a program can measure. It must hold Raw.
type Registry []Transport

// find returns the transport of that mode and substrate.
func (r Registry) find(mode, substrate string) (Transport, bool) {
	i := slices.IndexFunc(r, func(t Transport) bool { return t.Name() == mode && t.Substrate() == substrate })
	if i < 0 {
		return nil, false
	}
	return r[i], true
}

// choose returns the transports of these modes over these substrates: first raw, the reference, then the others in
// registry order. An empty list means all of them, but for those that this machine lacks: these are returned apart. A mode that was asked
// for by name must be there, and one over the substrates that were.
func (r Registry) choose(modes, substrates []string) (chosen []Transport, left []Skipped, err error) {
	if err := known("mode", modes, r, Transport.Name); err != nil {
		return nil, nil, err
	}
	if err := known("substrate", substrates, r, Transport.Substrate); err != nil {
		return nil, nil, err
	}
	raw, ok := r.find(ModeRaw, "tcp")
	if !ok {
		return nil, nil, fmt.Errorf("no transport %q over tcp to compare with", ModeRaw)
	}
	chosen = []Transport{raw}
	used := map[string]bool{ModeRaw: true}
	for _, t := range r {
		named := slices.Contains(modes, t.Name())
		asked := (len(modes) == 0 || named) && (len(substrates) == 0 || slices.Contains(substrates, t.Substrate()))
		if !asked || t.Name() == ModeRaw {
			continue
		}
		switch err := missing(t); {
		case err == nil:
			chosen = append(chosen, t)
		case named:
			return nil, nil, fmt.Errorf("mode %q over %s is not available here: %w", t.Name(), t.Substrate(), err)
		default:
			left = append(left, Skipped{Mode: t.Name(), Substrate: t.Substrate(), Reason: err.Error()})
		}
		used[t.Name()] = true
	}
	if len(chosen) == 1 && len(left) > 0 && len(modes) == 0 {
		return nil, nil, fmt.Errorf("nothing but raw can be measured here: %s", left[0])
	}
	for _, m := range modes {
		if !used[m] {
			return nil, nil, fmt.Errorf("mode %q doesn't run over %s", m, strings.Join(substrates, ", "))
		}
	}
	return chosen, left, nil
}

// known checks that each name is the property of some transport.
func known(what string, names []string, r Registry, property func(Transport) string) error {
	var have []string
	for _, t := range r {
		if p := property(t); !slices.Contains(have, p) {
			have = append(have, p)
		}
	}
	for _, n := range names {
		if !slices.Contains(have, n) {
			return fmt.Errorf("unknown %s %q: there is %s", what, n, strings.Join(have, ", "))
		}
	}
	return nil
}

// Via makes a Transport of a dialer and a listener in the style of package net, whose network is always "tcp".
func Via[C net.Conn, L net.Listener](mode, substrate string,
	dial func(ctx context.Context, network, address string) (C, error),
	listen func(ctx context.Context, network, address string) (L, error),
) Transport {
	return via[C, L]{mode, substrate, dial, listen}
}

type via[C net.Conn, L net.Listener] struct {
	mode, substrate string
	dial            func(ctx context.Context, network, address string) (C, error)
	listen          func(ctx context.Context, network, address string) (L, error)
}

func (v via[C, L]) Name() string      { return v.mode }
func (v via[C, L]) Substrate() string { return v.substrate }

func (v via[C, L]) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := v.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err // not c: a nil *T in a net.Conn isn't nil
	}
	return c, nil
}

func (v via[C, L]) Listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := v.listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Raw is plain kernel TCP as a Go program uses it, but for MPTCP, which Go listeners offer by default and which would be
// another protocol: Nagle's algorithm off, congestion control pinned.
func Raw() Transport { return Via(ModeRaw, "tcp", dialRaw, listenRaw) }

func dialRaw(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: Control(ctx)} // Go sets TCP_NODELAY
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, network, address)
}

func listenRaw(ctx context.Context, network, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: Control(ctx)}
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, network, address)
}

// congestionKey is the context key of the congestion control to pin.
type congestionKey struct{}

func withCongestion(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, congestionKey{}, name)
}

// Congestion returns the congestion control that a Transport should give its TCP sockets, before they are used. It comes
// with the context of Dial and Listen. Empty: none in particular.
func Congestion(ctx context.Context) string {
	name, _ := ctx.Value(congestionKey{}).(string)
	return name
}

// Control returns the same as Control of a net.Dialer or net.ListenConfig, nil if there is none.
func Control(ctx context.Context) func(network, address string, c syscall.RawConn) error {
	name := Congestion(ctx)
	if name == "" {
		return nil
	}
	return host.ControlCongestion(name)
}
