package endpoint

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// TestChannelHangUps: a peer that hangs up every control channel, because it has too many perhaps, is asked again less and less often, and
// has one soon after it has come round.
func TestChannelHangUps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{Seed: 1}, Config{})
		p.alive(t)
		before := p.eb.count.handshakes.Load()
		const tries = 20 * time.Second
		for start := time.Now(); time.Since(start) < tries; time.Sleep(time.Millisecond) {
			for _, c := range p.eb.openChannels() {
				c.close(errors.New("too many"))
			}
		}
		n := p.eb.count.handshakes.Load() - before
		require.Greater(t, n, uint64(5))
		require.Less(t, n, uint64(100), "as fast as the network lets it")
		time.Sleep(2 * p.ea.cfg.Session.RetryMax)
		require.True(t, p.a.Attached() && p.b.Attached())
		p.alive(t)
	})
}

// channelTo waits for the control channel that p's dialer looks after.
func channelTo(e *Endpoint, proc gid.ProcessID) (*peer, *channel) {
	e.mu.Lock()
	p := e.peers[proc]
	e.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p, p.ch
}

// TestBareWithoutChannel: a bare link without a control channel is given up after DeadAfter, however many addresses of the peer swallow what
// is sent there.
func TestBareWithoutChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCouple(t, fault.Config{Seed: 1}, Config{})
		c.alive(t)
		time.Sleep(time.Second)
		require.Equal(t, "bare", c.a.Snapshot().Mode)
		c.n.Route(func(from, to string) string {
			if from == "a" {
				return "nowhere:1"
			}
			return to
		})
		c.n.Between("a", "nowhere").Blackhole(fault.Both, true)
		p, ch := channelTo(c.ea, c.eb.proc)
		p.mu.Lock()
		for i := range 8 {
			p.addrs = append(p.addrs, fmt.Sprintf("nowhere:%d", i))
		}
		p.mu.Unlock()
		start := time.Now()
		ch.close(errors.New("cut"))
		for c.a.Snapshot().Lost == 0 && time.Since(start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		require.InDelta(t, c.ea.cfg.Session.DeadAfter.Seconds(), time.Since(start).Seconds(), 0.1)
		c.n.Route(nil)
		c.alive(t)
	})
}

// TestNewAddress: of a peer process that has been reached at many addresses the latest are known, not the first.
func TestNewAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCouple(t, fault.Config{Seed: 1}, Config{})
		p, _ := channelTo(c.ea, c.eb.proc)
		for i := range 3 * wire.MaxAddrs {
			addr := fmt.Sprintf("b:%d", 100+i)
			l, err := c.eb.Listen(t.Context(), addr, Plain{})
			require.NoError(t, err)
			s, err := c.ea.Dial(t.Context(), addr, 0)
			require.NoError(t, err)
			_, err = l.Accept()
			require.NoError(t, err)
			p.mu.Lock()
			known := slices.Clone(p.addrs)
			p.mu.Unlock()
			require.Contains(t, known, addr)
			require.LessOrEqual(t, len(known), 2*wire.MaxAddrs)
			s.SetLinger(0)
			s.Close()
			l.Free()
		}
	})
}

// TestLateAcknowledgement: one that was to leave on a control channel which was lost meanwhile doesn't hold up those that follow.
func TestLateAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCouple(t, fault.Config{Seed: 1}, Config{})
		c.alive(t)
		time.Sleep(time.Second)
		say := func() {
			_, err := c.a.Write(make([]byte, 100))
			require.NoError(t, err)
			require.NoError(t, readFull(c.b, make([]byte, 100)))
		}
		say()
		require.NotEqual(t, c.a.Snapshot().Sent, c.a.Snapshot().Acked, "it waits for company")
		_, ch := channelTo(c.ea, c.eb.proc)
		ch.close(errors.New("cut"))
		time.Sleep(time.Second)
		require.True(t, c.a.Attached() && c.b.Attached())
		say()
		time.Sleep(2 * c.ea.cfg.Session.AckDelay)
		require.Equal(t, c.a.Snapshot().Sent, c.a.Snapshot().Acked)
	})
}

// used returns the control channel that s uses.
func used(e *Endpoint, s *session.Session) *channel {
	for _, c := range e.openChannels() {
		if s.Uses(c) {
			return c
		}
	}
	return nil
}

// TestTwoChannels: where each end looks after a control channel, as after the acceptor's end has moved, both use the same one: what one says on
// the page of a channel the other must read.
func TestTwoChannels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCouple(t, fault.Config{Seed: 1}, Config{})
		_, err := c.ea.Listen(t.Context(), "a:1", Plain{})
		require.NoError(t, err)
		c.n.All().Shape(fault.Both, fault.Shape{Delay: 10 * time.Millisecond})
		c.a, c.b = c.connect(t)
		c.alive(t)
		c.eb.mu.Lock()
		en := c.eb.sessions[endOf(c.b)]
		en.imported, en.reach = true, true
		c.eb.mu.Unlock()
		c.eb.Bound(c.b)
		for range 10 {
			time.Sleep(10 * time.Second)
			a, b := used(c.ea, c.a), used(c.eb, c.b)
			require.NotNil(t, a)
			require.NotNil(t, b)
			require.Equal(t, a.binding, b.binding)
			require.True(t, a.dialed, "the initiator's")
			c.n.CutAll()
		}
		// When only the acceptor's is left that is used.
		time.Sleep(time.Second)
		p, ch := channelTo(c.ea, c.eb.proc)
		p.mu.Lock()
		p.backoff = time.Hour
		p.mu.Unlock()
		ch.close(errors.New("cut"))
		time.Sleep(100 * time.Millisecond)
		a, b := used(c.ea, c.a), used(c.eb, c.b)
		require.NotNil(t, a)
		require.NotNil(t, b)
		require.Equal(t, a.binding, b.binding)
		c.alive(t)
	})
}
