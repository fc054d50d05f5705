package session

import (
	"sync"
	"sync/atomic"
)

// A guard is the lock of a session's state. Besides it holds the binding that a Write, and the one that a Read, may use without taking the
// lock: the last one that did found nothing in the state that speaks against it. Whoever takes the lock may be about to change that, so
// Lock withdraws both; a call that has just begun on one goes on as if it had begun a little earlier, and is dealt with like any
// that waits on the link: by the deadline there, Interrupt, and the lanes.
type guard struct {
	mu     sync.Mutex
	tx, rx atomic.Pointer[binding]
}

// Lock locks, and withdraws what Writes and Reads may use.
func (g *guard) Lock() {
	g.mu.Lock()
	withdraw(&g.tx)
	withdraw(&g.rx)
}

// LockTx is Lock for those who change nothing that concerns a Read.
func (g *guard) LockTx() {
	g.mu.Lock()
	withdraw(&g.tx)
}

// LockRx is Lock for those who change nothing that concerns a Write.
func (g *guard) LockRx() {
	g.mu.Lock()
	withdraw(&g.rx)
}

// Peek is Lock for those who change nothing that concerns either.
func (g *guard) Peek() { g.mu.Lock() }

// Unlock ends any of them.
func (g *guard) Unlock() { g.mu.Unlock() }

func withdraw(p *atomic.Pointer[binding]) {
	if p.Load() != nil {
		p.Store(nil)
	}
}
