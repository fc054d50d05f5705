package endpoint

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
)

// The simulator: two processes on a network that does its worst, in virtual time. A schedule is drawn by rapid, so a failing one
// is shrunk and printed with the seed that repeats it:
//
//	go test ./internal/endpoint -run TestSchedules -rapid.seed=N     (or -rapid.failfile=FILE)
//
// Every byte is position-coded; a schedule passes if both sides have read exactly what the other wrote, in order, up to an
// EOF at the right place, both Closes return nil, and virtual time stays below a bound (no hang).

// An event is one thing that goes wrong, or one move, at a moment.
type event struct {
	At   time.Duration
	Kind string
	For  time.Duration // how long it lasts, if it lasts
	N    uint64        // bytes, for resets
	Dir  fault.Dir
}

type schedule struct {
	Seed                 uint64
	Seal, Retains, Keeps bool
	NetBuffer            int
	SendBuffer           int
	RecvBuffer           int
	AckEvery             int
	Delay, Jitter        time.Duration
	Rate                 int
	Piece                int
	Duplicate            float64
	Late                 float64
	Bytes                [2]int
	Chunk                [2]int
	Pause                [2]time.Duration // of the writer, now and then
	ReadPause            [2]time.Duration
	HalfClose            [2]bool // CloseWrite before Close, or Close alone after everything was read
	Events               []event
	DialerListens        bool
	SimultaneousEnd      bool
	Doors                int // addresses at which b listens, besides the first
}

var kinds = []string{
	"cut", "cut", "cut-one", "reset-after", "reset-after", "blackhole", "stall", "partition", "refuse", "switch", "switch", "export-a", "export-b", "export-b",
	"return-a", "return-b", "astray", "astray",
}

func drawSchedule(t *rapid.T) schedule {
	ms := func(lo, hi int, name string) time.Duration {
		return time.Duration(rapid.IntRange(lo, hi).Draw(t, name)) * time.Millisecond
	}
	s := schedule{
		Seed:       rapid.Uint64().Draw(t, "seed"),
		Seal:       rapid.IntRange(0, 3).Draw(t, "seal") == 0,
		Retains:    rapid.IntRange(0, 3).Draw(t, "retains") == 0,
		Keeps:      rapid.IntRange(0, 2).Draw(t, "keeps") == 0,
		NetBuffer:  rapid.SampledFrom([]int{1 << 10, 8 << 10, 64 << 10, 512 << 10}).Draw(t, "netbuffer"),
		SendBuffer: rapid.SampledFrom([]int{64 << 10, 256 << 10, 16 << 20}).Draw(t, "sendbuffer"),
		RecvBuffer: rapid.SampledFrom([]int{4 << 10, 64 << 10, 4 << 20}).Draw(t, "recvbuffer"),
		AckEvery:   rapid.SampledFrom([]int{1, 4 << 10, 64 << 10}).Draw(t, "ackevery"),
		Delay:      rapid.SampledFrom([]time.Duration{0, 100 * time.Microsecond, 5 * time.Millisecond, 60 * time.Millisecond}).Draw(t, "delay"),
		Jitter:     ms(0, 5, "jitter"),
		Rate:       rapid.SampledFrom([]int{0, 0, 1 << 20}).Draw(t, "rate"),
		Piece:      rapid.SampledFrom([]int{0, 100, 5000}).Draw(t, "piece"),
		Duplicate:  rapid.SampledFrom([]float64{0, 0, 0.5}).Draw(t, "duplicate"),
		Late:       rapid.SampledFrom([]float64{0, 0, 0.3}).Draw(t, "late"),

		DialerListens:   rapid.Bool().Draw(t, "dialerlistens"),
		SimultaneousEnd: rapid.Bool().Draw(t, "simultaneous"),
		Doors:           rapid.IntRange(0, 2).Draw(t, "doors"),
	}
	for i := range 2 {
		s.Bytes[i] = rapid.SampledFrom([]int{0, 1, 1000, 20_000, 60_000, 200_000}).Draw(t, "bytes")
		s.Chunk[i] = rapid.SampledFrom([]int{1 << 4, 1 << 10, 9000, 100_000}).Draw(t, "chunk")
		if s.Chunk[i] < 1000 {
			s.Bytes[i] = min(s.Bytes[i], 5000)
		}
		s.Pause[i] = ms(0, 30, "pause")
		s.ReadPause[i] = ms(0, 20, "readpause")
		s.HalfClose[i] = rapid.Bool().Draw(t, "halfclose")
	}
	n := rapid.IntRange(0, 12).Draw(t, "events")
	at := time.Duration(0)
	for range n {
		at += ms(0, 300, "after")
		s.Events = append(s.Events, event{
			At: at, Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), For: ms(1, 2000, "for"),
			N: rapid.Uint64Range(0, 50_000).Draw(t, "n"), Dir: fault.Dir(rapid.IntRange(1, 3).Draw(t, "dir")),
		})
	}
	return s
}

