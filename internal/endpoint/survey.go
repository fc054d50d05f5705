package endpoint

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/wire"
)

// Time bounds of a round.
const (
	gatherTime = 30 * time.Millisecond // until then paths that open slowly are waited for, if two others are ready,
	gatherMost = 70 * time.Millisecond // and so much longer if only one is
	slowPath   = 3 * time.Millisecond  // a path whose round trips take longer is measured alone: no load of this machine's shows there
	slowerPath = 20 * time.Millisecond // or even so long that one look is enough
	probeTime  = time.Second           // for opening a path that nobody named, and so much again for measuring it; see also openTrips and askTrips
	busyPause  = 20 * time.Millisecond // before a peer that serves others is asked again, doubled each time
	probeLinks = 8                     // paths opened at a time
)

// probed is the outcome for one path.
type probed struct {
	path selector.Path
	m    selector.Measurement
	peer wire.Setup
}

// A survey is what probe is asked to do.
type survey struct {
	proc   gid.ProcessID
	paths  []selector.Path
	within func(selector.Path) time.Duration // for opening a path
	spare  *spare                            // not nil: one path is opened so that a connection can go over there
	tell   func([]probed)

	// glance, if not nil, is called with what the turns so far say of the paths that are measured together; late says that the machine is too busy
	// for the rest to come soon. If it returns true, that was enough.
	glance func(list []probed, late bool) bool
}

// probe measures paths to one process, those together that can be. It calls tell, in its own goroutine, with the outcomes as they come: a path
// that takes long to fail, or is slow, keeps nobody waiting for the others.
func (e *Endpoint) probe(ctx context.Context, v survey) {
	ready, alone := make(chan *track, len(v.paths)), make(chan *track, len(v.paths))
	limit := make(chan struct{}, probeLinks)
	for _, path := range v.paths {
		go func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			ready <- e.openTrack(ctx, v, path)
		}()
	}
	tell := v.tell
	var together []*track
	opening, running := len(v.paths), 0
	take := func(tr *track) {
		if tr.standby != nil {
			v.spare.track = tr
		}
		switch {
		case tr.err != nil:
			tell([]probed{tr.outcome(false)})
		case tr.slow:
			running++
			tr.alone = true
			go func() {
				measure([]*track{tr}, nil)
				alone <- tr
			}()
		default:
			together = append(together, tr)
		}
	}
	gather := time.NewTimer(gatherTime)
	defer gather.Stop()
	for late := 0; opening > 0 && (late == 0 || len(together) < max(3-late, 1)); {
		select {
		case tr := <-ready:
			opening--
			take(tr)
		case <-gather.C:
			late++
			gather.Reset(gatherMost)
		}
	}
	for len(together) > 0 || opening+running > 0 {
		if len(together) > 0 {
			list := together
			together = nil
			var look func(late bool) bool
			if v.glance != nil && len(list) > 1 {
				look = func(late bool) bool { return v.glance(outcomes(list), late) }
			}
			measure(list, look)
			tell(outcomes(list))
			continue
		}
		select {
		case tr := <-ready: // too late to be compared ping by ping
			opening--
			take(tr)
		case tr := <-alone:
			running--
			tr.alone = false
			tell([]probed{tr.outcome(false)})
		}
	}
}

// openTrack makes a link to be measured, and sends a first ping over it.
func (e *Endpoint) openTrack(ctx context.Context, v survey, path selector.Path) *track {
	tr := &track{path: path, perByte: math.Inf(1), next: probePiece}
	open, cancel := context.WithTimeout(ctx, v.within(path))
	defer cancel()
	if sp := v.spare; sp != nil && sp.path == path {
		link, a, err := sp.c.standby(open, sp.p, path)
		var r *session.RefusedError
		switch {
		case err == nil:
			tr.standby, tr.agreed, tr.lead, tr.rtt = link, a, noNote, a.rtt
			e.ready(ctx, tr, link)
			return tr
		case !errors.As(err, &r): // else it says something of the connection, not of the path
			tr.err = err
			return tr
		}
	}
	q := request{kind: wire.KindProbe, psk: e.psk, key: len(e.cfg.ClusterKey) > 0}
	link, peer, a, err := e.openTo(open, v.proc, path, q)
	var r *session.RefusedError
	for pause := busyPause; errors.As(err, &r) && r.Status == wire.StatusBusy && open.Err() == nil; pause *= 2 {
		// That many others are just being served says nothing about the path.
		t := time.NewTimer(pause)
		select {
		case <-t.C:
			link, peer, a, err = e.openTo(open, v.proc, path, q)
		case <-open.Done():
		}
		t.Stop()
	}
	tr.peer, tr.err, tr.rtt = peer, err, a.rtt
	if err == nil {
		e.ready(ctx, tr, link)
	}
	return tr
}
