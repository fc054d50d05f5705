package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/sockemu/sockemu/selector"
)

// Where several paths may lead to the peer and one of them hangs, the next is tried beside it after a while (RFC 8305, section 5, Happy
// Eyeballs): after four round trips over it, as far as that is known, but raceFrom at least and raceMost at most.
const (
	raceFrom = 100 * time.Millisecond
	raceMost = 250 * time.Millisecond
)

// patience is how long to wait for a path whose round trips take rtt; 0: unknown.
func patience(rtt time.Duration) time.Duration { return min(max(raceFrom, 4*rtt), raceMost) }

// errOutrun ends the attempts over other paths when one has won.
var errOutrun = errors.New("another path was faster")

// A race opens one link to a peer over any of several paths.
type race[T any] struct {
	e        *Endpoint
	paths    []selector.Path                   // the best first
	patience func(selector.Path) time.Duration // after which the next one is tried as well
	// try makes an attempt. It calls claim just before it tells the peer that the link counts, and gives up if that fails.
	try    func(ctx context.Context, path selector.Path, claim func() error) (T, error)
	commit func() error // called by the first to claim, which fails with it; nil: nothing to do
	// failed is told over which paths nothing came of it, those among them that had hung when another one won or the time was over. If it returns true none of the rest
	// need be tried.
	failed func(path selector.Path, err error) bool

	mu     sync.Mutex
	over   bool // nobody may claim any more
	winner *try[T]
}

// A try is the attempt over one path.
type try[T any] struct {
	path  selector.Path
	began time.Time
	ended bool // the loop knows
	got   T
	err   error
}

// run returns what the attempt over the first path on which the peer has proved itself has brought, and false if there is none. When it returns
// the other attempts have been told to end, and none of them can claim any more.
func (r *race[T]) run(ctx context.Context) (got T, ok bool) {
	done := ctx.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errOutrun)
	results := make(chan *try[T], len(r.paths))
	var tries []*try[T]
	next := time.NewTimer(0)
	defer next.Stop()
	for running := 0; running > 0 || len(tries) < len(r.paths); {
		select {
		case <-next.C:
			if len(tries) == len(r.paths) {
				continue
			}
			t := &try[T]{path: r.paths[len(tries)], began: time.Now()}
			started := r.e.goes(func() {
				t.got, t.err = r.try(ctx, t.path, func() error { return r.claim(t) })
				results <- t
			})
			if !started {
				r.failed(t.path, net.ErrClosed)
				r.end()
				return got, false
			}
			running++
			tries = append(tries, t)
			next.Reset(r.patience(t.path))
		case t := <-results:
			running--
			t.ended = true
			if t.err == nil {
				r.outrun(tries)
				return t.got, true
			}
			enough := r.failed(t.path, t.err)
			switch w := r.won(); {
			case w == t:
				return got, false // the peer may think otherwise
			case enough && r.end() == nil:
				return got, false
			}
			next.Reset(0)
		case <-done:
			if r.end() == nil {
				for _, t := range tries {
					if !t.ended {
						r.failed(t.path, fmt.Errorf("no answer within %v: %w", time.Since(t.began).Round(time.Millisecond), context.Cause(ctx)))
					}
				}
				return got, false
			}
			done = nil // one has won, and says in a moment what came of it
		}
	}
	return got, false
}

// claim makes t the winner if there is none yet.
func (r *race[T]) claim(t *try[T]) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || r.winner != nil {
		return errOutrun
	}
	if r.commit != nil {
		if err := r.commit(); err != nil {
			return err
		}
	}
	r.winner = t
	return nil
}

// won returns the winner, if there is one.
func (r *race[T]) won() *try[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.winner
}

// end lets nobody claim any more. It returns who has.
func (r *race[T]) end() *try[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.winner
}

// outrun reports the paths that had hung when another one won.
func (r *race[T]) outrun(tries []*try[T]) {
	for _, t := range tries {
		if took := time.Since(t.began); !t.ended && t != r.winner && took >= r.patience(t.path) {
			r.failed(t.path, fmt.Errorf("no answer within %v, while another path worked", took.Round(time.Millisecond)))
		}
	}
}

// goes runs f beside its caller, unless the endpoint is closed. Close waits for it.
func (e *Endpoint) goes(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.wg.Go(f)
	return true
}
