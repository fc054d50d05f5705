package fault_test

import (
	"testing"
	"time"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/substrate/substratetest"
)

// env returns an Env over a network made of cfg, with shape on all its links.
func env(cfg fault.Config, shape fault.Shape) func(t *testing.T) substratetest.Env {
	return func(t *testing.T) substratetest.Env {
		cfg.Seed = 1
		n := fault.New(cfg)
		t.Cleanup(func() { n.Close() })
		n.All().Shape(fault.Both, shape)
		n.Host("nowhere")
		n.Partition("a", "nowhere")
		return substratetest.Env{
			Dialer:   n.Host("a"),
			Listener: n.Host("b"),
			Listen:   "b:0",
			Refused:  "b:9",
			Hang:     "nowhere:1",
			Bad:      "b",
			Abort:    func(l substrate.Link) { n.Cut(l) },
			NoKernel: shape == fault.Shape{} && !cfg.Retains, // ten times as many links are enough once
		}
	}
}

func TestConformance(t *testing.T) {
	t.Run("plain", func(t *testing.T) { substratetest.Run(t, env(fault.Config{}, fault.Shape{})) })
	t.Run("keeping", func(t *testing.T) { substratetest.Run(t, env(fault.Config{Keeps: true}, fault.Shape{})) })
	t.Run("retaining", func(t *testing.T) {
		substratetest.Run(t, env(fault.Config{Retains: true, Borrow: 1000}, fault.Shape{}))
	})
}

// TestConformanceInBubble has time to spare for slow paths.
func TestConformanceInBubble(t *testing.T) {
	t.Run("plain", func(t *testing.T) { substratetest.RunInBubble(t, env(fault.Config{}, fault.Shape{})) })
	slow := fault.Shape{Delay: time.Millisecond, Jitter: time.Millisecond, Rate: 100 << 20, SendPiece: 3000, RecvPiece: 2000}
	t.Run("slow", func(t *testing.T) { substratetest.RunInBubble(t, env(fault.Config{Buffer: 10_000}, slow)) })
	t.Run("slow and retaining", func(t *testing.T) {
		substratetest.RunInBubble(t, env(fault.Config{Retains: true, Borrow: 1000, Buffer: 5_000, HardClose: true}, slow))
	})
}
