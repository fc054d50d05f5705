package endpoint

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// Paths are measured in turns, a few round trips over each and then again: what else the machine does in the meantime hits all of them, and
// within a turn they can be compared. In a turn the first ping finds a peer that sleeps, and doesn't count; of the others the faster one does. Of
// the turns that third counts in which all paths together took the least.
const (
	probePing  = 64
	turnPings  = 2  // that count, per path and turn
	probeTurns = 24 // little enough to disturb nobody
	quietTurns = 3  // one in so many counts ...
	leastTurns = 4  // ... but so many at least, which are made unless they take pingsMost
	pingsTime  = 15 * time.Millisecond
	pingsMost  = 250 * time.Millisecond // for those of one path, but leastPings are always sent
	leastPings = 2
	firstPings = 3                     // none of which is fast on a slow path
	glanceFrom = 2                     // turns after which it may be clear already which path is the best ...
	glanceTime = 60 * time.Millisecond // until then further turns are worth more than trains, which load spoils
)

// A long train goes around a ring of shared memory once, whose first touch costs page faults, unless the path is too slow for that. Trains take
// turns as well.
const (
	longTrain   = 2 << 20
	longTime    = 5 * time.Millisecond // it must not take longer
	probeTrain  = 512 << 10
	probeTrains = 8                      // per path
	trainsTime  = 20 * time.Millisecond  // for all of them, but leastTrains ...
	leastTrains = 3                      // ... are sent over each path unless they take
	slowTime    = 100 * time.Millisecond // so long
	scoutTrain  = 4 << 10                // over a slow path there is one of these before: several packets, whose loss would show that the path takes no large ones
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

// A lane is one path while it is measured, over a link of its own, through the same handshake and the same Send and Recv as the data.
type lane struct {
	path  selector.Path
	peer  wire.Setup    // what the peer said of itself, if it did
	slow  bool          // it leads far away, or seems to
	rtt   time.Duration // of the handshake
	alone bool          // it is just measured by itself

	standby substrate.Link // not nil: it is a spare's, who closes the link
	agreed  agreed
	lead    []byte // before each request

	ask   func(op wire.ProbeOp, n, back int) (time.Duration, error)
	close func()
	renew func() // begins the time for measuring anew

	pings, turns []time.Duration
	quiet        []time.Duration // of the turns those that count
	perByte      float64         // of the best train; +Inf: none was sent yet
	trained      int             // trains sent
	next         int             // length of the next
	around       bool            // the long one was sent
	scouted      bool            // the first one over a slow path was sent
	spent        time.Duration
	err          error
}

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
	ready, alone := make(chan *lane, len(v.paths)), make(chan *lane, len(v.paths))
	limit := make(chan struct{}, probeLinks)
	for _, path := range v.paths {
		go func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			ready <- e.openLane(ctx, v, path)
		}()
	}
	tell := v.tell
	var together []*lane
	opening, running := len(v.paths), 0
	take := func(l *lane) {
		if l.standby != nil {
			v.spare.lane = l
		}
		switch {
		case l.err != nil:
			tell([]probed{l.outcome(false)})
		case l.slow:
			running++
			l.alone = true
			go func() {
				measure([]*lane{l}, nil)
				alone <- l
			}()
		default:
			together = append(together, l)
		}
	}
	gather := time.NewTimer(gatherTime)
	defer gather.Stop()
	for late := 0; opening > 0 && (late == 0 || len(together) < max(3-late, 1)); {
		select {
		case l := <-ready:
			opening--
			take(l)
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
		case l := <-ready: // too late to be compared ping by ping
			opening--
			take(l)
		case l := <-alone:
			running--
			l.alone = false
			tell([]probed{l.outcome(false)})
		}
	}
}

