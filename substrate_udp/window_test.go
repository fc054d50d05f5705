package udp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// TestSlowStartDoubles: pacing doesn't hold back the growth of the window, which it follows: 2 MiB take some 6 round trips.
func TestSlowStartDoubles(t *testing.T) {
	const size, rtt = 2 << 20, 50 * time.Millisecond
	c := cross(t, size, "", trouble{delay: rtt / 2}, Options{})
	took := time.Duration(size * 8 / (c.rate * 1e6) * 1e9)
	t.Log(took)
	require.Less(t, took, 9*rtt)
}

// TestReceiveWindowGrows for a user who keeps up on a long path, however often the window is said again; not for one who doesn't.
func TestReceiveWindowGrows(t *testing.T) {
	for _, fast := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, 1, trouble{delay: 20 * time.Millisecond})
			s := newTest(t, Options{open: m.open})
			ln, err := s.Listen(t.Context(), "10.0.0.1:7")
			require.NoError(t, err)
			a, err := s.Dial(t.Context(), "10.0.0.1:7")
			require.NoError(t, err)
			b, err := ln.Accept()
			require.NoError(t, err)
			go func() {
				for p := make([]byte, 64<<10); ; {
					if _, err := a.Send(substrate.Unkept, [][]byte{p}); err != nil {
						return
					}
				}
			}()
			p := make([]byte, 64<<10)
			for range 100 {
				_, err := readAll(b, p)
				require.NoError(t, err)
				if !fast {
					<-time.After(50 * time.Millisecond)
				}
			}
			l := b.(*link)
			l.mu.Lock()
			got, most := l.window, l.maxWindow()
			l.mu.Unlock()
			if fast {
				require.Equal(t, most, got)
			} else {
				require.Equal(t, initialWindow, got)
			}
			require.NoError(t, a.Close())
		})
	}
}
