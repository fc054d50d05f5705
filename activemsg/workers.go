package activemsg

import "sync"

// arrives are the messages that are being received and the goroutines that run their handlers. open belongs to the goroutine that
// handles segments.
type arrives struct {
	open [maxOpen]*In

	mu       sync.Mutex
	unused   []*In
	idle     []*worker
	running  int   // workers that have a message
	queue    []*In // messages for which there is no worker, from head on
	head     int
	ended    bool
	buffered int // bytes of moved pieces
}

// maxUnused bounds what is kept for later use, of messages and of goroutines.
const maxUnused = 64

// A worker is a goroutine that runs handlers.
type worker struct{ job chan *In }

// get returns a fresh In.
func (a *arrives) get(e *Endpoint) *In {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.unused); n > 0 {
		in := a.unused[n-1]
		a.unused = a.unused[:n-1]
		return in
	}
	return &In{ep: e, wake: make(chan struct{}, 1), waiting: true}
}

// put takes back an In that is finished at both sides.
func (a *arrives) put(in *In) {
	select {
	case <-in.wake:
	default:
	}
	in.f, in.total = nil, 0
	in.mu.Lock() // unstall may still look at it
	in.reading, in.waiting, in.stalled, in.ended, in.aborted, in.returned = false, true, false, false, false, false
	in.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.unused) < maxUnused {
		a.unused = append(a.unused, in)
	}
}

// worker returns who is to handle in, nil if it has to wait for one.
func (a *arrives) worker(e *Endpoint, in *In) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch n := len(a.idle); {
	case a.ended:
		return nil
	case a.running == e.cfg.Handlers:
		a.queue = append(a.queue, in)
		return nil
	case n > 0:
		a.running++
		w := a.idle[n-1]
		a.idle = a.idle[:n-1]
		return w
	}
	a.running++
	w := &worker{job: make(chan *In, 1)}
	e.tasks.Go(func() { e.work(w) })
	return w
}

// spawn starts a goroutine that Close waits for, unless the endpoint has ended.
func (a *arrives) spawn(e *Endpoint, f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		e.tasks.Go(f)
	}
	return !a.ended
}

// next returns the message that has waited longest. Without one the worker is idle, or superfluous.
func (a *arrives) next(w *worker) (in *In, stay bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.head < len(a.queue) && !a.ended {
		in, a.queue[a.head] = a.queue[a.head], nil
		if a.head++; a.head == len(a.queue) {
			a.queue, a.head = a.queue[:0], 0
		} else if a.head == cap(a.queue)/2 && a.head > 0 {
			n := copy(a.queue, a.queue[a.head:])
			clear(a.queue[n:])
			a.queue, a.head = a.queue[:n], 0
		}
		return in, true
	}
	a.running--
	if len(a.idle) == maxUnused {
		return nil, false
	}
	a.idle = append(a.idle, w)
	return nil, true
}

// work runs handlers, one after the other, until the endpoint ends. Those that were given to it before still run.
func (e *Endpoint) work(w *worker) {
	for {
		var in *In
		select {
		case in = <-w.job:
		case <-e.done:
			select {
			case in = <-w.job:
			default:
				return
			}
		}
		for stay := true; in != nil; {
			in.mu.Lock()
			in.waiting = false
			in.mu.Unlock()
			in.f(in)
			if in.finish() {
				e.arrives.put(in)
			}
			if in, stay = e.arrives.next(w); !stay {
				return
			}
		}
	}
}

func (a *arrives) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
}

// buffer asks for n bytes to move a piece.
func (a *arrives) buffer(n, most int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.buffered+n > most {
		return false
	}
	a.buffered += n
	return true
}

func (a *arrives) unbuffer(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.buffered -= n
}