// side is one application: its connection may move from endpoint to endpoint under it.
type side struct {
	name string
	mu   sync.Mutex
	cond *sync.Cond
	ep   *Endpoint
	s    *session.Session
	l    *Listener
	more []*Listener
	old  []*Endpoint
	over bool // the schedule has failed: everybody leaves
}

func newSide(name string) *side {
	s := &side{name: name}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// conn returns the connection, a newer one than prev.
func (s *side) conn(prev *session.Session) *session.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.s == prev && !s.over {
		s.cond.Wait()
	}
	return s.s
}

// abort makes everybody who waits for a newer connection leave.
func (s *side) abort() {
	s.mu.Lock()
	s.over = true
	s.cond.Broadcast()
	s.mu.Unlock()
}

// gone reports whether err is the end of an aborted schedule rather than a move.
func (s *side) gone(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over || !errors.Is(err, session.ErrExported)
}

var simLog = flag.Bool("sim.log", false, "log what the two ends of a schedule do")

// coded is byte i of the stream of direction d.
func coded(d int, i uint64) byte { return byte(i>>16*31 + i>>8*7 + i + uint64(d)*101) }

func (sc *schedule) config(n *fault.Network, host string) Config {
	var log *slog.Logger
	if *simLog {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("side", host)
	}
	return Config{
		Substrate: n.Host(host), NoSharing: true, KeepAlive: 300 * time.Millisecond, HandshakeTimeout: 2 * time.Second,
		Session: session.Config{
			Seal: sc.Seal, SendBuffer: sc.SendBuffer, RecvBuffer: sc.RecvBuffer, AckEvery: sc.AckEvery,
			Logger: log, DeadAfter: time.Second, GoneAfter: time.Minute, Patience: time.Hour, Linger: 30 * time.Minute,
		},
	}
}

