package activemsg

import (
	"errors"
	"fmt"
	"testing/synctest"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// settle waits until all that was sent is handled.
func (tr *traffic) settle(a, b *station) {
	for range 100_000 {
		synctest.Wait()
		if a.quiet() && b.quiet() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	a.problem("it doesn't come to rest: %v / %v", a.brief(), b.brief())
}

func (s *station) brief() string {
	s.ep.rx.Lock()
	defer s.ep.rx.Unlock()
	return fmt.Sprintf("held %d, due %v, buffered %d, running %d", s.ep.in.held(), s.ep.in.due(), s.ep.arrives.buffered, s.ep.arrives.running)
}

func (s *station) quiet() bool {
	s.ep.rx.Lock()
	held, arrived := s.ep.in.held(), s.ep.in.arrived.Load()
	s.ep.rx.Unlock()
	s.other.ep.cork.mu.Lock()
	corked := len(s.other.ep.cork.now.heads)
	s.other.ep.cork.mu.Unlock()
	s.ep.arrives.mu.Lock()
	busy := s.ep.arrives.running
	s.ep.arrives.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	atRest := corked == 0 && s.other.ep.out.sent.Load() == arrived && held == 0 && busy == 0
	return atRest && len(s.posts) == len(s.answered) && len(s.ep.opens.numbers) == maxOpen-1
}

// check looks at what two endpoints that are at rest have done.
func (tr *traffic) check(a, b *station) {
	for _, s := range []*station{a, b} {
		s.mu.Lock()
		for id, n := range s.sentTo {
			if got := s.other.quick[id]; got != n {
				s.problems = append(s.problems, fmt.Errorf("%d of %d messages of sender %d were handled", got, n, id))
			}
		}
		for number, good := range s.sent {
			if n := s.other.streams[number]; n > 1 || good && n != 1 {
				s.problems = append(s.problems, fmt.Errorf("message %d was handled %d times", number, n))
			}
		}
		for id, n := range s.answered {
			if n != 1 {
				s.problems = append(s.problems, fmt.Errorf("post %d was answered %d times", id, n))
			}
			for _, c := range s.posts[id] {
				if c != 0 {
					s.problems = append(s.problems, fmt.Errorf("buffer %d was changed after its answer", id))
					break
				}
			}
		}
		if s.ep.arrives.buffered != 0 {
			s.problems = append(s.problems, fmt.Errorf("%d bytes of buffer are lost", s.ep.arrives.buffered))
		}
		if err := s.ep.Err(); err != nil {
			s.problems = append(s.problems, fmt.Errorf("the endpoint ended: %w", err))
		}
		s.mu.Unlock()
	}
}

// checkBroken looks at endpoints whose path has broken, or may have.
func (tr *traffic) checkBroken(a, b *station) {
	time.Sleep(time.Second)
	synctest.Wait()
	for _, s := range []*station{a, b} {
		s.mu.Lock()
		if late := s.ended.Sub(tr.faults.at); s.ended.IsZero() || late > time.Second {
			s.problems = append(s.problems, fmt.Errorf("the end came %v after the break", late))
		}
		for number := range s.sent {
			if n := s.other.streams[number]; n > 1 {
				s.problems = append(s.problems, fmt.Errorf("message %d was handled %d times", number, n))
			}
		}
		s.mu.Unlock()
		if err := s.ep.Err(); err != nil && !errors.Is(err, substrate.ErrPathDown) && !errors.Is(err, substrate.ErrPeerGone) {
			s.problem("the endpoint ended with %w", err)
		}
	}
}
