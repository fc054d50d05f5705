package endpoint

import (
	"context"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
)

// slowListen is a substrate that takes its time to open a listener.
type slowListen struct {
	substrate.Substrate
	entered, gate chan struct{}
}

func (s *slowListen) Name() string { return "slow" }

func (s *slowListen) Listen(ctx context.Context, address string) (substrate.Listener, error) {
	close(s.entered)
	select {
	case <-s.gate:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.Substrate.Listen(ctx, address)
}

// TestSlowListen: a substrate that takes long to listen holds up whoever listens, and not the connections there are.
func TestSlowListen(t *testing.T) {
	for _, close := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := fault.New(fault.Config{})
			defer n.Close()
			slow := &slowListen{Substrate: n.Host("slow"), entered: make(chan struct{}), gate: make(chan struct{})}
			e := New(Config{Substrate: n.Host("b"), Others: []Other{{Substrate: slow, Listen: "slow:1"}}, NoSharing: true})
			errs := make(chan error, 1)
			go func() {
				_, err := e.Listen(t.Context(), "b:1", Plain{})
				errs <- err
			}()
			<-slow.entered
			synctest.Wait()
			free := e.mu.TryLock()
			if free {
				e.mu.Unlock()
			} else {
				slow.gate <- struct{}{}
			}
			require.True(t, free, "nobody can use the endpoint")
			if close {
				require.NoError(t, e.Close())
				require.ErrorIs(t, <-errs, net.ErrClosed)
				return
			}
			slow.gate <- struct{}{}
			require.NoError(t, <-errs)
			offers, _ := e.Offered()
			require.Len(t, offers, 1)
			require.NoError(t, e.Close())
		})
	}
}
