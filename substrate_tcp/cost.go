package tcp

import (
	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// Cost asks the kernel for its estimates (Linux; elsewhere all is unknown). SendOverhead stays unknown: the kernel doesn't
// measure it.
func (l *link) Cost() substrate.Cost {
	raw, err := l.rawConn()
	if err != nil {
		return substrate.Cost{}
	}
	var stats sys.TCPStats
	var infoErr error
	if err := raw.Control(func(fd uintptr) { stats, infoErr = sys.TCPInfo(fd) }); err != nil || infoErr != nil {
		return substrate.Cost{}
	}
	return costOf(stats)
}

func costOf(s sys.TCPStats) substrate.Cost {
	if s.RTT == 0 {
		return substrate.Cost{} // no measurement yet; RTTVar then holds a start value, not a finding
	}
	c := substrate.Cost{
		RTT:     s.RTT,
		Jitter:  s.RTTVar,
		Samples: int(max(s.Delivered, 1)), // the handshake is one
		Age:     s.SinceAck,
		Source:  substrate.SourceKernel,
	}
	// A sender with little to say has a low rate on any path: that says nothing about the path.
	if s.DeliveryRate > 0 && !s.AppLimited {
		c.PerByte = 1e9 / float64(s.DeliveryRate)
	}
	if s.SegsOut > 0 {
		c.Loss = min(float64(s.Retrans)/float64(s.SegsOut), 1)
	}
	return c
}
