package endpoint

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// Bounds of what is served to probes.
const (
	probeServed  = 16 << 20      // bytes that one probe link may cost the listener
	probesServed = 64            // probe links served at a time
	probeServe   = 6 * probeTime // for each: over a path far away each of some requests may take almost probeTime; see also aloneTrips
)

// probePiece is what is sent and received at a time.
const probePiece = 64 << 10

// ask sends a request with n bytes behind it, and lead before it, and returns how long its answer, with so many bytes behind it, took. That
// the time for it was over before it came is told by the number of bytes: a path may carry small packets and lose large ones.
func ask(link substrate.Link, lead []byte, op wire.ProbeOp, n, back int) (time.Duration, error) {
	lead = slices.Clip(lead)
	request := wire.Probe{Op: op, Len: n}.Append(lead)
	head := request[len(lead):]
	bufs := [][]byte{request}
	for left := n; left > 0; left -= probePiece {
		bufs = append(bufs, zeros[:min(left, probePiece)])
	}
	answer := make([]byte, wire.ProbeHeader+back)
	start := time.Now()
	_, err := link.Send(substrate.Unkept, bufs)
	if err == nil {
		err = recvFull(link, answer)
	}
	if errors.Is(err, substrate.ErrInterrupted) || errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, unansweredProbe{n, err}
	}
	if err != nil {
		return 0, err
	}
	d := time.Since(start)
	if string(answer[:wire.ProbeHeader]) != string(head) {
		return 0, &substrate.Error{Op: "probe", Substrate: "", Class: substrate.Protocol, Err: errors.New("the answer is not to the question")}
	}
	return d, nil
}

// unansweredProbe is a request for whose answer there was no time left.
type unansweredProbe struct {
	bytes int
	err   error // by which that was noticed
}

// Error says what was sent, and what may be the matter.
func (e unansweredProbe) Error() string {
	if e.bytes <= probePing {
		return fmt.Sprintf("no answer in time to %d bytes: the peer is stopped or overloaded, or the path loses packets", e.bytes)
	}
	return fmt.Sprintf("no answer in time to %d bytes, but to %d: the peer has stopped or is overloaded, or the path loses large packets", e.bytes, probePing)
}

func (e unansweredProbe) Unwrap() error { return e.err }

var zeros = make([]byte, probePiece)

// serveProbe answers a link that is only measured, within bounds.
func (l *Listener) serveProbe(link substrate.Link, fixed []byte, h wire.Hello) {
	e := l.e
	defer link.Close()
	if (h.Flags&wire.HelloPSK != 0) != (len(e.cfg.ClusterKey) > 0) {
		l.turnAway(link, wire.StatusKey, errors.New("a cluster key is demanded on one side only"))
		return
	}
	o, st, err := readOffer(link, fixed, h, e.psk)
	if err != nil {
		l.turnAway(link, st, err)
		return
	}
	select {
	case e.probing <- struct{}{}:
		defer func() { <-e.probing }()
	default:
		l.turnAway(link, wire.StatusBusy, errors.New("too many probes at a time"))
		return
	}
	a, err := acceptOffer(link, o, e.identify(wire.Setup{}, link, ""))
	if err != nil {
		return
	}
	end := time.Now().Add(trips(aloneTrips, a.rtt, probeServe))
	link.SetSendDeadline(end)
	link.SetRecvDeadline(end)
	for probes := newProbes(link); probes.answer() == nil; {
	}
}

// probes are the requests of one link.
type probes struct {
	link   substrate.Link
	buf    []byte
	served int // bytes
}

func newProbes(link substrate.Link) *probes { return &probes{link: link} }

// answer serves the next request, if not too much was asked already.
func (s *probes) answer() error {
	if s.served >= probeServed {
		return fmt.Errorf("%w: probes of more than %d bytes", substrate.ErrProtocol, probeServed)
	}
	if s.buf == nil {
		s.buf = make([]byte, probePiece)
	}
	buf := s.buf
	if err := recvFull(s.link, buf[:wire.ProbeHeader]); err != nil {
		return err
	}
	p, err := wire.ParseProbe(buf[:wire.ProbeHeader])
	if err != nil {
		return err
	}
	s.served += wire.ProbeHeader + p.Len
	answer := buf[:wire.ProbeHeader]
	if p.Op == wire.ProbeEcho {
		answer = buf[:wire.ProbeHeader+p.Len]
		err = recvFull(s.link, answer[wire.ProbeHeader:])
	} else {
		for left := p.Len; left > 0 && err == nil; {
			var n int
			n, err = s.link.Recv(buf[wire.ProbeHeader:min(len(buf), wire.ProbeHeader+left)])
			left -= n
		}
	}
	if err != nil {
		return err
	}
	return sendAll(s.link, answer)
}
