package endpoint

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/sockemu/sockemu/internal/session"
)

// chatter writes pieces of up to most bytes, with pauses, at both ends until stop, and checks every byte that arrives. It returns when both
// ends have all.
func chatter(a, b *session.Session, most int, pause time.Duration, stop <-chan struct{}) error {
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for d, s := range []*session.Session{a, b} {
		wg.Go(func() {
			buf := make([]byte, most)
			for off := uint64(0); ; time.Sleep(pause) {
				select {
				case <-stop:
					errs <- s.CloseWrite()
					return
				default:
				}
				p := buf[:1+rand.IntN(len(buf))]
				for i := range p {
					p[i] = coded(d, off+uint64(i))
				}
				n, err := s.Write(p)
				if off += uint64(n); err != nil {
					errs <- err
					return
				}
			}
		})
		wg.Go(func() {
			buf := make([]byte, 3*most/2)
			for off := uint64(0); ; {
				n, err := s.Read(buf)
				for i := range n {
					if buf[i] != coded(1-d, off+uint64(i)) {
						errs <- fmt.Errorf("byte %d of direction %d is wrong", off+uint64(i), 1-d)
						a.Abort(net.ErrClosed, "the test has failed") // nobody waits for the rest
						return
					}
				}
				if off += uint64(n); err != nil {
					if err == io.EOF {
						err = nil
					}
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(<-errs, <-errs, <-errs, <-errs)
}
