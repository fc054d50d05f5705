package endpoint

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
)

// twoChannels is a couple whose acceptor's end has moved, and has dialled a control channel of its own.
func twoChannels(t *testing.T) (p *couple, mine, theirs *channel) {
	p = newCouple(t, fault.Config{Seed: 1}, Config{})
	_, err := p.ea.Listen(t.Context(), "a:1", Plain{})
	require.NoError(t, err)
	time.Sleep(time.Second)
	p.n.CutAll() // with the next link b learns where a listens
	p.alive(t)
	time.Sleep(time.Second)

	state, err := p.eb.Export(t.Context(), p.b)
	require.NoError(t, err)
	require.NoError(t, p.l.Free())
	old := p.eb
	t.Cleanup(func() { old.Close() })
	p.eb = New(Config{Substrate: p.n.Host("b"), NoSharing: true})
	p.l, err = p.eb.Listen(t.Context(), "b:1", Plain{})
	require.NoError(t, err)
	p.b, err = p.eb.Import(t.Context(), state, false)
	require.NoError(t, err)
	p.alive(t)
	time.Sleep(10 * time.Second)
	for _, c := range p.ea.openChannels() {
		if c.proc != p.eb.Proc() {
			continue
		}
		if c.dialed {
			mine = c
		} else {
			theirs = c
		}
	}
	require.NotNil(t, mine)
	require.NotNil(t, theirs)
	require.True(t, p.a.Uses(mine), "what both use is the initiator's")
	return p, mine, theirs
}

// TestDeadChannelBesideAGoodOne: of two control channels the one in use swallows everything. The connection goes on over the other one, long before
// the dead one is given up for its silence.
func TestDeadChannelBesideAGoodOne(t *testing.T) {
	for name, sender := range map[string]func(p *couple) (from, to *session.Session){
		"from the initiator": func(p *couple) (from, to *session.Session) { return p.a, p.b },
		"from the acceptor":  func(p *couple) (from, to *session.Session) { return p.b, p.a },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, mine, _ := twoChannels(t)
				p.n.On(mine.link).Blackhole(fault.Both, true)
				from, to := sender(p)
				start := time.Now()
				exchange(t, from, to)
				for n := from.Snapshot(); n.Acked < n.Sent; n = from.Snapshot() {
					require.Less(t, time.Since(start), 7*time.Second, "asked after 1 s, doubted 3 s later, given up after 1 more, and asked again")
					time.Sleep(time.Millisecond)
				}
				time.Sleep(8 * time.Second)
				for range 20 { // and both ends have left it
					start = time.Now()
					exchange(t, from, to)
					for n := from.Snapshot(); n.Acked < n.Sent; n = from.Snapshot() {
						require.Less(t, time.Since(start), 100*time.Millisecond)
						time.Sleep(time.Millisecond)
					}
				}
				require.Zero(t, p.b.Snapshot().Lost, "the link for data was never in doubt")
			})
		})
	}
}

// TestBothEndsInOneProcess: a process that has dialled itself, and one into which the other end was moved, also over a channel of its own.
func TestBothEndsInOneProcess(t *testing.T) {
	for name, build := range map[string]func(t *testing.T) *couple{
		"dialled": func(t *testing.T) *couple {
			p := newCouple(t, fault.Config{Seed: 1}, Config{})
			_, err := p.ea.Listen(t.Context(), "a:1", Plain{})
			require.NoError(t, err)
			l, err := p.ea.Listen(t.Context(), "a:2", Plain{})
			require.NoError(t, err)
			p.a, err = p.ea.Dial(t.Context(), "a:2", 0)
			require.NoError(t, err)
			acc, err := l.Accept()
			require.NoError(t, err)
			p.b = acc.Session
			return p
		},
		"moved": func(t *testing.T) *couple {
			p := newCouple(t, fault.Config{Seed: 1}, Config{})
			_, err := p.ea.Listen(t.Context(), "a:1", Plain{})
			require.NoError(t, err)
			p.n.CutAll()
			p.alive(t)
			time.Sleep(time.Second)
			state, err := p.eb.Export(t.Context(), p.b)
			require.NoError(t, err)
			p.b, err = p.ea.Import(t.Context(), state, false)
			require.NoError(t, err)
			return p
		},
		"moved there and dialled by both": func(t *testing.T) *couple {
			p, _, _ := twoChannels(t)
			state, err := p.eb.Export(t.Context(), p.b)
			require.NoError(t, err)
			p.b, err = p.ea.Import(t.Context(), state, false)
			require.NoError(t, err)
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := build(t)
				p.alive(t)
				time.Sleep(5 * time.Second)
				lost := p.a.Snapshot().Lost + p.b.Snapshot().Lost
				for range 20 {
					p.alive(t)
					time.Sleep(100 * time.Millisecond)
					for _, s := range []*session.Session{p.a, p.b} {
						n := s.Snapshot()
						require.Equal(t, "bare", n.Mode)
						require.True(t, s.Attached())
						require.Equal(t, n.Sent, n.Acked)
					}
				}
				require.NotSame(t, p.a.Channel(), p.b.Channel(), "one end of it each")
				time.Sleep(10 * time.Minute)
				p.alive(t)
				require.Equal(t, lost, p.a.Snapshot().Lost+p.b.Snapshot().Lost)
				p.n.CutAll()
				p.alive(t)
				closed := beside(p.b.Close)
				require.NoError(t, p.a.Close())
				require.NoError(t, <-closed)
				time.Sleep(2 * time.Minute)
				for _, c := range p.ea.openChannels() {
					require.NotEqual(t, p.ea.Proc(), c.proc)
				}
			})
		})
	}
}

// beside runs f beside the caller.
func beside(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}
