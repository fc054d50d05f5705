package endpoint

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
)

// couple is a connection from host "a" to host "b" on a network of its own, in a bubble.
type couple struct {
	n      *fault.Network
	ea, eb *Endpoint
	l      *Listener
	a, b   *session.Session
}

func newCouple(t *testing.T, nc fault.Config, cfg Config) *couple {
	p := &couple{n: fault.New(nc)}
	t.Cleanup(func() {
		p.ea.Close()
		p.eb.Close()
		p.n.Close()
	})
	cfg.NoSharing = true // pages are shared over sockets: no virtual time
	ca, cb := cfg, cfg
	ca.Substrate, cb.Substrate = p.n.Host("a"), p.n.Host("b")
	p.ea, p.eb = New(ca), New(cb)
	var err error
	p.l, err = p.eb.Listen(t.Context(), "b:1", Plain{})
	require.NoError(t, err)
	p.a, p.b = p.connect(t)
	return p
}

func (p *couple) connect(t *testing.T) (a, b *session.Session) {
	t.Helper()
	a, err := p.ea.Dial(t.Context(), "b:1", 0)
	require.NoError(t, err)
	acc, err := p.l.Accept()
	require.NoError(t, err)
	return a, acc.Session
}

// pour writes size coded bytes of direction d, in pieces with pauses that make it last.
func pour(s *session.Session, d, size int, pause time.Duration) error {
	buf := make([]byte, 5000)
	for off := 0; off < size; {
		p := buf[:min(len(buf), size-off)]
		for i := range p {
			p[i] = coded(d, uint64(off+i))
		}
		n, err := s.Write(p)
		if off += n; err != nil {
			return fmt.Errorf("write at %d: %w", off, err)
		}
		time.Sleep(pause)
	}
	return s.CloseWrite()
}

// expect reads size coded bytes of direction d and the end of the stream.
func expect(s *session.Session, d, size int) error {
	buf := make([]byte, 7000)
	for off := 0; ; {
		n, err := s.Read(buf)
		for i := range n {
			if buf[i] != coded(d, uint64(off+i)) {
				return fmt.Errorf("wrong byte at %d", off+i)
			}
		}
		switch off += n; {
		case err == io.EOF && off == size:
			return nil
		case err != nil:
			return fmt.Errorf("read at %d of %d: %w", off, size, err)
		}
	}
}

// TestLongOutage: a path that is away for minutes or a day, in the ways paths are away, costs no byte.
func TestLongOutage(t *testing.T) {
	t.Parallel()
	const size = 400_000
	for _, c := range []struct{ outage, patience time.Duration }{
		{10 * time.Minute, time.Hour}, {time.Duration(fewer(24, 3)) * time.Hour, 48 * time.Hour},
	} {
		for how, f := range map[string]struct{ begin, end func(n *fault.Network) }{
			"cut and partitioned": {func(n *fault.Network) { n.Partition("a", "b"); n.CutAll() }, func(n *fault.Network) { n.Heal("a", "b") }},
			"partitioned":         {func(n *fault.Network) { n.Partition("a", "b") }, func(n *fault.Network) { n.Heal("a", "b") }},
			"refused":             {func(n *fault.Network) { n.Refuse("b", true); n.CutAll() }, func(n *fault.Network) { n.Refuse("b", false) }},
			"swallowed":           {func(n *fault.Network) { n.All().Blackhole(fault.Both, true) }, func(n *fault.Network) { n.All().Blackhole(fault.Both, false) }},
		} {
			for _, seal := range []bool{false, true} {
				if c.outage > time.Hour && (seal || how == "partitioned" || how == "swallowed") {
					continue // the same again, but tens of thousands of attempts longer
				}
				t.Run(fmt.Sprintf("%s for %v, sealed %v", how, c.outage, seal), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p := newCouple(t, fault.Config{Seed: 7}, Config{Session: session.Config{Patience: c.patience, Seal: seal, SendBuffer: 100_000}})
						p.n.All().Shape(fault.Both, fault.Shape{Delay: 5 * time.Millisecond})
						start := time.Now()
						errs := make(chan error, 4)
						go func() { errs <- pour(p.a, 0, size, 20*time.Millisecond) }()
						go func() { errs <- pour(p.b, 1, size, 20*time.Millisecond) }()
						go func() { errs <- expect(p.b, 0, size) }()
						go func() { errs <- expect(p.a, 1, size) }()
						time.Sleep(500 * time.Millisecond)
						sent := p.a.Snapshot()
						require.NotZero(t, sent.Acked)
						require.Less(t, sent.Sent, uint64(size))
						f.begin(p.n)
						time.Sleep(c.outage)
						sn := p.a.Snapshot()
						require.NoError(t, sn.Err)
						require.Less(t, sn.Sent, uint64(size), "it was in the middle of the transfer")
						require.GreaterOrEqual(t, c.outage, sn.DownFor)
						require.Less(t, c.outage-sn.DownFor, time.Minute)
						f.end(p.n)
						for range 4 {
							require.NoError(t, <-errs)
						}
						require.Less(t, time.Since(start), c.outage+2*time.Minute, "it goes on soon after the outage")
						require.NoError(t, p.a.Close())
						require.NoError(t, p.b.Close())
						require.GreaterOrEqual(t, p.a.Snapshot().MaxOutage, c.outage-time.Minute)
					})
				})
			}
		}
	}
}

