package activemsg_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/rdma"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// The tests in virtual time run over simulated queue pairs, too, whose network delays, loses, shows what was written as late as it may, and counts
// messages that find no receive.
func init() {
	activemsg.Rigs["rdma"] = func(t *testing.T, seed uint64, payload, slots int, delay time.Duration) activemsg.Rig {
		cfg := sim.Config{Seed: seed, Delay: delay, Jitter: delay / 2, LateWrites: seed%2 == 0}
		if seed%4 < 2 {
			cfg.Lose = 0.02
		}
		n := sim.New(cfg)
		var conns [2]*rdma.Conn
		for i, host := range []string{"a", "b"} {
			d, err := n.Host(host).Open(sim.DeviceName)
			require.NoError(t, err)
			a, err := rdma.Open(d, rdma.Config{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, a.Close()) })
			// 8: 1 ms, so that repeats take less than the peer's patience.
			conns[i], err = a.Prepare(rdma.ConnConfig{
				Payload: payload, Slots: slots, SendSlots: 2 + int(seed%7), Spin: -1, Timeout: 8, Strict: seed%3 == 0,
			})
			require.NoError(t, err)
		}
		x, err := conns[0].Connect(conns[1].Local())
		require.NoError(t, err)
		y, err := conns[1].Connect(conns[0].Local())
		require.NoError(t, err)
		return activemsg.Rig{
			A: x, B: y,
			Cut: func() { n.Cut(n.Host("a"), n.Host("b"), true) },
			Check: func() error {
				if s := n.Stats(); s.RNR != 0 || s.Overruns != 0 || s.Denied != 0 {
					return fmt.Errorf("%d messages found no receive, %d completions no room, %d writes were denied", s.RNR, s.Overruns, s.Denied)
				}
				return nil
			},
		}
	}
}
