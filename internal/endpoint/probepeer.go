package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// A Prober measures every path to one peer, without a connection to it. It is not safe for concurrent use.
type Prober struct {
	e     *Endpoint
	addr  string
	own   selector.Policy
	peer  *peer
	found bool
	both  selector.Policy // what both ends ask
	about map[selector.Path]string
}

// aboutTime bounds how long a probe waits for what a substrate measures of its path by itself.
const aboutTime = 1500 * time.Millisecond

// NewProber returns a Prober for the process that listens at addr.
func (e *Endpoint) NewProber(addr string) *Prober {
	own := e.policy(addr)
	return &Prober{e: e, addr: addr, own: own, both: own, peer: &peer{
		e: e, policy: own, addrs: []string{addr}, table: selector.NewTable(addr, e.choiceConfig()),
	}}
}

// Peer returns the identity of the process that answered; zero if none has.
func (p *Prober) Peer() gid.ProcessID { return p.peer.proc }

// Probe asks the peer what it offers and measures all of it, as the choice for a connection does. It returns an error if the
// peer can't be reached over the base substrate at all, with the same classes as Dial: substrate.ErrRefused, ErrPathDown,
// ErrConfig, ErrNotSockemu, *session.RefusedError. When ctx's deadline passes after that, what is measured by then counts.
func (p *Prober) Probe(ctx context.Context) error {
	ctx, cancel := p.e.bound(ctx)
	defer cancel()
	// Half of the time there is for the first word: a peer that is silent is told from a host that is.
	answer := p.e.cfg.HandshakeTimeout
	if d, ok := ctx.Deadline(); ok {
		answer = min(answer, time.Until(d))
	}
	q := request{kind: wire.KindProbe, psk: p.e.psk, key: len(p.e.cfg.ClusterKey) > 0, answer: max((answer / 2).Round(time.Millisecond), time.Millisecond)}
	link, got, a, err := p.e.open(ctx, p.e.basePath(p.addr), q)
	if err != nil {
		return err
	}
	link.Close()
	if p.found && got.Proc != p.peer.proc {
		p.peer.table.Invalidate(time.Now(), "another process answers")
	}
	p.found, p.peer.proc, p.peer.offers = true, got.Proc, got.Offers
	theirs, err := selector.ParsePolicy(got.Policy)
	if err != nil {
		theirs = selector.Policy{}
	}
	if p.both, err = selector.Merge(p.own, theirs); err != nil {
		return err
	}
	p.peer.table.SetOffers(p.peer.offered())
	p.peer.table.Invalidate(time.Now(), "asked for")
	p.about = map[selector.Path]string{}
	r := p.peer.table.Round(time.Now())
	within := func(path selector.Path) time.Duration { return p.e.probeLimit(path, p.own, a.rtt) }
	var works []selector.Path
	p.e.probe(ctx, survey{proc: p.peer.proc, paths: r.Paths, within: within, tell: func(list []probed) {
		for _, l := range list {
			// The link's deadline, which is ctx's, may be noticed before ctx has ended.
			if end, ok := ctx.Deadline(); ok && !l.m.OK() && !time.Now().Before(end) {
				l.m.Reason = "the time for all probes was over before this one was done"
			}
			l.m.Round = r.ID
			p.peer.table.Record(l.path, l.m)
			if l.m.OK() {
				works = append(works, l.path)
			}
		}
	}})
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("probing %s: %w", p.addr, context.Cause(ctx))
	}
	for _, path := range works {
		if d, ok := p.e.subs[path.Substrate].(substrate.Describer); ok {
			patient, cancel := context.WithTimeout(ctx, aboutTime)
			p.about[path] = d.Describe(patient, path.Addr)
			cancel()
		}
	}
	return nil
}

// Report is what is known after Probe, for connections with messages of the given sizes.
func (p *Prober) Report(w selector.Weights, curve []int) selector.Report {
	r := p.peer.table.Report(time.Now(), p.both, w, curve)
	for i := range r.Candidates {
		r.Candidates[i].About = p.about[r.Candidates[i].Path]
	}
	return r
}
