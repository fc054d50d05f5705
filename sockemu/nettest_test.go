package sockemu_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/sockemu/sockemu/sockemu"
)

// TestNetConn holds connections to the contract of net.Conn, also while their links are cut.
func TestNetConn(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "auth": withKey, "encrypt": encrypt} {
		for mode, cut := range map[string]bool{"": false, "/cut": true} {
			t.Run(name+mode, func(t *testing.T) {
				t.Parallel() // most of the time is nettest waiting for deadlines
				pipes := 0
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					// nettest's first two tests, BasicIO and PingPong, must deliver, on any machine; a later one, CloseTimeout, closes
					// what nobody reads and waits for that.
					linger := patience
					if pipes++; pipes > 2 {
						linger = 200 * time.Millisecond
					}
					r := newRig(t, change, func(cfg *sockemu.Config) { cfg.Linger = linger })
					c, s := r.pair()
					stop := func() {}
					if cut {
						stop = r.cutting()
					}
					return c, s, func() {
						stop()
						// An end that nettest has closed gets the time to deliver, for somebody may wait for the result; any other is
						// reset, since half of nettest leaves bytes behind that nobody reads.
						abort := func(x *sockemu.Conn) {
							x.SetLinger(0)
							x.Close()
						}
						both := []*sockemu.Conn{c, s}
						for _, x := range both {
							if x.Stats().State != "closing" {
								abort(x)
							}
						}
						for _, x := range both {
							eventually(t, "delivery", func() bool { n := x.Stats(); return n.State != "closing" || n.Unacked == 0 })
						}
						for _, x := range both {
							abort(x)
							eventually(t, "end", func() bool { return x.Stats().State == "ended" })
						}
						r.client.Close()
						r.server.Close()
						r.relay.Close()
					}, nil
				})
			})
		}
	}
}
