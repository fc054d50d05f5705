package tcp

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/substratetest"
)

func TestConformance(t *testing.T) {
	substratetest.Run(t, func(t *testing.T) substratetest.Env {
		s := New(Options{})
		return substratetest.Env{
			Dialer:   s,
			Listener: s,
			Listen:   "127.0.0.1:0",
			Refused:  closedPort(t),
			Hang:     silentPort(t),
			Bad:      "127.0.0.1",
			Abort:    abort,
		}
	})
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// abort makes the kernel send a reset.
func abort(l substrate.Link) {
	c := l.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn)
	c.SetLinger(0)
	c.Close()
}
