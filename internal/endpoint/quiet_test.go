package endpoint

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
)

// What is a dead path and what isn't, to the millisecond: in virtual time no machine is too slow for it.

// watchful is a configuration that finds a dead path within the given time.
func watchful(seal bool, dead time.Duration) Config {
	return Config{
		Session:   session.Config{Seal: seal, DeadAfter: dead, KeepAlive: dead / 3, Patience: 3 * dead, SendBuffer: 256 << 10, RecvBuffer: 64 << 10},
		KeepAlive: dead / 3, KeepAliveDead: dead,
	}
}

func bothWays(t *testing.T, f func(t *testing.T, seal bool)) {
	for _, seal := range []bool{false, true} {
		t.Run(fmt.Sprintf("seal=%v", seal), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, seal) })
		})
	}
}

// TestReaderThatDoesNotRead is no dead path, however full every buffer is and however long it lasts.
func TestReaderThatDoesNotRead(t *testing.T) {
	bothWays(t, func(t *testing.T, seal bool) {
		p := newCouple(t, fault.Config{Seed: 1, Buffer: 64 << 10}, watchful(seal, 150*time.Millisecond))
		want := bytes.Repeat([]byte("all of it "), 100_000)
		wrote := make(chan error, 1)
		go func() {
			_, err := p.a.Write(want)
			if err == nil {
				err = p.a.CloseWrite()
			}
			wrote <- err
		}()
		time.Sleep(time.Duration(fewer(10, 2)) * time.Minute)
		for _, s := range []*session.Session{p.a, p.b} {
			require.Zero(t, s.Snapshot().Lost, "%v", s.Snapshot().Events)
		}
		require.Less(t, p.a.Snapshot().Sent, uint64(len(want)), "back-pressure")
		got, err := io.ReadAll(p.b)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, <-wrote)
		require.Zero(t, p.a.Snapshot().Lost)
	})
}

// TestIdleConnectionLives, without a byte, for thousands of times what is called dead.
func TestIdleConnectionLives(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, seal bool) {
		p := newCouple(t, fault.Config{Seed: 1}, watchful(seal, 150*time.Millisecond))
		time.Sleep(time.Duration(fewer(60, 5)) * time.Minute)
		require.Zero(t, p.a.Snapshot().Lost, "%v", p.a.Snapshot().Events)
		require.Zero(t, p.b.Snapshot().Lost, "%v", p.b.Snapshot().Events)
		p.alive(t)
	})
}

// TestStallIsNoticed within a second: a path that delivers nothing and ends nothing, on an idle connection and on a busy one.
func TestStallIsNoticed(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("busy=%v", busy), func(t *testing.T) {
			bothWays(t, func(t *testing.T, seal bool) {
				cfg := watchful(seal, 600*time.Millisecond)
				cfg.Session.Patience = time.Hour
				p := newCouple(t, fault.Config{Seed: 1}, cfg)
				time.Sleep(time.Second) // the control channel is up
				p.alive(t)
				p.n.All().Blackhole(fault.Both, true)
				if busy {
					_, err := p.a.Write([]byte("x"))
					require.NoError(t, err)
				}
				start := time.Now()
				for n := p.a.Snapshot(); n.State == "up" && n.Control != "none"; n = p.a.Snapshot() {
					require.Less(t, time.Since(start), time.Second)
					time.Sleep(time.Millisecond)
				}
				t.Logf("noticed after %v", time.Since(start))
				p.n.All().Blackhole(fault.Both, false)
				if busy {
					require.NoError(t, readFull(p.b, make([]byte, 1)))
				}
				p.alive(t)
			})
		})
	}
}

// TestPatienceStartsAnew with every outage.
func TestPatienceStartsAnew(t *testing.T) {
	bothWays(t, func(t *testing.T, seal bool) {
		p := newCouple(t, fault.Config{Seed: 1}, Config{Session: session.Config{Seal: seal, Patience: 400 * time.Millisecond, RetryMax: 50 * time.Millisecond}})
		for range 4 {
			p.n.Refuse("b", true)
			p.n.CutAll()
			time.Sleep(200 * time.Millisecond)
			p.n.Refuse("b", false)
			p.alive(t)
		}
		require.GreaterOrEqual(t, p.a.Snapshot().MaxOutage, 150*time.Millisecond)
	})
}

// TestNobodyLingers: when both ends have closed and have everything, both are done at once: neither waits out its linger time for a last
// word that went under with the link.
func TestNobodyLingers(t *testing.T) {
	for _, first := range []string{"dialer", "acceptor"} {
		t.Run(first, func(t *testing.T) {
			bothWays(t, func(t *testing.T, seal bool) {
				p := newCouple(t, fault.Config{Seed: 1}, Config{Session: session.Config{Seal: seal, Linger: time.Hour}})
				p.n.All().Shape(fault.Both, fault.Shape{Delay: time.Millisecond})
				p.alive(t)
				one, other := p.a, p.b
				if first == "acceptor" {
					one, other = p.b, p.a
				}
				closed := make(chan error, 1)
				go func() { closed <- one.Close() }()
				_, err := other.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				start := time.Now()
				require.NoError(t, other.Close())
				require.NoError(t, <-closed)
				<-p.a.Done()
				<-p.b.Done()
				require.Less(t, time.Since(start), time.Second)
			})
		})
	}
}
