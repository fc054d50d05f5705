package session

import (
	"math"
	"sync/atomic"
)

// A lane is a lock that may be held while its holder waits for the network. Unlike sync.Mutex it parks waiters on a
// channel, so that a test bubble of testing/synctest sees them as idle; uncontended it costs one atomic each way. It hands
// over in order of arrival.
type lane struct {
	word *atomic.Uint64 // how many hold it or wait for it, in one half
	half uint           // 0 or 32
	sem  chan struct{}
}

func newLane() lane { return lane{word: new(atomic.Uint64), sem: make(chan struct{}, 1)} }

func (l *lane) count(word uint64) uint32 { return uint32(word >> l.half) }

func (l *lane) lock() {
	if l.count(l.word.Add(1<<l.half)) > 1 {
		<-l.sem
	}
}

// held reports whether somebody has it at this moment.
func (l *lane) held() bool { return l.count(l.word.Load()) > 0 }

func (l *lane) tryLock() bool {
	for {
		w := l.word.Load()
		if l.count(w) > 0 {
			return false
		}
		if l.word.CompareAndSwap(w, w+1<<l.half) {
			return true
		}
	}
}

func (l *lane) unlock() { l.pass(l.word.Add(-(1 << l.half))) }

// pass lets the next one in, if word, from after the unlock, says that there is one.
func (l *lane) pass(word uint64) {
	if l.count(word) > 0 {
		l.sem <- struct{}{}
	}
}

// A pair is the two lanes of one direction: outer is the application's call, inner the use of the link. They share a word, so that a call
// that finds both free takes both with one atomic.
type pair struct {
	word atomic.Uint64
}

func (p *pair) lanes() (outer, inner lane) {
	outer, inner = lane{word: &p.word, sem: make(chan struct{}, 1)}, lane{word: &p.word, half: 32, sem: make(chan struct{}, 1)}
	return outer, inner
}

const bothLanes = 1<<32 | 1

// tryBoth takes both lanes if both are free.
func (p *pair) tryBoth() bool { return p.word.CompareAndSwap(0, bothLanes) }

// unlockBoth gives back both; they are those of p.
func (p *pair) unlockBoth(outer, inner *lane) {
	const minus = math.MaxUint64 - bothLanes + 1
	if w := p.word.Add(minus); w != 0 {
		outer.pass(w)
		inner.pass(w)
	}
}

// A signal wakes one waiter; several raises before the wait count as one. It allocates nothing.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}
