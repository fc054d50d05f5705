package sockemu_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/sockemu/sockemu/sockemu"
)

// TestNetConn holds connections to the contract of net.Conn, also while their links are cut.
func TestNetConn(t *testing.T) {
	for name, change := range map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "auth": withKey, "encrypt": encrypt} {
		for mode, cut := range map[string]bool{"": false, "/cut": true} {
			t.Run(name+mode, func(t *testing.T) {
				t.Parallel() // most of the time is Close, lingering for a peer that does not read
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					r := newRig(t, change, func(cfg *sockemu.Config) { cfg.Linger = 600 * time.Millisecond })
					c, s := r.pair()
					stop := func() {}
					if cut {
						stop = r.cutting()
					}
					return c, s, func() {
						stop()
						var wg sync.WaitGroup
						for _, x := range []*sockemu.Conn{c, s} {
							wg.Go(func() { x.Close() })
						}
						wg.Wait()
						for _, x := range []*sockemu.Conn{c, s} {
							// nettest goes on while a Close of its own still waits for an acknowledgement.
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
