package udp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/substrate"
)

// TestNear: ends in two network namespaces find out that they are on one host; that the path between them is long doesn't escape them.
func TestNear(t *testing.T) {
	for _, tc := range []struct {
		spec string
		near bool
	}{{"delay=0ms", true}, {"delay=2ms", false}} {
		t.Run(tc.spec, func(t *testing.T) {
			im := netem.MustParse(tc.spec)
			p, err := netem.NewPath(netem.PathConfig{Up: im, Down: im})
			if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
				t.Skip(err)
			}
			require.NoError(t, err)
			defer func() { require.NoError(t, p.Close()) }()
			x, y := newTest(t, Options{}), newTest(t, Options{})
			var ln substrate.Listener
			var a, b substrate.Link
			require.NoError(t, p.B.In(func() (err error) {
				ln, err = y.Listen(t.Context(), p.B.Addr.String()+":0")
				return err
			}))
			defer ln.Close()
			require.NoError(t, p.A.In(func() (err error) {
				a, err = x.Dial(t.Context(), fmt.Sprintf("%v:%d", p.B.Addr, ln.Addr().(*net.UDPAddr).Port))
				return err
			}))
			defer a.Close()
			b, err = ln.Accept()
			require.NoError(t, err)
			defer b.Close()
			for _, l := range []*link{a.(*link), b.(*link)} {
				l.mu.Lock()
				same := l.sameHost
				l.mu.Unlock()
				require.Equal(t, bootID() != 0, same)
			}
			// A machine that is busy needs a few round trips to show how short the path is.
			near := func() bool {
				transfer(t, a, b, 100_000)
				transfer(t, b, a, 100_000)
				n := 0
				for _, l := range []*link{a.(*link), b.(*link)} {
					l.mu.Lock()
					if l.near() {
						n++
					}
					l.mu.Unlock()
				}
				return n == 2
			}
			if !tc.near {
				require.False(t, near())
				return
			}
			for i := 0; !near(); i++ {
				require.Less(t, i, 1000)
			}
		})
	}
}
