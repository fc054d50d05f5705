package udp

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/substratetest"
)

func TestConformance(t *testing.T) {
	substratetest.Run(t, func(t *testing.T) substratetest.Env {
		s := newTest(t, Options{PathDown: 20 * time.Second}) // a thousand links on a loaded machine are no dead path
		return substratetest.Env{
			Dialer: s, Listener: s, Listen: "127.0.0.1:0", Refused: closedPort(t), Hang: silentPort(t), Bad: "127.0.0.1", Abort: abort,
		}
	})
}

// TestConformanceInBubble runs over a network in memory, in virtual time: once a good one and once a bad one.
func TestConformanceInBubble(t *testing.T) {
	for name, tr := range map[string]trouble{
		"good": {},
		"slow": {delay: 5 * time.Millisecond},
		"bad":  {loss: .05, double: .05, corrupt: .02, swap: .1, delay: time.Millisecond, jitter: 200 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			substratetest.RunInBubble(t, func(t *testing.T) substratetest.Env {
				m := newMemory(t, 1, tr)
				s := newTest(t, Options{open: m.open})
				return substratetest.Env{
					Dialer: s, Listener: s, Listen: "10.0.0.1:0", Refused: "10.0.0.1:9", Hang: "10.0.0.2:1", Bad: "10.0.0.1", Abort: abort,
					Lossy: tr.loss > 0,
				}
			})
		})
	}
}

// newTest makes a Substrate that is closed with the test.
func newTest(t testing.TB, o Options) *Substrate {
	s := New(o)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func abort(l substrate.Link) {
	u := l.(*link)
	u.mu.Lock()
	u.abort()
	u.mu.Unlock()
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer c.Close()
	return c.LocalAddr().String()
}

// silentPort returns an address where somebody never answers.
func silentPort(t *testing.T) string {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}