// openLane makes a link to be measured, and sends a first ping over it.
func (e *Endpoint) openLane(ctx context.Context, v survey, path selector.Path) *lane {
	l := &lane{path: path, perByte: math.Inf(1), next: probePiece}
	open, cancel := context.WithTimeout(ctx, v.within(path))
	defer cancel()
	if sp := v.spare; sp != nil && sp.path == path {
		link, a, err := sp.c.standby(open, sp.p, path)
		var r *session.RefusedError
		switch {
		case err == nil:
			l.standby, l.agreed, l.lead, l.rtt = link, a, noNote, a.rtt
			e.ready(ctx, l, link)
			return l
		case !errors.As(err, &r): // else it says something of the connection, not of the path
			l.err = err
			return l
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
	l.peer, l.err, l.rtt = peer, err, a.rtt
	if err == nil {
		e.ready(ctx, l, link)
	}
	return l
}

// ready makes l fit for being measured over link: it finds out whether the path is slow.
func (e *Endpoint) ready(ctx context.Context, l *lane, link substrate.Link) {
	l.ask = func(op wire.ProbeOp, n, back int) (time.Duration, error) { return ask(link, l.lead, op, n, back) }
	intact := func() bool { return true }
	stop := intact // reports whether the link wasn't interrupted
	l.renew = func() {
		stop()
		ctx, cancel := context.WithTimeout(ctx, l.askTime())
		done := guard(ctx, link)
		stop = func() bool { defer cancel(); return done() }
	}
	l.renew()
	l.close = func() {
		if !stop() && l.err == nil && l.standby != nil {
			l.err = context.DeadlineExceeded
		}
		stop = intact
		if l.standby == nil {
			link.Close()
		}
	}
	for l.slow = !near(e.subs[l.path.Substrate], link); l.slow && l.err == nil && len(l.pings) < firstPings; {
		d := l.ping()
		l.spent += d
		l.pings = append(l.pings, d)
		l.slow = d > slowPath
		if d > slowerPath {
			break
		}
	}
	if l.err != nil {
		l.close()
		return
	}
	if l.turns = slices.Clone(l.pings); !l.slow {
		l.pings, l.turns, l.spent = nil, nil, 0 // the link was new, or the machine was busy for a moment
	}
}

// near reports that both ends of a link are on this host: whatever takes long there is no fault of the path's.
func near(sub substrate.Substrate, link substrate.Link) bool {
	if sub.Caps().SameHost {
		return true
	}
	here, err := netip.ParseAddrPort(link.LocalAddr().String())
	there, err2 := netip.ParseAddrPort(link.RemoteAddr().String())
	return err == nil && err2 == nil && here.Addr() == there.Addr()
}

// askTime is how long an answer may take, or all of them together if the path isn't slow.
func (l *lane) askTime() time.Duration { return trips(askTrips, l.rtt, probeTime) }

// ping returns how long a round trip took, unless it failed.
func (l *lane) ping() time.Duration {
	if l.slow {
		l.renew() // there are few, and each may take long
	}
	d, err := l.ask(wire.ProbeEcho, probePing, probePing)
	if err != nil {
		l.err = err
	}
	return max(d, 1) // 0 would be unknown
}

// measure measures lanes in turns, and closes them. If look isn't nil, it says whether what is known by now is enough.
func measure(lanes []*lane, look func(late bool) bool) {
	enough, most := false, pingsTime
	if look != nil {
		most = glanceTime
	}
	inTurns(lanes, func(l *lane, elapsed time.Duration) bool {
		switch {
		case len(l.turns) == probeTurns, len(l.turns) >= leastTurns && elapsed > most:
			return false
		case len(l.pings) >= leastPings && l.spent > pingsMost:
			return false
		}
		l.turn()
		return true
	}, func(turns int, elapsed time.Duration) bool {
		busy := elapsed > pingsTime
		if look != nil && turns >= glanceFrom && (busy || turns == probeTurns) {
			quiet(lanes)
			enough = look(busy && turns >= leastTurns)
		}
		return enough
	})
	for _, l := range lanes {
		l.spent = 0
	}
	inTurns(lanes, func(l *lane, elapsed time.Duration) bool {
		if enough || l.trained > 0 && (l.trained >= probeTrains || elapsed > trainsTime) && (l.trained >= leastTrains || l.spent > slowTime) {
			return false
		}
		l.train()
		return true
	}, nil)
	for _, l := range lanes {
		l.close()
	}
	quiet(lanes)
}

// inTurns calls visit for one lane after the other, those that have failed left out, until it has reported false for each of them. Who was
// first in one turn is last in the next. elapsed is how long that has been going on. If enough isn't nil, it may end that after any turn.
func inTurns(lanes []*lane, visit func(l *lane, elapsed time.Duration) bool, enough func(turns int, elapsed time.Duration) bool) {
	start := time.Now()
	order := slices.Clone(lanes)
	for turns, again := 0, true; again; slices.Reverse(order) {
		if enough != nil && enough(turns, time.Since(start)) {
			return
		}
		turns++
		again = false
		elapsed := time.Since(start) // the same for all: they stay in step
		for _, l := range order {
			if l.err != nil {
				continue
			}
			before := time.Now()
			again = visit(l, elapsed) || again
			if time.Since(before) > pingsMost { // none of the others' fault
				for _, o := range order {
					if o != l && o.err == nil {
						o.renew()
					}
				}
			}
		}
	}
}

// turn sends some pings. Over a slow path it is one, and there is no peer to be woken that would show.
func (l *lane) turn() {
	first := l.ping()
	l.spent += first
	if l.slow {
		l.pings = append(l.pings, first)
		l.turns = append(l.turns, first)
		return
	}
	var list [turnPings]time.Duration
	for i := range list {
		if l.err != nil {
			return
		}
		list[i] = l.ping()
		l.spent += list[i]
	}
	l.pings = append(l.pings, list[:]...)
	l.turns = append(l.turns, slices.Min(list[:]))
}

// train sends a train. The best of them counts: late ones, of a machine that is busy for a moment, must not decide what a byte costs, nor must
// those that wait for memory.
func (l *lane) train() {
	if l.slow {
		if !l.scouted {
			l.scout()
			return
		}
		l.renew()
	}
	n := l.next
	d, err := l.ask(wire.ProbeTrain, n, 0)
	if l.scouted && errors.As(err, new(unansweredProbe)) {
		d, err = l.askTime(), nil // or more
	}
	if err != nil {
		l.err = err
		return
	}
	l.trained++
	l.spent += d
	least := slices.Min(l.pings)
	l.perByte = min(l.perByte, float64(max(d-least, d/4))/float64(n))
	switch {
	case !l.around && l.perByte*longTrain < float64(longTime):
		l.next, l.around = longTrain, true
	case d < trainsTime/10 || l.around:
		l.next = min(2*n, probeTrain)
	}
}

// scout sends a small train over a slow path, to find out whether it carries more than a ping, and how long the next one may be.
func (l *lane) scout() {
	l.scouted = true
	l.renew()
	d, err := l.ask(wire.ProbeTrain, scoutTrain, 0)
	if err != nil {
		l.err = err
		return
	}
	if perByte := float64(d-slices.Min(l.pings)) / scoutTrain; perByte*probePiece > float64(probeTime/4) {
		l.next = max(int(float64(probeTime/4)/perByte), scoutTrain)
	}
}

// quiet picks of the turns of lanes that were measured together those in which all of them took the least.
func quiet(lanes []*lane) {
	var ok []*lane
	for _, l := range lanes {
		if l.err == nil {
			ok = append(ok, l)
		}
	}
	if len(ok) == 0 {
		return
	}
	type turn struct {
		i    int
		took time.Duration
	}
	list := make([]turn, len(ok[0].turns))
	for i := range list {
		list[i].i = i
		for _, l := range ok {
			list[i].took += l.turns[min(i, len(l.turns)-1)]
		}
	}
	slices.SortFunc(list, func(a, b turn) int { return cmp.Compare(a.took, b.took) })
	list = list[:min(len(list), max(len(list)/quietTurns, leastTurns))]
	for _, l := range ok {
		l.quiet = make([]time.Duration, len(list))
		for i, t := range list {
			l.quiet[i] = l.turns[min(t.i, len(l.turns)-1)]
		}
	}
}

// outcomes are those of lanes that are measured together.
func outcomes(lanes []*lane) []probed {
	list := make([]probed, 0, len(lanes))
	for _, l := range lanes {
		list = append(list, l.outcome(len(lanes) > 1))
	}
	return list
}

// outcome sums up what was measured. Together: along with others, in the same turns.
func (l *lane) outcome(together bool) probed {
	m := selector.Measurement{At: time.Now()}
	if l.err != nil {
		m.Class, m.Reason = substrate.ClassOf(l.err), l.err.Error()
		return probed{l.path, m, l.peer}
	}
	slices.Sort(l.pings)
	m.RTTMin, m.RTTP99 = l.pings[0], l.pings[len(l.pings)*99/100]
	rtt := medianOf(l.quiet)
	off := make([]time.Duration, len(l.quiet))
	for i, d := range l.quiet {
		off[i] = (d - rtt).Abs()
	}
	// The mean deviation of a normal variable is 1.2 times the median deviation.
	m.Cost = substrate.Cost{RTT: rtt, Jitter: medianOf(off) * 6 / 5, Samples: len(l.pings), PerByte: l.perByte, Source: substrate.SourceProbe}
	if together {
		m.Turns = l.quiet
	}
	return probed{l.path, m, l.peer}
}

func medianOf(list []time.Duration) time.Duration {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}
