package udp

import (
	"math"
	"time"
)

// A Controller decides how much of a link may be in flight. Its methods are called under the lock of the link: they are quick, and
// call nothing of the link. Times count from an arbitrary moment.
type Controller interface {
	// Window is the number of bytes that may be in flight.
	Window() int
	// SlowStart reports whether the window still grows exponentially, looking for the capacity of the path.
	SlowStart() bool
	// OnAck tells of bytes newly acknowledged. limited: the window, and not the application, held the sender back.
	OnAck(now, sentAt time.Duration, bytes int, rtt, minRTT time.Duration, limited bool)
	// OnLoss tells of packets lost, the latest of them sent at sentAt.
	OnLoss(now, sentAt time.Duration, bytes int)
	// OnMark tells of packets that arrived, the latest of them sent at sentAt, with a router's mark that it is congested (ECN).
	OnMark(now, sentAt time.Duration, packets int)
	// OnSpurious tells that all the packets of the last OnLoss, and of those that followed within a round trip, had arrived after all.
	OnSpurious(now time.Duration)
	// OnCollapse tells that nothing got through for several probe timeouts.
	OnCollapse(now time.Duration)
	// SetSegment tells the size of a full packet.
	SetSegment(bytes int)
}

// Constants of CUBIC (RFC 9438, section 4) and HyStart++ (RFC 9406, section 4.3).
const (
	cubicC         = 0.4
	cubicBeta      = 0.7
	initialPackets = 32
	minimumPackets = 2
	maximumWindow  = 1 << 30

	hystartMin     = 4 * time.Millisecond
	hystartMax     = 16 * time.Millisecond
	hystartSamples = 8
	hystartGrowth  = 4
	hystartRounds  = 5
)

// Loss without a queue. On a long path CUBIC's window is bound by the loss rate long before it is by the path, though a loss there
// says nothing about congestion as long as packets don't wait: the round trip is as short as ever. Such a loss is no signal up to
// tolerated of all bytes (BBRv3 has 2 %), a weak one up to endured, and beyond that, or when packets wait, the usual one.
const (
	tolerated  = 0.03
	endured    = 0.15
	weakBeta   = 0.95
	longRTT    = 5 * time.Millisecond // below it CUBIC recovers quickly, and buffers are too short to tell
	queueSeen  = 2 * time.Millisecond // or a thirty-second part of the shortest round trip: packets wait
	lossPrior  = 200                  // packets that count as received before anything was sent
	lossRounds = 8                    // windows over which losses are averaged
)

// cubic is CUBIC with HyStart++.
type cubic struct {
	segment  float64
	window   float64 // bytes
	ssthresh float64
	wMax     float64
	k        float64       // seconds from the start of the epoch until the window is wMax again
	epoch    time.Duration // 0: none yet
	est      float64       // W_est: what Reno would have
	before   *cubic        // what was before the last OnLoss, but for before itself
	recovery time.Duration // packets sent before it say nothing new about congestion
	marked   float64       // the window before the mark that began it; 0: a loss did
	gentle   bool          // this epoch began with a mark that took markBeta

	// To tell what a loss means.
	minRTT       time.Duration // the shortest ever
	low, lowThen time.Duration // in this round trip and in the one before: a processor that is late doesn't make it longer, a queue does
	lowEnd       time.Duration // packets sent after it belong to the next round trip
	got, lost    float64       // bytes acknowledged and lost, the older the less

	// HyStart++: rounds of one window each.
	roundEnd time.Duration // packets sent after it belong to the next round
	lastMin  time.Duration
	roundMin time.Duration
	samples  int
	css      int           // rounds in conservative slow start; 0: not in it
	cssBase  time.Duration // the RTT that led to it
}

var _ Controller = (*cubic)(nil)

// NewCubic returns the default Controller: CUBIC (RFC 9438) with HyStart++ (RFC 9406) and an initial window of 32 packets of
// segment bytes.
func NewCubic(segment int) Controller {
	s := float64(segment)
	return &cubic{segment: s, window: initialPackets * s, ssthresh: math.Inf(1), got: lossPrior * s}
}

func (c *cubic) Window() int { return int(c.window) }

func (c *cubic) SlowStart() bool { return c.window < c.ssthresh }

func (c *cubic) SetSegment(bytes int) {
	c.segment = float64(bytes)
	c.window = max(c.window, minimumPackets*c.segment)
}

