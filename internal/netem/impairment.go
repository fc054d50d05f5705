package netem

import (
	"errors"
	"fmt"
	"time"
)

// An Impairment is what one direction of a path does to the packets on it, in the order of the fields: packets too large for
// it vanish, the others wait for the rate in a queue with a limit, and then travel, where they are lost, copied, damaged and
// delayed. The zero Impairment passes everything at once.
//
// Sizes are those of the packets that are passed in: the payload of datagrams (Network, ForwardUDP) or whole IP packets (Path).
type Impairment struct {
	Blackhole bool // everything vanishes
	MTU       int  // packets of more bytes vanish without a word; 0: none does

	Rate  int64 // bits per second; 0: no limit
	Queue int   // bytes that may wait for the rate, with the packet being sent; 0: DefaultQueue. More are dropped (tail drop)
	Mark  int   // packets of ends that know of ECN are marked CE where so many bytes wait, and themselves; 0: none are

	Loss      float64 // fraction of packets lost, 0 to 1
	Burst     float64 // mean number of packets lost in a row, at least 1; 0 or 1: losses know nothing of each other
	Duplicate float64 // fraction of packets that arrive twice, the copy right behind
	Corrupt   float64 // fraction of packets with one bit flipped

	Delay     time.Duration // how long a packet travels
	Jitter    time.Duration // by how much that varies; see Shape
	Shape     Shape         // how it varies
	Unordered bool          // a packet with less delay overtakes one with more; else it waits for it
	Reorder   float64       // fraction of packets held back by Gap, so that those behind overtake them
	Gap       time.Duration // 0: DefaultGap

	Bleach bool // codepoints of ECN are cleared
	Mangle bool // every packet says CE
}

// A Shape is the distribution of jitter. A delay is never below 0 whatever the shape.
type Shape uint8

// The shapes of jitter.
const (
	Uniform Shape = iota // Delay-Jitter to Delay+Jitter, all alike
	Normal               // around Delay with the standard deviation Jitter
	Pareto               // later than Delay by Jitter on average, now and then by very much (Lomax, alpha 3)
)

var shapes = [...]string{Uniform: "uniform", Normal: "normal", Pareto: "pareto"}

// String is the name of the shape in a spec.
func (s Shape) String() string {
	if int(s) < len(shapes) {
		return shapes[s]
	}
	return fmt.Sprintf("Shape(%d)", uint8(s))
}

// Limits keep every time that can come out of an Impairment far from the end of time.Duration.
const (
	minRate  = 1000              // bit/s
	maxRate  = 1_000_000_000_000 // bit/s
	maxSize  = 1 << 30           // bytes, of Queue and MTU
	maxDelay = time.Hour
	maxBurst = 1e6 // packets
)

// DefaultGap holds back a reordered packet when nothing else is said.
const DefaultGap = 2 * time.Millisecond

// minQueue is the least that DefaultQueue gives: half a datagram of the largest kind would stop everything at low rates.
const minQueue = 64 << 10

// DefaultQueue is the limit of a queue for which none is given: what rate (bits per second) carries in 50 ms, at least 64 KiB.
func DefaultQueue(rate int64) int { return max(minQueue, int(rate/8/20)) }

// Validate finds values that mean nothing, and says what would.
func (im *Impairment) Validate() error {
	for _, p := range []struct {
		name string
		v    float64
	}{{"loss", im.Loss}, {"dup", im.Duplicate}, {"corrupt", im.Corrupt}, {"reorder", im.Reorder}} {
		if !(p.v >= 0 && p.v <= 1) { // also not a number
			return fmt.Errorf("%s=%v: want a fraction of 0 to 1, or 0%% to 100%%", p.name, p.v)
		}
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"delay", im.Delay}, {"jitter", im.Jitter}, {"gap", im.Gap}} {
		if d.v < 0 || d.v > maxDelay {
			return fmt.Errorf("%s=%v: want 0 to %v", d.name, d.v, maxDelay)
		}
	}
	switch {
	case im.Rate != 0 && (im.Rate < minRate || im.Rate > maxRate):
		return fmt.Errorf("rate=%dbit: want 1kbit to 1000gbit", im.Rate)
	case im.Queue < 0 || im.Queue > maxSize:
		return fmt.Errorf("queue=%d: want 1 to %d bytes", im.Queue, maxSize)
	case im.Queue > 0 && im.Rate == 0:
		return fmt.Errorf("queue=%d needs a rate: nothing waits for an unlimited one", im.Queue)
	case im.Mark < 0 || im.Mark > maxSize:
		return fmt.Errorf("ecn=%d: want 1 to %d bytes", im.Mark, maxSize)
	case im.Mark > 0 && im.Rate == 0:
		return fmt.Errorf("ecn=%d needs a rate: nothing waits for an unlimited one", im.Mark)
	case im.Bleach && im.Mangle:
		return errors.New("bleach and mangle: a codepoint can't be cleared and set")
	case im.MTU < 0 || im.MTU > maxSize:
		return fmt.Errorf("mtu=%d: want 1 to %d bytes", im.MTU, maxSize)
	case im.Shape > Pareto:
		return fmt.Errorf("no such shape of jitter: %v", im.Shape)
	case im.Burst != 0 && !(im.Burst >= 1 && im.Burst <= maxBurst):
		return fmt.Errorf("burst=%v: want a mean length of 1 to %g packets", im.Burst, maxBurst)
	case im.Burst > 1 && im.Loss == 0:
		return fmt.Errorf("burst=%v needs a loss", im.Burst)
	case im.Burst > 1 && im.Loss < 1 && im.Loss > im.Burst/(im.Burst+1):
		// At least one packet passes between two bursts.
		return fmt.Errorf("loss=%v in bursts of %v: such bursts lose at most %.4g", im.Loss, im.Burst, im.Burst/(im.Burst+1))
	case im.Gap != 0 && im.Reorder == 0:
		return fmt.Errorf("gap=%v needs reorder, the fraction of packets to hold back", im.Gap)
	}
	return nil
}
