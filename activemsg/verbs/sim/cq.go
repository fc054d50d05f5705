package sim

import (
	"errors"
	"runtime"
	"time"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

type cq struct {
	device  *device
	ring    []entry
	head, n int
	armed   bool
	overrun bool
	shut    bool
	event   chan struct{}
}

// An entry is a completion and what its poll frees.
type entry struct {
	c    verbs.Completion
	qp   *qp
	send bool
	upto uint64
}

func (d *device) NewCQ(depth int) (verbs.CQ, error) {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	if err := d.check("make a completion queue"); err != nil {
		return nil, err
	}
	if depth < 1 || depth > 4*d.net.cfg.Depth {
		return nil, bad("make a completion queue", verbs.ErrLimit)
	}
	return &cq{device: d, ring: make([]entry, depth), event: make(chan struct{}, 1)}, nil
}

// push adds a completion. mu is held.
func (c *cq) push(e entry) {
	switch {
	case c.shut:
		return
	case c.n == len(c.ring):
		c.overrun = true
		c.device.net.stats.Overruns++
	default:
		c.ring[(c.head+c.n)%len(c.ring)] = e
		c.n++
	}
	if c.armed {
		c.armed = false
		c.Wake()
	}
}

var errOverrun = errors.New("completion queue overrun")

func (c *cq) Poll(into []verbs.Completion) (n int, err error) {
	c.device.net.mu.Lock()
	defer c.device.net.mu.Unlock()
	if c.overrun {
		return 0, bad("poll", errOverrun)
	}
	for n < min(len(into), verbs.MaxPost) && c.n > 0 {
		e := &c.ring[c.head]
		into[n] = e.c
		if e.send {
			e.qp.sqFreed = e.upto
		} else {
			e.qp.rqFreed = e.upto
		}
		*e = entry{}
		c.head = (c.head + 1) % len(c.ring)
		c.n--
		n++
	}
	return n, nil
}

func (c *cq) Spin(into []verbs.Completion, _ time.Duration, yield bool) (int, error) {
	n, err := c.Poll(into)
	if n > 0 || err != nil || !yield {
		return n, err
	}
	runtime.Gosched()
	return c.Poll(into)
}

func (c *cq) Arm() error {
	c.device.net.mu.Lock()
	defer c.device.net.mu.Unlock()
	c.armed = true
	return nil
}

func (c *cq) Wait() error {
	<-c.event
	return nil
}

func (c *cq) Wake() {
	select {
	case c.event <- struct{}{}:
	default:
	}
}

func (c *cq) Close() error {
	c.device.net.mu.Lock()
	defer c.device.net.mu.Unlock()
	c.shut = true
	return nil
}
