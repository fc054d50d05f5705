package tcp

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestControlContext: as in net.Dialer, a ControlContext hides a Control; dials run at the same time.
func TestControlContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	var outer, hidden atomic.Int32
	s := New(Options{Dialer: &net.Dialer{
		ControlContext: func(context.Context, string, string, syscall.RawConn) error { outer.Add(1); return nil },
		Control:        func(string, string, syscall.RawConn) error { hidden.Add(1); return nil },
	}})
	var dials sync.WaitGroup
	const n = 8
	for range n {
		dials.Go(func() {
			l, err := s.Dial(t.Context(), ln.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			l.Close()
		})
	}
	dials.Wait()
	require.EqualValues(t, n, outer.Load())
	require.Zero(t, hidden.Load())
}
