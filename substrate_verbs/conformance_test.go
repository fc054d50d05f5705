package verbs

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate/substratetest"
)

func TestConformance(t *testing.T) {
	for name, o := range map[string]struct {
		pipe        activemsg.PipeConfig
		first, last uint64
	}{
		"default":     {},
		"small":       {pipe: activemsg.PipeConfig{Payload: 100, Slots: 60}},
		"small steps": {first: 4 << 10, last: 8 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewPipes(o.pipe)
			conform(t, setting{f, f, "127.0.0.1:0"}, Options{firstWindow: o.first, lastWindow: o.last})
		})
	}
}

// TestConformanceSim runs over queue pairs of simulated devices: one that does everything at once, and one that takes its time.
func TestConformanceSim(t *testing.T) {
	for name, cfg := range map[string]sim.Config{
		"fast":  {},
		"iwarp": {Seed: 2, IWARP: true, Delay: 20 * time.Microsecond},
		"slow":  {Seed: 1, Delay: 20 * time.Microsecond, Jitter: 50 * time.Microsecond, LateWrites: true, Lose: 1e-4},
	} {
		t.Run(name, func(t *testing.T) { conform(t, onSim(cfg), Options{}) })
	}
}

// TestConformanceDevice runs over the device that the environment names.
func TestConformanceDevice(t *testing.T) { conform(t, onDevice(t), Options{Death: emulated}) }

func conform(t *testing.T, s setting, o Options) {
	host, _, err := net.SplitHostPort(s.listen)
	require.NoError(t, err)
	substratetest.Run(t, func(t *testing.T) substratetest.Env {
		oa, ob := o, o
		oa.Fabric, ob.Fabric = s.a, s.b
		return substratetest.Env{
			Dialer: newTest(t, oa), Listener: newTest(t, ob), Listen: s.listen, Refused: closedPort(t, host), Hang: silentPort(t, host), Bad: "127.0.0.1", Abort: abort,
		}
	})
}
