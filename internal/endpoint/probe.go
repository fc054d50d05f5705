package endpoint

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// The size of a probe: enough for a median that can be compared, little enough to disturb nobody.
const (
	probeWarmUp  = 4
	probePings   = 40
	probePing    = 64
	probePiece   = 64 << 10
	probeTrain   = 512 << 10              // the longest train; the first is one piece
	probeTrains  = 12                     // enough to have gone around a ring of shared memory, whose first touch costs page faults
	trainsTime   = 20 * time.Millisecond  // for all of them, but one is always sent ...
	leastTrains  = 3                      // ... and so many, unless they take
	slowTime     = 100 * time.Millisecond // so long
	probeTime    = time.Second            // for one path that nobody named
	probeBudget  = 250 * time.Millisecond // of it, for the measurement after the handshake
	busyPause    = 20 * time.Millisecond  // before a peer that serves others is asked again, doubled each time
	probeServed  = 16 << 20               // bytes that one probe link may cost the listener
	probesServed = 32                     // probe links served at a time
)

// probe measures one path to a process: over a link of its own, through the same handshake and the same Send and Recv as the data.
// It returns what the peer said of itself, too, if it did.
func (e *Endpoint) probe(ctx context.Context, proc gid.ProcessID, path selector.Path, within time.Duration) (selector.Measurement, wire.Setup) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	m, peer, err := e.measure(ctx, proc, path)
	var r *session.RefusedError
	for pause := busyPause; errors.As(err, &r) && r.Status == wire.StatusBusy && ctx.Err() == nil; pause *= 2 {
		// That many others are just being served says nothing about the path.
		t := time.NewTimer(pause)
		select {
		case <-t.C:
			m, peer, err = e.measure(ctx, proc, path)
		case <-ctx.Done():
		}
		t.Stop()
	}
	m.At = time.Now()
	if err != nil {
		m.Class, m.Reason = substrate.ClassOf(err), err.Error()
	}
	return m, peer
}

func (e *Endpoint) measure(ctx context.Context, proc gid.ProcessID, path selector.Path) (selector.Measurement, wire.Setup, error) {
	var m selector.Measurement
	q := request{kind: wire.KindProbe, psk: e.psk, key: len(e.cfg.ClusterKey) > 0}
	link, peer, _, err := e.openTo(ctx, proc, path, q)
	if err != nil {
		return m, peer, err
	}
	defer link.Close()
	done := guard(ctx, link)
	defer done()
	end := time.Now().Add(probeBudget)

	var rtts []time.Duration
	for i := range probeWarmUp + probePings {
		d, err := ask(link, wire.ProbeEcho, probePing, probePing)
		if err != nil {
			return m, peer, err
		}
		if i >= probeWarmUp {
			rtts = append(rtts, d)
		}
		if time.Now().After(end) && len(rtts) >= 3 {
			break
		}
	}
	slices.Sort(rtts)
	median := max(rtts[len(rtts)/2], 1) // 0 would be unknown
	off := make([]time.Duration, len(rtts))
	for i, d := range rtts {
		off[i] = (d - median).Abs()
	}
	slices.Sort(off)
	// Medians, because the machine may be busy: of the deviations too; 1.2 times that is the mean deviation, were they normal.
	m.RTTMin, m.RTTP99 = rtts[0], rtts[min(len(rtts)-1, len(rtts)*99/100)]
	m.Cost = substrate.Cost{RTT: median, Jitter: off[len(off)/2] * 6 / 5, Samples: len(rtts), Source: substrate.SourceProbe}

	m.Cost.PerByte, err = trains(rtts[0], func(n int) (time.Duration, error) { return ask(link, wire.ProbeTrain, n, 0) })
	return m, peer, err
}

// trains returns what a byte costs, in nanoseconds, beyond the least round-trip time. Of what ask takes the best train counts: the median says
// what a message costs, but a few late ones, of a machine that is busy for a moment, must not decide what a byte costs. Nor must the first,
// which may have to wait for memory.
func trains(rtt time.Duration, ask func(n int) (time.Duration, error)) (perByte float64, err error) {
	best := math.Inf(1)
	spent := time.Duration(0)
	for i, n := 0, probePiece; i == 0 || i < probeTrains && spent < trainsTime || i < leastTrains && spent < slowTime; i++ {
		d, err := ask(n)
		if err != nil {
			return 0, err
		}
		spent += d
		best = min(best, float64(max(d-rtt, d/4))/float64(n))
		if d < trainsTime/10 {
			n = min(2*n, probeTrain)
		}
	}
	return best, nil
}

// ask sends a request with n bytes behind it and returns how long its answer, with so many bytes behind it, took.
func ask(link substrate.Link, op wire.ProbeOp, n, back int) (time.Duration, error) {
	head := wire.Probe{Op: op, Len: n}.Append(nil)
	bufs := [][]byte{head}
	for left := n; left > 0; left -= probePiece {
		bufs = append(bufs, zeros[:min(left, probePiece)])
	}
	answer := make([]byte, wire.ProbeHeader+back)
	start := time.Now()
	if _, err := link.Send(substrate.Unkept, bufs); err != nil {
		return 0, err
	}
	if err := recvFull(link, answer); err != nil {
		return 0, err
	}
	d := time.Since(start)
	if string(answer[:wire.ProbeHeader]) != string(head) {
		return 0, &substrate.Error{Op: "probe", Substrate: "", Class: substrate.Protocol, Err: errors.New("the answer is not to the question")}
	}
	return d, nil
}

var zeros = make([]byte, probePiece)

// serveProbe answers a link that is only measured, within bounds.
func (l *Listener) serveProbe(link substrate.Link, fixed []byte, h wire.Hello) {
	e := l.e
	defer link.Close()
	if (h.Flags&wire.HelloPSK != 0) != (len(e.cfg.ClusterKey) > 0) {
		l.turnAway(link, wire.StatusKey, errors.New("a cluster key is demanded on one side only"))
		return
	}
	select {
	case e.probing <- struct{}{}:
		defer func() { <-e.probing }()
	default:
		l.turnAway(link, wire.StatusBusy, errors.New("too many probes at a time"))
		return
	}
	o, st, err := readOffer(link, fixed, h, e.psk)
	if err != nil {
		l.turnAway(link, st, err)
		return
	}
	if _, err := acceptOffer(link, o, e.identify(wire.Setup{}, link, "")); err != nil {
		return
	}
	end := time.Now().Add(probeTime + probeBudget)
	link.SetSendDeadline(end)
	link.SetRecvDeadline(end)
	buf := make([]byte, probePiece)
	for served := 0; served < probeServed; {
		if err := recvFull(link, buf[:wire.ProbeHeader]); err != nil {
			return
		}
		p, err := wire.ParseProbe(buf[:wire.ProbeHeader])
		if err != nil {
			return
		}
		served += wire.ProbeHeader + p.Len
		answer := buf[:wire.ProbeHeader]
		if p.Op == wire.ProbeEcho {
			answer = buf[:wire.ProbeHeader+p.Len]
			err = recvFull(link, answer[wire.ProbeHeader:])
		} else {
			for left := p.Len; left > 0 && err == nil; {
				var n int
				n, err = link.Recv(buf[wire.ProbeHeader:min(len(buf), wire.ProbeHeader+left)])
				left -= n
			}
		}
		if err != nil {
			return
		}
		if err := sendAll(link, answer); err != nil {
			return
		}
	}
}