// run plays the schedule in the present bubble and says what went wrong.
func (sc *schedule) run() (err error) {
	n := fault.New(fault.Config{Seed: sc.Seed, Buffer: sc.NetBuffer, Retains: sc.Retains && !sc.Keeps, Keeps: sc.Keeps, Gather: int(sc.Seed/2%3) * 1000, Borrow: int(sc.Seed/3%3) * 500, HardClose: sc.Seed%2 == 0})
	defer n.Close()
	n.All().Shape(fault.Both, fault.Shape{Delay: sc.Delay, Jitter: sc.Jitter, Rate: sc.Rate, SendPiece: sc.Piece, RecvPiece: sc.Piece})
	ctx := context.Background()
	sides := [2]*side{newSide("a"), newSide("b")}
	for _, s := range sides {
		s.ep = New(sc.config(n, s.name))
		defer func() {
			s.abort()
			s.mu.Lock()
			eps := append(s.old, s.ep)
			s.mu.Unlock()
			for _, e := range eps {
				e.Close()
			}
		}()
	}
	a, b := sides[0], sides[1]
	if b.l, err = b.ep.Listen(ctx, "b:1", Plain{}); err != nil {
		return err
	}
	if err := b.open(sc.Doors); err != nil {
		return err
	}
	if sc.DialerListens {
		if a.l, err = a.ep.Listen(ctx, "a:1", Plain{}); err != nil {
			return err
		}
	}
	if a.s, err = a.ep.Dial(ctx, "b:1", 0); err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	acc, err := b.l.Accept()
	if err != nil {
		return err
	}
	b.s = acc.Session
	n.DuplicateDials(sc.Duplicate)
	n.LateDials(sc.Late)

	start := time.Now()
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	report := func(e error) {
		if e != nil {
			select {
			case errs <- e:
			default:
			}
		}
	}
	var wrote, read [2]sync.WaitGroup
	for i := range 2 {
		wrote[i].Add(1)
		read[i].Add(1)
		wg.Go(func() { defer wrote[i].Done(); report(sc.writer(sides[i], i)) })
		wg.Go(func() { defer read[i].Done(); report(sc.reader(sides[i], 1-i)) })
	}
	stop := make(chan struct{})
	wg.Go(func() { sc.drive(n, sides, stop, report) })
	for i := range 2 {
		wg.Go(func() {
			wrote[i].Wait()
			read[i].Wait() // Close gives up what wasn't read
			if sc.SimultaneousEnd && (sc.HalfClose[0] || !sc.HalfClose[1]) && (sc.HalfClose[1] || !sc.HalfClose[0]) {
				read[1-i].Wait()
			}
			report(sc.closer(sides[i]))
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	limit := time.NewTimer(6 * time.Hour)
	defer limit.Stop()
	finished := make(chan struct{})
	go func() {
		for i := range 2 {
			wrote[i].Wait()
			read[i].Wait()
		}
		close(finished)
	}()
	select {
	case <-finished:
		close(stop)
	case e := <-errs:
		close(stop)
		return e
	case <-limit.C:
		close(stop)
		return fmt.Errorf("hang: still busy after %v of virtual time: a %v b %v", time.Since(start), brief(a), brief(b))
	}
	select {
	case <-done:
	case <-limit.C:
		return fmt.Errorf("hang in Close: a %v b %v", brief(a), brief(b))
	}
	select {
	case e := <-errs:
		return e
	default:
		return nil
	}
}

func (sc *schedule) writer(s *side, d int) error {
	rng := rand.New(rand.NewPCG(sc.Seed, uint64(d)))
	c := s.conn(nil)
	buf := make([]byte, sc.Chunk[d])
	for off := 0; off < sc.Bytes[d]; {
		p := buf[:min(1+rng.IntN(len(buf)), sc.Bytes[d]-off)]
		for i := range p {
			p[i] = coded(d, uint64(off+i))
		}
		n, err := c.Write(p)
		off += n
		clear(p) // the caller may do what it likes with its slice
		if err != nil && !s.gone(err) {
			c = s.conn(c)
		} else if err != nil {
			return fmt.Errorf("%s: write at %d: %w", s.name, off, err)
		}
		if sc.Pause[d] > 0 && rng.IntN(4) == 0 {
			time.Sleep(sc.Pause[d])
		}
	}
	if !sc.HalfClose[d] && sc.HalfClose[1-d] {
		return nil // Close, after the peer's end of stream, ends ours
	}
	for {
		err := c.CloseWrite()
		if err == nil {
			return nil
		}
		if s.gone(err) {
			return fmt.Errorf("%s: closewrite: %w", s.name, err)
		}
		c = s.conn(c)
	}
}

func (sc *schedule) reader(s *side, d int) error {
	rng := rand.New(rand.NewPCG(sc.Seed, uint64(d)+77))
	c := s.conn(nil)
	buf := make([]byte, 70_000)
	for off := 0; ; {
		n, err := c.Read(buf[:1+rng.IntN(len(buf))])
		for i := range n {
			if buf[i] != coded(d, uint64(off+i)) {
				return fmt.Errorf("%s: wrong byte at %d of %d", s.name, off+i, sc.Bytes[d])
			}
		}
		off += n
		switch {
		case err == io.EOF:
			if off != sc.Bytes[d] {
				return fmt.Errorf("%s: EOF after %d of %d bytes", s.name, off, sc.Bytes[d])
			}
			return nil
		case err != nil && !s.gone(err):
			c = s.conn(c)
		case err != nil:
			return fmt.Errorf("%s: read at %d of %d: %w", s.name, off, sc.Bytes[d], err)
		}
		if sc.ReadPause[d] > 0 && rng.IntN(4) == 0 {
			time.Sleep(sc.ReadPause[d])
		}
	}
}

func (sc *schedule) closer(s *side) error {
	c := s.conn(nil)
	for {
		err := c.Close()
		switch {
		case err == nil:
			return nil
		case !s.gone(err):
			c = s.conn(c)
		default:
			return fmt.Errorf("%s: close: %w", s.name, err)
		}
	}
}

// open listens at n more addresses.
func (s *side) open(n int) error {
	for i := range n {
		l, err := s.ep.Listen(context.Background(), fmt.Sprintf("%s:%d", s.name, 2+i), Plain{})
		if err != nil {
			return err
		}
		s.more = append(s.more, l)
	}
	return nil
}

// drive makes the events happen, and undoes everything when the applications have finished.
func (sc *schedule) drive(n *fault.Network, sides [2]*side, stop <-chan struct{}, report func(error)) {
	start := time.Now()
	wait := func(at time.Duration) bool {
		t := time.NewTimer(time.Until(start.Add(at)))
		defer t.Stop()
		select {
		case <-t.C:
			return true
		case <-stop:
			return false
		}
	}
	link := n.Between("a", "b")
	n.Host("void")
	n.Partition("a", "void")
	var astray atomic.Bool
	n.Route(func(_, to string) string {
		if to == "b:1" && astray.Load() {
			return "void:1"
		}
		return to
	})
	for _, e := range sc.Events {
		if !wait(e.At) {
			return
		}
		switch e.Kind {
		case "cut":
			n.CutAll()
		case "cut-one":
			link.Cut()
		case "reset-after":
			link.ResetAfter(e.N, e.Dir&fault.Forward|fault.Backward&e.Dir)
		case "blackhole":
			link.Blackhole(e.Dir, true)
			time.AfterFunc(e.For, func() { link.Blackhole(e.Dir, false) })
		case "stall":
			link.Stall(e.Dir, true)
			time.AfterFunc(e.For, func() { link.Stall(e.Dir, false) })
		case "partition":
			n.Partition("a", "b")
			time.AfterFunc(e.For, func() { n.Heal("a", "b") })
		case "refuse":
			n.Refuse("b", true)
			time.AfterFunc(e.For, func() { n.Refuse("b", false) })
		case "astray": // dials to its first address lead nowhere
			astray.Store(true)
			time.AfterFunc(e.For, func() { astray.Store(false) })
		case "switch":
			sides[0].conn(nil).Switch(errors.New("the schedule says so"))
		case "export-a":
			report(sc.move(n, sides[0], false))
		case "export-b":
			report(sc.move(n, sides[1], false))
		case "return-a":
			report(sc.move(n, sides[0], true))
		case "return-b":
			report(sc.move(n, sides[1], true))
		}
	}
}

// move exports the connection of s and imports it in a new process on the same host, or in the same process again.
func (sc *schedule) move(n *fault.Network, s *side, same bool) error {
	ctx := context.Background()
	s.mu.Lock()
	old, c, l := s.ep, s.s, s.l
	s.mu.Unlock()
	state, err := old.Export(ctx, c)
	if err != nil {
		return nil // it has ended
	}
	ep, nl := old, l
	if !same {
		ep = New(sc.config(n, s.name))
	}
	if l != nil && !same {
		l.Free()
		for _, l := range s.more {
			l.Free()
		}
		if nl, err = ep.Listen(ctx, l.Addr().String(), Plain{}); err != nil {
			return err
		}
	}
	moved, err := ep.Import(ctx, state, false)
	if err != nil {
		return fmt.Errorf("%s: import: %w", s.name, err)
	}
	if _, err := ep.Import(ctx, state, false); !errors.Is(err, session.ErrStateReplayed) {
		return fmt.Errorf("%s: second import: %v", s.name, err)
	}
	s.mu.Lock()
	if !same {
		s.old = append(s.old, old)
	}
	s.ep, s.s, s.l = ep, moved, nl
	doors := len(s.more)
	s.cond.Broadcast()
	s.mu.Unlock()
	if same {
		return nil
	}
	s.more = nil
	return s.open(doors)
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		sc := drawSchedule(rt)
		var err error
		synctest.Test(t, func(*testing.T) { err = sc.run() })
		if err != nil {
			rt.Fatalf("%v\n%+v", err, sc)
		}
	})
}

// brief says where a side stands.
func brief(s *side) string {
	n := s.conn(nil).Snapshot()
	return fmt.Sprintf("%s %s/%s sent %d acked %d received %d unread %d links %d lost %d err %v", n.State, n.Mode, n.Control, n.Sent, n.Acked, n.Received, n.Unread, n.Links, n.Lost, n.Err)
}
