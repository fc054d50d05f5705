package udp

import (
	"math"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// A timer wakes a link when something is due. The runtime's timers are the wheel; a link has one. It is moved only to be earlier: when
// it fires too early it is set again, so that what is postponed with every packet costs nothing per packet. Under the link's mu.
type timer struct {
	t  *time.Timer
	at int64 // when it fires; 0: not set
}

func (t *timer) stop() {
	if t.t != nil && t.at != 0 && t.t.Stop() {
		t.at = 0
	}
}

// never is later than everything.
const never = int64(math.MaxInt64)

// due combines times of which 0 means none.
func due(times ...int64) int64 {
	at := never
	for _, t := range times {
		if t != 0 && t < at {
			at = t
		}
	}
	return at
}

// schedule sets the timer to what is due next. Under mu.
func (l *link) schedule(now int64) {
	if l.state == gone || l.state == dialing {
		return
	}
	at := due(l.ackAt, l.lossAt, l.probeAt(), l.paceAt, l.holdAt, l.linger, l.path.at, l.resetAt, l.askAt)
	if l.inflight > 0 {
		at = min(at, due(l.mtu.at)) // its probes go along with other packets
		if l.probesLong() {
			at = min(at, due(l.mtu.longAt))
		}
	}
	if at == never || l.timer.at != 0 && l.timer.at <= at {
		return
	}
	after := time.Duration(max(at-now, 0))
	l.timer.at = max(at, 1)
	if l.timer.t == nil {
		l.timer.t = time.AfterFunc(after, l.onTimer)
	} else {
		l.timer.t.Reset(after)
	}
}

func (l *link) onTimer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer.at = 0
	if l.state == gone {
		return
	}
	now := l.now()
	if l.linger != 0 && now >= l.linger {
		if l.resets == 0 {
			l.resets = 1 // the peer hasn't got everything: this was no end
			l.transmit(now)
		}
		l.leave()
		return
	}
	if l.ackAt != 0 && now >= l.ackAt {
		l.ackNow, l.ackAt = true, 0
	}
	if l.lossAt != 0 && now >= l.lossAt {
		l.detectLoss(now)
	}
	if at := l.probeAt(); at != 0 && now >= at {
		l.onTimeout(now)
	}
	if l.holdAt != 0 && now >= l.holdAt {
		l.holdAt, l.flush = 0, true
	}
	if l.askAt != 0 && now >= l.askAt {
		l.ask(now)
	}
	if l.path.at != 0 && now >= l.path.at {
		l.challengeAgain(now)
	}
	if l.state != gone {
		l.transmit(now)
	}
}

// probeAt is when the silence of the peer makes a probe due; 0: never. While packets are in flight it is the probe timeout (RFC
// 9002, section 6.2); while the peer's window is closed it asks whether it has opened.
func (l *link) probeAt() int64 {
	switch {
	case l.inflight > 0:
		if l.lossAt != 0 {
			return 0 // that comes first
		}
		after := l.rtt.timeout()
		if l.sameHost {
			after = max(after, localTimeout)
		}
		return l.lastEliciting + backOff(after, l.timeouts)
	case l.blocked():
		return max(l.lastEliciting, l.blockedAt) + backOff(max(l.rtt.timeout(), windowProbe), l.windowProbes)
	}
	return 0
}

// backOff doubles d n times, up to maxTimeout if that isn't less than d itself.
func backOff(d time.Duration, n int) int64 {
	return int64(max(d, min(d<<min(n, 10), maxTimeout)))
}

const (
	maxTimeout     = 500 * time.Millisecond
	windowProbe    = 10 * time.Millisecond
	ackRarely      = 256
	ackRarelyBytes = 2 << 20
	maxAckDelay    = time.Millisecond
	timerSlack     = time.Millisecond      // how late the runtime's timers may be
	localTimeout   = 20 * time.Millisecond // on one host silence mostly means that the peer waits for a processor
	initialRTT     = 50 * time.Millisecond
	granularity    = 100 * time.Microsecond
	stuckProbes    = 8                      // of a peer that lacks what was released
	collapse       = 3                      // probe timeouts in a row after which the window is given up, and full packets are suspected to vanish
	busySelf       = 4                      // times as much silence as breaks a link is borne by an end that can't keep up with reading
	doubt          = 4                      // and after which payload has checksums again
	busyPeer       = 150 * time.Millisecond // if the silence is longer than a peer may have to wait for a processor
	suspectRTTs    = 8
	holdTime       = 200 * time.Microsecond
	streakGap      = int64(50 * time.Microsecond)
	streakLength   = 8
	holdBytes      = 60 << 10
	lossRecent     = time.Second
	paceAboveRTT   = time.Millisecond
	defaultDown    = 3 * time.Second
	defaultWindow  = 8 << 20
	initialWindow  = 1 << 20
	sendAhead      = 256 << 10
	nearWindow     = 2 << 20
	besideAhead    = 512 << 10 // on one processor
	besideWindow   = 256 << 10
	nearForgives   = 10 * time.Second // without a loss
	copyBelow      = 1 << 10
	wakeRoom       = 128 << 10
	maxOutstanding = 1 << 16
)

// onTimeout sends probes after silence, and gives up after too much of it. Under mu.
func (l *link) onTimeout(now int64) {
	if l.inflight == 0 {
		if l.windowProbes++; l.windowProbes > stuckProbes && l.una < l.sent {
			l.fail(substrate.PathDown, errStuck)
		}
		l.probes = 1
		return
	}
	if down := max(int64(l.sub.opts.PathDown), suspectRTTs*int64(l.rtt.smooth)); now-l.progress >= down {
		if l.sock.behind.Load() && now-l.progress < busySelf*down {
			l.probes = 1 // the answer may lie here, unread
			return
		}
		l.fail(substrate.PathDown, errNoProgress)
		return
	}
	l.timeouts++
	l.sub.count.timeouts.Add(1)
	l.probes = 2
	if l.timeouts == ecnDoubt && l.ecn.state == ecnCapable {
		l.validateECN()
	}
	if l.timeouts >= doubt {
		l.bare = false // for all we know the peer wants none such
	}
	if l.timeouts < collapse || now-l.progress < int64(busyPeer) || l.collapsed {
		return
	}
	l.collapsed = true
	l.cc.OnCollapse(time.Duration(now))
	if !l.sameHost || !l.remote.Addr().IsLoopback() { // there only the processor can be away
		l.shrinkMTU(now)
	}
}

// An rtt estimates the round-trip time (RFC 9002, section 5).
type rtt struct {
	smooth, dev, least, latest time.Duration
	samples                    int
	at                         int64
}

func (r *rtt) add(sample, delay time.Duration, now int64) {
	sample = max(sample, time.Microsecond)
	if r.samples == 0 || sample < r.least {
		r.least = sample
	}
	// The peer's own delay is believed only as far as the path isn't faster than ever.
	if sample-delay >= r.least {
		sample -= delay
	}
	r.latest, r.at = sample, now
	if r.samples++; r.samples == 1 {
		r.smooth, r.dev = sample, sample/2
		return
	}
	r.dev += (abs(r.smooth-sample) - r.dev) / 4
	r.smooth += (sample - r.smooth) / 8
}

func abs(d time.Duration) time.Duration { return max(d, -d) }

// timeout is the probe timeout without back-off.
func (r *rtt) timeout() time.Duration {
	if r.samples == 0 {
		return 2 * initialRTT
	}
	return r.smooth + max(4*r.dev, granularity) + maxAckDelay + timerSlack
}
