package verbs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/rdma"
	"github.com/sockemu/sockemu/substrate"
)

// What a message of some size costs in each of the ways to send it depends on the adapter and on the machine. A path begins with constants; soon
// after, both ends measure it with messages that the other throws away, and adopt what is better. The next path of this process
// between the same two adapters begins with that.

const (
	// fitAfter is when a path is measured: it has been measured as a whole before, by who chooses between paths. The end that was dialled waits
	// twice as long, so that the two don't measure each other.
	fitAfter = 400 * time.Millisecond
	// fitFresh is how long a measurement holds for new paths.
	fitFresh = time.Hour
	// fitsMost bounds how many are remembered.
	fitsMost = 1000
)

// A fitted is a carrier whose thresholds can be measured.
type fitted interface {
	activemsg.Carrier
	Measure(ctx context.Context, head int, exchange rdma.Exchange) (rdma.Fit, error)
	Adopt(rdma.Thresholds)
	Thresholds() rdma.Thresholds
	// Known is what was measured before on the same way, Learn what is known from now on.
	Known() (rdma.Fit, bool)
	Learn(rdma.Fit)
	// Turn has room for one who measures: two at a time would measure each other.
	Turn() chan struct{}
}

// A way is between two adapters.
type way struct {
	at     place
	remote netip.Addr
}

type knownFit struct {
	rdma.Fit
	at time.Time
}

// Known is what was learned of late.
func (c *deviceCarrier) Known() (rdma.Fit, bool) {
	d := c.a.of
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.fits[c.way]
	return f.Fit, ok && time.Since(f.at) < fitFresh
}

// Learn remembers it for all carriers of the way.
func (c *deviceCarrier) Learn(f rdma.Fit) {
	d := c.a.of
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fits == nil || len(d.fits) >= fitsMost {
		d.fits = map[way]knownFit{}
	}
	d.fits[c.way] = knownFit{f, time.Now()}
}

// Turn is that of all devices.
func (c *deviceCarrier) Turn() chan struct{} { return c.a.of.turn }

// A trial is what a peer measures.
type trial struct {
	wait *activemsg.Waiter
	sent atomic.Uint64 // numbers of msgTry
	back atomic.Uint64 // and of its answers
	over chan struct{} // closed when nothing more is measured
	fit  rdma.Fit      // then
	err  error
}

// fit measures the path, once, when it is in use.
func (p *peer) fit() {
	t := &p.trial
	defer close(t.over)
	c, ok := p.carrier.(fitted)
	if !ok {
		t.err = errors.ErrUnsupported
		return
	}
	t.fit = rdma.Fit{Thresholds: c.Thresholds()}
	select {
	case <-p.verified:
	case <-p.quit:
		return
	}
	if f, ok := c.Known(); ok {
		t.fit = f
		return
	}
	wait := fitAfter
	if !p.dialer {
		wait *= 2
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.quit:
		return
	}
	select {
	case c.Turn() <- struct{}{}:
		defer func() { <-c.Turn() }()
	case <-p.quit:
		return
	}
	if f, ok := c.Known(); ok { // by another path
		c.Adopt(f.Thresholds)
		t.fit = f
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f, err := c.Measure(ctx, dataHead, p.try)
	if err != nil {
		t.err = err
		return
	}
	c.Adopt(f.Thresholds)
	c.Learn(f)
	t.fit = f
}

var errEnded = errors.New("the path has ended")

// try sends a message that the peer answers and forgets, in the form that data has.
func (p *peer) try(ctx context.Context, payload []byte) (sent, answered time.Duration, err error) {
	t := &p.trial
	n := t.sent.Add(1)
	var head [dataHead]byte
	binary.LittleEndian.PutUint64(head[:], n)
	stop := context.AfterFunc(ctx, t.wait.Wake)
	defer stop()
	began := time.Now()
	if err := p.ep.TrySend(msgTry, [][]byte{head[:], payload}); err != nil {
		return 0, 0, err
	}
	sent = time.Since(began)
	for t.back.Load() < n {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		if p.ended() {
			return 0, 0, errEnded
		}
		p.ep.Wait(t.wait, nil)
	}
	return sent, time.Since(began), nil
}

// onTry answers. Without a credit there is none, and the peer gives up.
func (p *peer) onTry(m *activemsg.Msg) error {
	if len(m.Payload) < dataHead {
		return fmt.Errorf("%d bytes to try", len(m.Payload))
	}
	if err := p.ep.TryShort(msgTried, [4]uint64{binary.LittleEndian.Uint64(m.Payload)}); err != nil && !errors.Is(err, activemsg.ErrNoCredit) {
		return err
	}
	return nil
}

func (p *peer) onTried(m *activemsg.Msg) error {
	t := &p.trial
	n := m.Args()[0]
	if n == 0 || n > t.sent.Load() {
		return errors.New("an answer to what was never tried")
	}
	if n > t.back.Load() {
		t.back.Store(n)
	}
	t.wait.Wake()
	return nil
}

// Describe says of the path to address, which was dialled before, by which device it leads and which thresholds it uses. It waits for their
// measurement until ctx ends.
func (s *Substrate) Describe(ctx context.Context, address string) string {
	s.mu.Lock()
	r := s.routes[address]
	s.mu.Unlock()
	if r == nil {
		return ""
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return ""
	}
	if r.err != nil {
		return ""
	}
	t := &r.p.trial
	about := r.p.device
	select {
	case <-t.over:
	case <-ctx.Done():
	}
	if _, ok := r.p.carrier.(fitted); !ok {
		return about
	}
	select {
	case <-t.over:
	default:
		return about + "; thresholds not measured yet" // those in force may be an experiment
	}
	if t.err != nil {
		return fmt.Sprintf("%s; %v: %v", about, t.fit, t.err)
	}
	return fmt.Sprintf("%s; %v", about, t.fit)
}

var _ substrate.Describer = (*Substrate)(nil)
