package session

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/wire"
)

// dialEnv is a process that can dial, in vain.
type dialEnv struct {
	fakeEnv
	tried chan time.Time
}

// CanDial is called without locks: it takes the endpoint's, which is held while sessions are looked for.
func (e dialEnv) CanDial(s *Session) bool {
	for range 100_000 { // somebody else may have it for a moment
		if s.mu.mu.TryLock() {
			s.mu.mu.Unlock()
			return true
		}
		runtime.Gosched()
	}
	panic("CanDial under the session's lock")
}

func (e dialEnv) Resume(context.Context, *Session, wire.Setup, func() error) (NewLink, error) {
	e.tried <- time.Now()
	return NewLink{}, errors.New("no network here")
}

// TestRetryNowIsNow: news that the path is back, which came while there was a link, don't cut short the back-off after the loss of that.
func TestRetryNowIsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, env := newFakeLink(nil), dialEnv{tried: make(chan time.Time, 100)}
		s := New(testGID, true, [32]byte{1}, Config{Linger: time.Millisecond}, env, NewPool(0))
		require.NoError(t, s.Bind(NewLink{Link: l, Name: "fake", LinkNo: 1, Peer: wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 1}}))
		defer finish(t, s, l)
		s.RetryNow()
		start := time.Now()
		s.Switch(errors.New("it died young"))
		require.Equal(t, s.cfg.RetryMin, (<-env.tried).Sub(start))
		synctest.Wait()
		s.RetryNow()
		require.Equal(t, s.cfg.RetryMin, (<-env.tried).Sub(start), "during a pause they do")
	})
}
