package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// server is the side that answers. It has one listener per lane.
type server struct{ *worker }

func (s *server) setup(ctx context.Context, c setup) (ready, error) {
	load, err := newWorkload(c.Op, c.Size, false)
	if err != nil {
		return ready{}, err
	}
	var r ready
	for _, id := range c.Lanes {
		t, err := s.transport(id)
		if err != nil {
			return ready{}, err
		}
		l, err := t.Listen(ctx, c.Listen)
		if err != nil {
			return ready{}, fmt.Errorf("%s: listen at %s: %w", id, c.Listen, err)
		}
		if err := s.own(l); err != nil {
			return ready{}, err
		}
		r.Addresses = append(r.Addresses, l.Addr().String())
		for range c.Conns {
			go s.serve(id, l, load)
		}
	}
	return r, nil
}

// serve accepts one connection of a lane and answers on it. An error is only logged: the client sees its connection break, and fails the case.
func (s *server) serve(id laneID, l net.Listener, load workload) {
	c, err := l.Accept()
	if err == nil {
		err = s.own(c)
	}
	if err == nil {
		err = load.serve(c)
	}
	if err != nil && !s.ending() {
		s.log.Error("benchmark server", "lane", id, "err", err)
		if c != nil {
			c.Close()
		}
	}
}

var errClientOnly = errors.New("only a client does that")

func (s *server) run(run) (runResult, error)         { return runResult{}, errClientOnly }
func (s *server) count(allocs) (allocsResult, error) { return allocsResult{}, errClientOnly }
