package endpoint

import (
	"context"
	"flag"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	shm "github.com/sockemu/sockemu/substrate_shm"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
	udp "github.com/sockemu/sockemu/substrate_udp"
)

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", strconv.Itoa(fewer(8, 4))) // the tests that run in parallel wait a lot
	goleak.VerifyTestMain(m)
}

// fewer is how often to do something: n times, or race times under the race detector, where the same code runs many times slower.
func fewer(n, race int) int {
	if raceOn {
		return race
	}
	return n
}

// cutter is a substrate whose links are interrupted at random moments, as often as every asks.
type cutter struct {
	substrate.Substrate
	dialed chan struct{} // there is a new link; holds one
	mu     sync.Mutex
	links  map[substrate.Link]struct{}
}

func (c *cutter) Dial(ctx context.Context, a string) (substrate.Link, error) {
	l, err := c.Substrate.Dial(ctx, a)
	if err == nil {
		if _, keeps := l.(substrate.Keeper); !keeps {
			l = struct{ substrate.Link }{l} // it is closed at any moment: no session may take itself for the only one to do that
		}
		c.mu.Lock()
		c.links[l] = struct{}{}
		c.mu.Unlock()
		select {
		case c.dialed <- struct{}{}:
		default:
		}
	}
	return l, err
}

func (c *cutter) run(stop <-chan struct{}, every time.Duration) {
	cuts(stop, every, func() {
		select {
		case <-c.dialed:
		default:
		}
		if !c.cut() {
			return
		}
		// Where it takes long to get another link, that has its time, too.
		t := time.NewTimer(time.Second)
		defer t.Stop()
		select {
		case <-c.dialed:
		case <-t.C: // the one that was cut was none in use
		case <-stop:
		}
	})
}

// cuts calls cut until stop, the first time after every, then after a little longer each time: however slow the machine, sooner or later
// a link lives long enough to get something done.
func cuts(stop <-chan struct{}, every time.Duration, cut func()) {
	t := time.NewTimer(every)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		cut()
		every += every / 20
		t.Reset(every)
	}
}

// cut reports whether it has cut anything.
func (c *cutter) cut() (any bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.links {
		if rand.IntN(3) > 0 {
			if _, keeps := l.(substrate.Keeper); keeps {
				l.Interrupt() // it breaks, but what it keeps is there until its session closes it
			} else {
				l.Close()
			}
			delete(c.links, l)
			any = true
		}
	}
	return any
}

// makePipe returns a nettest.MakePipe over sub, with links cut every cut (0: never).
func makePipe(sub func() (a, b substrate.Substrate, listen string, done func()), seal bool, cut time.Duration) nettest.MakePipe {
	linger := lingers()
	return func() (c1, c2 net.Conn, stop func(), err error) {
		sa, sb, listen, done := sub()
		ctr := &cutter{Substrate: sa, dialed: make(chan struct{}, 1), links: make(map[substrate.Link]struct{})}
		sc := session.Config{Seal: seal, Linger: linger(), RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond}
		a := New(Config{Substrate: ctr, Session: sc})
		b := New(Config{Substrate: sb, Session: sc})
		quit := make(chan struct{})
		var wg sync.WaitGroup
		stop = func() {
			close(quit)
			wg.Wait()
			hangUp(c1, c2)
			a.Close()
			b.Close()
			done()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		l, err := b.Listen(ctx, listen, Plain{})
		if err != nil {
			return nil, nil, nil, err
		}
		s, err := a.Dial(ctx, l.Addr().String(), 0)
		if err != nil {
			return nil, nil, nil, err
		}
		acc, err := l.Accept()
		if err != nil {
			return nil, nil, nil, err
		}
		if cut > 0 { // not before: if the last word of a handshake is lost there is nothing to accept
			wg.Go(func() { ctr.run(quit, cut) })
		}
		return s, acc.Session, stop, nil
	}
}

// lingers returns the linger time of one pipe of nettest after the other. Its first two tests, BasicIO and PingPong, must deliver, between
// cuts and on any machine; a later one, CloseTimeout, closes what nobody reads and waits for that.
func lingers() func() time.Duration {
	pipes := 0
	return func() time.Duration {
		if pipes++; pipes <= 2 {
			return 30 * time.Second
		}
		return 200 * time.Millisecond
	}
}

// hangUp ends what nettest is done with. An end that it has closed gets the time to deliver, for somebody may wait for the result; any
// other is reset, since half of nettest leaves bytes behind that nobody reads.
func hangUp(ends ...net.Conn) {
	var all []*session.Session
	for _, c := range ends {
		if s, _ := c.(*session.Session); s != nil {
			all = append(all, s)
			if !s.Closing() {
				abort(s)
			}
		}
	}
	for _, s := range all {
		for n := s.Snapshot(); s.Closing() && n.Acked < n.Sent; n = s.Snapshot() {
			<-time.After(time.Millisecond)
		}
	}
	for _, s := range all {
		abort(s) // what is left is that the ends tell each other that they are done
		<-s.Done()
	}
}

func abort(s *session.Session) {
	s.SetLinger(0)
	s.Close()
}

func overTCP() (substrate.Substrate, substrate.Substrate, string, func()) {
	s := tcp.New(tcp.Options{})
	return s, s, "127.0.0.1:0", func() {}
}

func overSHM() (substrate.Substrate, substrate.Substrate, string, func()) {
	return shm.New(shm.Options{}), shm.New(shm.Options{}), "", func() {}
}

func overUDP() (substrate.Substrate, substrate.Substrate, string, func()) {
	a, b := udp.New(udp.Options{}), udp.New(udp.Options{})
	return a, b, "127.0.0.1:0", func() { a.Close(); b.Close() }
}

func overFault(retains bool) func() (substrate.Substrate, substrate.Substrate, string, func()) {
	return func() (substrate.Substrate, substrate.Substrate, string, func()) {
		n := fault.New(fault.Config{Seed: rand.Uint64(), Retains: retains})
		return n.Host("a"), n.Host("b"), "b:1", func() { n.Close() }
	}
}

// morePipes are held to the contract too; files for single systems add to them.
var morePipes = map[string]nettest.MakePipe{}

func TestNetConn(t *testing.T) {
	t.Parallel()
	for name, pipe := range morePipes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nettest.TestConn(t, pipe)
		})
	}
	for name, sub := range map[string]func() (substrate.Substrate, substrate.Substrate, string, func()){
		"tcp": overTCP, "shm": overSHM, "udp": overUDP, "fault": overFault(false), "fault-retains": overFault(true),
	} {
		for _, seal := range []bool{false, true} {
			for _, cut := range []time.Duration{0, 20 * time.Millisecond, 3 * time.Millisecond} {
				if raceOn {
					// Everything is slower, and a link must live long enough for a handshake: fewer cases, slower cuts.
					if name == "fault-retains" || cut > 0 && cut < 20*time.Millisecond {
						continue
					}
					cut *= 10
				}
				n := name
				if seal {
					n += "/sealed"
				}
				if cut > 0 {
					n += "/cut every " + cut.String()
				}
				t.Run(n, func(t *testing.T) {
					t.Parallel() // most of the time is nettest waiting for deadlines
					nettest.TestConn(t, makePipe(sub, seal, cut))
				})
			}
		}
	}
}