func (c *cubic) OnAck(now, sentAt time.Duration, bytes int, rtt, minRTT time.Duration, limited bool) {
	c.minRTT = minRTT
	if sentAt >= c.lowEnd {
		c.lowEnd, c.lowThen, c.low = now, c.low, rtt
	}
	c.low = min(c.low, rtt)
	c.got += float64(bytes)
	if c.got > lossRounds*max(c.window, lossPrior*c.segment) {
		c.got /= 2
		c.lost /= 2
	}
	if c.SlowStart() {
		c.hystart(now, sentAt, rtt)
	}
	if !limited || sentAt < c.recovery {
		return
	}
	if c.SlowStart() {
		grow := float64(bytes)
		if c.css > 0 {
			grow /= hystartGrowth
		}
		c.window = min(c.window+grow, maximumWindow)
		return
	}
	c.avoid(now, float64(bytes), minRTT)
}

// avoid is congestion avoidance: RFC 9438, sections 4.2 to 4.5, in bytes.
func (c *cubic) avoid(now time.Duration, bytes float64, rtt time.Duration) {
	if c.epoch == 0 {
		c.epoch = now
		c.est = c.window
		if c.wMax <= c.window {
			c.wMax, c.k = c.window, 0
		} else {
			c.k = math.Cbrt((c.wMax - c.window) / c.segment / cubicC)
		}
	}
	t := (now - c.epoch).Seconds()
	target := func(t float64) float64 { return cubicC*math.Pow(t-c.k, 3)*c.segment + c.wMax }
	beta := cubicBeta
	if c.gentle {
		beta = markBeta
	}
	alpha := 3 * (1 - beta) / (1 + beta)
	if c.est >= c.wMax {
		alpha = 1
	}
	c.est += alpha * c.segment * bytes / c.window
	want := min(max(target(t+rtt.Seconds()), c.window), 1.5*c.window)
	if target(t) < c.est {
		c.window = max(c.window, c.est)
	} else {
		c.window += (want - c.window) * bytes / c.window
	}
	c.window = min(c.window, maximumWindow)
}

// hystart leaves slow start when the delay grows: queues fill.
func (c *cubic) hystart(now, sentAt, rtt time.Duration) {
	if sentAt >= c.roundEnd {
		c.roundEnd = now
		c.lastMin, c.roundMin, c.samples = c.roundMin, 0, 0
		if c.css > 0 {
			if c.css++; c.css > hystartRounds {
				c.ssthresh = c.window
				return
			}
		}
	}
	if c.samples++; c.roundMin == 0 || rtt < c.roundMin {
		c.roundMin = rtt
	}
	if c.samples < hystartSamples || c.lastMin == 0 {
		return
	}
	if c.css > 0 {
		if c.roundMin < c.cssBase {
			c.css = 0 // it was a passing delay
		}
		return
	}
	if c.roundMin >= c.lastMin+min(max(c.lastMin/8, hystartMin), hystartMax) {
		c.css, c.cssBase = 1, c.roundMin
	}
}

// beta is what a loss leaves of the window.
func (c *cubic) beta() float64 {
	rate := c.lost / (c.got + c.lost)
	switch {
	case c.minRTT < longRTT || min(c.low, max(c.lowThen, c.minRTT))-c.minRTT > max(queueSeen, c.minRTT/32) || rate > endured:
		return cubicBeta
	case rate > tolerated:
		return weakBeta
	}
	return 1
}

func (c *cubic) OnLoss(now, sentAt time.Duration, bytes int) {
	c.lost += float64(bytes)
	if sentAt < c.recovery {
		c.lossAfterMark()
		return // one event per round trip
	}
	beta := c.beta()
	if beta == 1 {
		return
	}
	if c.before == nil {
		c.before = new(cubic)
	}
	before := c.before
	*before = *c
	before.before = nil
	c.reduce(now, beta)
}

// reduce answers congestion: beta is left of the window (RFC 9438, sections 4.6 and 4.7).
func (c *cubic) reduce(now time.Duration, beta float64) {
	c.recovery, c.marked, c.gentle = now, 0, false
	c.epoch = 0
	if c.window < c.wMax {
		c.wMax = c.window * (1 + beta) / 2 // fast convergence: leave room to newcomers
	} else {
		c.wMax = c.window
	}
	c.window = max(c.window*beta, minimumPackets*c.segment)
	c.ssthresh = c.window
	c.css = 0
}

func (c *cubic) OnSpurious(time.Duration) {
	before := c.before
	if before == nil || before.recovery == c.recovery || c.window >= before.window {
		return // undone already, or made good
	}
	*c = *before
	c.before = before
}

func (c *cubic) OnCollapse(now time.Duration) {
	c.recovery = now
	c.epoch = 0
	c.wMax = c.window
	c.ssthresh = max(c.window*cubicBeta, minimumPackets*c.segment)
	c.window = minimumPackets * c.segment
	c.css = 0
}
