package endpoint

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
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

// A track is one path while it is measured, over a link of its own, through the same handshake and the same Send and Recv as the data.
type track struct {
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

// ready makes tr fit for being measured over link: it finds out whether the path is slow.
func (e *Endpoint) ready(ctx context.Context, tr *track, link substrate.Link) {
	tr.ask = func(op wire.ProbeOp, n, back int) (time.Duration, error) { return ask(link, tr.lead, op, n, back) }
	intact := func() bool { return true }
	stop := intact // reports whether the link wasn't interrupted
	tr.renew = func() {
		stop()
		ctx, cancel := context.WithTimeout(ctx, tr.askTime())
		done := guard(ctx, link)
		stop = func() bool { defer cancel(); return done() }
	}
	tr.renew()
	tr.close = func() {
		if !stop() && tr.err == nil && tr.standby != nil {
			tr.err = context.DeadlineExceeded
		}
		stop = intact
		if tr.standby == nil {
			link.Close()
		}
	}
	for tr.slow = !near(e.subs[tr.path.Substrate], link); tr.slow && tr.err == nil && len(tr.pings) < firstPings; {
		d := tr.ping()
		tr.spent += d
		tr.pings = append(tr.pings, d)
		tr.slow = d > slowPath
		if d > slowerPath {
			break
		}
	}
	if tr.err != nil {
		tr.close()
		return
	}
	if tr.turns = slices.Clone(tr.pings); !tr.slow {
		tr.pings, tr.turns, tr.spent = nil, nil, 0 // the link was new, or the machine was busy for a moment
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
func (tr *track) askTime() time.Duration { return trips(askTrips, tr.rtt, probeTime) }

// ping returns how long a round trip took, unless it failed.
func (tr *track) ping() time.Duration {
	if tr.slow {
		tr.renew() // there are few, and each may take long
	}
	d, err := tr.ask(wire.ProbeEcho, probePing, probePing)
	if err != nil {
		tr.err = err
	}
	return max(d, 1) // 0 would be unknown
}

// turn sends some pings. Over a slow path it is one, and there is no peer to be woken that would show.
func (tr *track) turn() {
	first := tr.ping()
	tr.spent += first
	if tr.slow {
		tr.pings = append(tr.pings, first)
		tr.turns = append(tr.turns, first)
		return
	}
	var list [turnPings]time.Duration
	for i := range list {
		if tr.err != nil {
			return
		}
		list[i] = tr.ping()
		tr.spent += list[i]
	}
	tr.pings = append(tr.pings, list[:]...)
	tr.turns = append(tr.turns, slices.Min(list[:]))
}

// train sends a train. The best of them counts: late ones, of a machine that is busy for a moment, must not decide what a byte costs, nor must
// those that wait for memory.
func (tr *track) train() {
	if tr.slow {
		if !tr.scouted {
			tr.scout()
			return
		}
		tr.renew()
	}
	n := tr.next
	d, err := tr.ask(wire.ProbeTrain, n, 0)
	if tr.scouted && errors.As(err, new(unansweredProbe)) {
		d, err = tr.askTime(), nil // or more
	}
	if err != nil {
		tr.err = err
		return
	}
	tr.trained++
	tr.spent += d
	least := slices.Min(tr.pings)
	tr.perByte = min(tr.perByte, float64(max(d-least, d/4))/float64(n))
	switch {
	case !tr.around && tr.perByte*longTrain < float64(longTime):
		tr.next, tr.around = longTrain, true
	case d < trainsTime/10 || tr.around:
		tr.next = min(2*n, probeTrain)
	}
}

// scout sends a small train over a slow path, to find out whether it carries more than a ping, and how long the next one may be.
func (tr *track) scout() {
	tr.scouted = true
	tr.renew()
	d, err := tr.ask(wire.ProbeTrain, scoutTrain, 0)
	if err != nil {
		tr.err = err
		return
	}
	if perByte := float64(d-slices.Min(tr.pings)) / scoutTrain; perByte*probePiece > float64(probeTime/4) {
		tr.next = max(int(float64(probeTime/4)/perByte), scoutTrain)
	}
}

// outcome sums up what was measured. Together: along with others, in the same turns.
func (tr *track) outcome(together bool) probed {
	if tr.err != nil {
		return probed{tr.path, selector.Measurement{At: time.Now(), Class: substrate.ClassOf(tr.err), Reason: tr.err.Error()}, tr.peer}
	}
	m := selector.RoundTrips(tr.pings, tr.quiet)
	m.At, m.Cost.PerByte = time.Now(), tr.perByte
	if together {
		m.Turns = tr.quiet
	}
	return probed{tr.path, m, tr.peer}
}
