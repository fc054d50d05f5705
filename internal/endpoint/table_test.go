package endpoint

import (
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
)

// TestRememberedConnections: of connections that have ended no more are kept than the bound says, however fast they come and go.
func TestRememberedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := fault.New(fault.Config{})
		defer n.Close()
		e := New(Config{Substrate: n.Host("a"), NoSharing: true})
		defer e.Close()
		const more = 500
		var old []weak.Pointer[session.Session]
		for i := range maxRemembered + more {
			s := session.New(gid.New(), false, [32]byte{}, e.cfg.Session, e, e.pool)
			require.NoError(t, e.add(&entry{s: s}))
			s.Abort(net.ErrClosed, "over")
			if i < more {
				old = append(old, weak.Make(s))
			}
		}
		e.mu.Lock()
		require.Len(t, e.sessions, maxRemembered)
		e.mu.Unlock()
		runtime.GC()
		alive := 0
		for _, p := range old {
			if p.Value() != nil {
				alive++
			}
		}
		require.Less(t, alive, more/10, "somebody still holds them")
		time.Sleep(e.cfg.Remember)
		synctest.Wait()
		e.mu.Lock()
		require.Empty(t, e.sessions)
		require.Empty(t, e.ended)
		e.mu.Unlock()
	})
}
