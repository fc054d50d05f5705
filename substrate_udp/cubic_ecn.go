package udp

import "time"

// markBeta is what a mark leaves of the window where RFC 9438 has cubicBeta for a loss: a router that marks has a short queue (RFC 8511). It
// holds for congestion avoidance only; slow start overshoots by more. What Reno would have (RFC 9438, section 4.3) grows more slowly after it, so
// that the average is Reno's.
const markBeta = 0.85

// OnMark is OnLoss for packets that arrived with the mark of a congested router. It is always believed, also where the rule about losses
// without a queue would not believe a loss.
func (c *cubic) OnMark(now, sentAt time.Duration, _ int) {
	if sentAt < c.recovery {
		return // one event per round trip
	}
	beta := markBeta
	if c.SlowStart() {
		beta = cubicBeta
	}
	was := c.window
	c.reduce(now, beta)
	c.marked, c.gentle = was, beta == markBeta
	if c.before != nil {
		c.before.recovery = c.recovery // losses that weren't don't undo it
	}
}

// lossAfterMark is told of a loss in the same round trip as a mark: it takes what it would have taken alone.
func (c *cubic) lossAfterMark() {
	beta := c.beta()
	if c.marked == 0 || beta == 1 {
		return
	}
	c.window = max(min(c.window, c.marked*beta), minimumPackets*c.segment)
	c.ssthresh = min(c.ssthresh, c.window)
	c.marked = 0
}
