package selector

import "sync/atomic"

// Buckets are the message sizes that stand for all others in a score. A message belongs to the one nearest on a logarithmic
// scale.
var Buckets = [...]int{64, 4 << 10, 64 << 10, 1 << 20}

// The largest messages of all buckets but the last: geometric means of neighbours.
const (
	tiny  = 512
	small = 16 << 10
	large = 256 << 10
)

// Weights are the shares of the buckets in a connection's messages. They sum to 1.
type Weights [len(Buckets)]float64

// StartWeights is assumed of a connection that has not written yet.
var StartWeights = Weights{.5, .3, .15, .05}

// Sizes counts a connection's messages by size. The zero Sizes is ready. Add is for one goroutine at a time; the counts may be looked at
// meanwhile, and are then a few of the latest messages behind.
type Sizes struct {
	counts [len(Buckets)]atomic.Uint32

	// The latest messages, all of one bucket, that counts doesn't have yet: so most need no atomic addition. Of most that it may lack, left more
	// may come.
	last, left, most uint32
}

// mostRun bounds how many messages counts may be behind. Of the first ones it has at least half.
const mostRun = 16

// Add counts a message of n bytes. It is cheap enough for every Write: the compiler inlines it, so that mostly it is one subtraction.
func (s *Sizes) Add(n int) {
	if n <= tiny && s.last == 0 && s.left > 1 {
		s.left--
	} else {
		s.add(n)
	}
}

func (s *Sizes) add(n int) {
	b := uint32(3)
	switch {
	case n <= tiny:
		b = 0
	case n <= small:
		b = 1
	case n <= large:
		b = 2
	}
	if b != s.last {
		s.flush(0)
		s.last = b
	}
	if s.left > 1 {
		s.left--
		return
	}
	s.flush(1)
	s.most = min(s.most+1, mostRun)
	s.left = s.most
}

// flush moves the latest messages, and some more of that bucket, to counts.
func (s *Sizes) flush(more uint32) {
	s.counts[s.last].Add(s.most - s.left + more)
	s.left = s.most
}

// The memory of a mix, in messages: how many the start weights count for, and after how many the past has faded.
const (
	startMessages = 8
	mixMemory     = 1024
)

// A mix turns the counts of Sizes into weights that follow what a connection has become: an exponentially weighted average
// whose clock is the number of messages.
type mix struct {
	seen  [len(Buckets)]uint32
	count [len(Buckets)]float64
}

// fold takes in what s has counted since the last time, and returns the weights. s may be nil.
func (m *mix) fold(s *Sizes) Weights {
	var sum float64
	for b := range m.count {
		if m.count == [len(Buckets)]float64{} {
			for i, w := range StartWeights {
				m.count[i] = w * startMessages
			}
		}
		if s != nil {
			now := s.counts[b].Load()
			m.count[b] += float64(now - m.seen[b]) // the counter wraps around, and so does the difference
			m.seen[b] = now
		}
		sum += m.count[b]
	}
	var w Weights
	for b := range m.count {
		w[b] = m.count[b] / sum
		if sum > mixMemory {
			m.count[b] = w[b] * mixMemory
		}
	}
	return w
}

// WeightsOf returns the weights that a new Binding would use after what s has counted.
func WeightsOf(s *Sizes) Weights { return new(mix).fold(s) }

// Mean is the mean message size in bytes.
func (w Weights) Mean() float64 {
	var mean float64
	for b, n := range Buckets {
		mean += w[b] * float64(n)
	}
	return mean
}
