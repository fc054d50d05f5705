package session

import "sync/atomic"

// A lane is a lock that may be held while its holder waits for the network. Unlike sync.Mutex it parks waiters on a
// channel, so that a test bubble of testing/synctest sees them as idle; uncontended it costs one atomic each way. It hands
// over in order of arrival.
type lane struct {
	n   atomic.Int32
	sem chan struct{}
}

func newLane() lane { return lane{sem: make(chan struct{}, 1)} }

func (l *lane) lock() {
	if l.n.Add(1) > 1 {
		<-l.sem
	}
}

// held reports whether somebody has it at this moment.
func (l *lane) held() bool { return l.n.Load() > 0 }

func (l *lane) tryLock() bool { return l.n.CompareAndSwap(0, 1) }

func (l *lane) unlock() {
	if l.n.Add(-1) > 0 {
		l.sem <- struct{}{}
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