// TestOutOfPatience: an outage longer than the patience ends the connection when the patience is over, not before and not
// much later, for whoever waits on either side.
func TestOutOfPatience(t *testing.T) {
	for _, patience := range []time.Duration{time.Second, 10 * time.Minute, 36 * time.Hour} {
		t.Run(patience.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newCouple(t, fault.Config{Seed: 3}, Config{Session: session.Config{Patience: patience, SendBuffer: 64 << 10}})
				time.Sleep(time.Second)
				require.Equal(t, "bare", p.a.Snapshot().Mode)
				// a's Write is blocked (the outage fills its buffer), both Reads are.
				type end struct {
					who string
					at  time.Time
					err error
				}
				ends := make(chan end, 3)
				p.n.Partition("a", "b")
				p.n.CutAll()
				cut := time.Now()
				for who, s := range map[string]*session.Session{"a": p.a, "b": p.b} {
					go func() {
						_, err := s.Read(make([]byte, 10))
						ends <- end{who + " read", time.Now(), err}
					}()
				}
				go func() {
					n, err := p.a.Write(make([]byte, 1<<20))
					if n < 64<<10 || n == 1<<20 {
						err = fmt.Errorf("wrote %d bytes: %w", n, err)
					}
					ends <- end{"a write", time.Now(), err}
				}()
				for range 3 {
					select {
					case e := <-ends:
						require.ErrorIs(t, e.err, session.ErrPatience, e.who)
						var ee *session.EndError
						require.ErrorAs(t, e.err, &ee)
						require.True(t, ee.Timeout())
						require.WithinDuration(t, cut.Add(patience), e.at, 10*time.Millisecond, e.who)
						require.InDelta(t, patience, ee.Outage, float64(10*time.Millisecond))
					case <-time.After(2*patience + time.Hour):
						t.Fatal("hang")
					}
				}
				p.n.Heal("a", "b") // too late
				time.Sleep(time.Minute)
				_, err := p.b.Write([]byte{1})
				require.ErrorIs(t, err, session.ErrPatience)
				before := time.Now()
				err = p.a.Close()
				require.ErrorIs(t, err, session.ErrPatience, "what was written and never arrived is reported")
				var ee *session.EndError
				require.ErrorAs(t, err, &ee)
				require.GreaterOrEqual(t, ee.Unacked, uint64(64<<10))
				require.NoError(t, p.b.Close(), "b had nothing to deliver")
				require.ErrorIs(t, p.b.Close(), net.ErrClosed)
				require.Zero(t, time.Since(before), "there is nothing to linger for")
				_, err = p.a.Read(make([]byte, 1))
				require.ErrorIs(t, err, net.ErrClosed)
			})
		})
	}
}

// TestPatienceOfASilentPath: nobody cuts anything, bytes just vanish. The clock starts when the link is found dead, DeadAfter
// or so after the first byte that got no answer.
func TestPatienceOfASilentPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience = 5 * time.Minute
		p := newCouple(t, fault.Config{Seed: 3}, Config{Session: session.Config{Patience: patience}})
		time.Sleep(time.Second)
		p.n.Between("a", "b").Blackhole(fault.Both, true)
		start := time.Now()
		_, err := p.a.Write([]byte("into the void"))
		require.NoError(t, err)
		_, err = p.a.Read(make([]byte, 1))
		require.ErrorIs(t, err, session.ErrPatience)
		require.GreaterOrEqual(t, time.Since(start), patience)
		require.Less(t, time.Since(start), patience+time.Minute)
		err = p.a.Close()
		require.ErrorIs(t, err, session.ErrPatience)
		require.False(t, errors.Is(err, net.ErrClosed))
	})
}

// TestEndDuringOutage: the dialling end gives up while there is no path; the accepting end, which can't dial and would wait out
// its own patience, learns of it soon after the path is back.
func TestEndDuringOutage(t *testing.T) {
	for _, seal := range []bool{false, true} {
		t.Run(fmt.Sprintf("seal=%v", seal), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newCouple(t, fault.Config{Seed: 1}, Config{Session: session.Config{Seal: seal, Linger: 2 * time.Second}})
				p.n.Partition("a", "b")
				p.n.CutAll()
				_, err := p.a.Write([]byte("never arrives"))
				require.NoError(t, err)
				require.ErrorIs(t, p.a.Close(), session.ErrUndelivered)
				time.Sleep(5 * time.Second)
				require.False(t, p.b.Over())
				p.n.Heal("a", "b")
				back := time.Now()
				_, err = p.b.Read(make([]byte, 100))
				require.ErrorIs(t, err, session.ErrReset)
				require.Less(t, time.Since(back), 10*time.Second)
			})
		})
	}
}
