package sockemu

import (
	"context"
	"net"

	"github.com/sockemu/sockemu/internal/endpoint"
	"github.com/sockemu/sockemu/selector"
)

// A Prober measures every path to one peer: what `sockemu probe` shows. It is not safe for concurrent use.
type Prober struct {
	address string
	p       *endpoint.Prober
}

// NewProber returns a Prober for the process that listens at address, a "host:port".
func (e *Endpoint) NewProber(ctx context.Context, address string) (*Prober, error) {
	target, err := resolve(ctx, "tcp", address, false)
	if err != nil {
		return nil, &net.OpError{Op: "probe", Net: "tcp", Addr: textAddr(address), Err: err}
	}
	return &Prober{address: address, p: e.e.NewProber(target)}, nil
}

// Probe asks the peer what it offers and measures all of it, over the same data paths as connections use; it takes some ms for
// each path that works and at most about 1 s for one that doesn't. An error says that the peer can't be reached at all, or can't
// be talked to: it is a *net.OpError around what Dial returns. A peer that accepts but says nothing for half of the time there is
// (until ctx's deadline, or Config.HandshakeTimeout) counts as ErrNotSockemu. A path that ctx leaves no time for counts as failed.
func (p *Prober) Probe(ctx context.Context) error {
	if err := p.p.Probe(ctx); err != nil {
		return &net.OpError{Op: "probe", Net: "tcp", Addr: textAddr(p.address), Err: err}
	}
	return nil
}

// Report is what is known after Probe, as a new connection with messages of such sizes would find it. curve are the sizes at
// which costs are evaluated; nil for selector.Buckets.
func (p *Prober) Report(w selector.Weights, curve []int) selector.Report { return p.p.Report(w, curve) }
