package rdma

import (
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/internal/look"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/substrate"
)

func (c *Carrier) recvWR(slot uint64) verbs.RecvWR {
	return verbs.RecvWR{ID: slot, SGE: c.at(c.recvMem[slot*uint64(c.slotLen):], c.slotLen)}
}

// Recv waits for segments.
func (c *Carrier) Recv(batch []activemsg.Segment) (n int, err error) {
	if n, err = c.Poll(batch, 0); n > 0 || err != nil {
		return n, err
	}
	began := time.Now()
	defer func() { c.waitRecv.Took(time.Since(began)) }()
	limit := c.waitRecv.Limit()
	for left := limit / look.Burst; left > 0 && time.Since(began) < limit; left-- {
		if n, err = c.Poll(batch, look.Burst); n > 0 || err != nil {
			return n, err
		}
		runtime.Gosched()
	}
	for {
		if err = c.Arm(); err != nil {
			return 0, err
		}
		if n, err = c.Poll(batch, 0); n > 0 || err != nil {
			return n, err
		}
		if err = c.Sleep(); err != nil {
			return 0, err
		}
	}
}

// Poll takes segments that have come, or looks for d if there are none.
func (c *Carrier) Poll(batch []activemsg.Segment, d time.Duration) (n int, err error) {
	if !c.enter() {
		return 0, net.ErrClosed
	}
	defer c.leave()
	wc := c.wc[:min(len(batch), len(c.wc))]
	if d > 0 {
		n, err = c.recvs.Spin(wc, d, c.yield)
	} else {
		n, err = c.recvs.Poll(wc)
	}
	switch {
	case err != nil:
		return 0, c.fail("recv", substrate.PathDown, err)
	case n > 0:
		n = c.received(wc[:n], batch)
	}
	if n == 0 {
		return 0, c.ended()
	}
	return n, nil
}

// Arm makes the next completion end Sleep.
func (c *Carrier) Arm() error {
	if !c.enter() {
		return net.ErrClosed
	}
	defer c.leave()
	if err := c.recvs.Arm(); err != nil {
		return c.fail("recv", substrate.PathDown, err)
	}
	return nil
}

// Sleep waits until the device says that something has come.
func (c *Carrier) Sleep() error {
	if !c.enter() {
		return net.ErrClosed
	}
	defer c.leave()
	if c.ended() != nil {
		return nil // Poll says why, after what has come before
	}
	c.counts.sleeps.Add(1)
	if err := c.recvs.Wait(); err != nil {
		return c.fail("recv", substrate.PathDown, err)
	}
	return nil
}

// received makes segments of completions, up to the first that failed.
func (c *Carrier) received(wc []verbs.Completion, batch []activemsg.Segment) (n int) {
	for i := range wc {
		w := &wc[i]
		switch {
		case w.Status == verbs.StatusFlushed:
			c.flushed(w)
		case w.Status != verbs.StatusOK:
			c.fail("recv", substrate.PathDown, status(verbs.OpRecv, w))
		case w.Op != verbs.OpRecv || w.Len < activemsg.HeaderLen || int(w.Len) > activemsg.HeaderLen+c.limits.Payload:
			c.fail("recv", substrate.Protocol, fmt.Errorf("%s of %d bytes", w.Op, w.Len))
		default:
			slot := c.recvMem[w.ID*uint64(c.slotLen):]
			s := &batch[n]
			s.Head = [activemsg.HeaderLen]byte(slot)
			s.Payload = slot[activemsg.HeaderLen:w.Len:w.Len]
			s.Slot = w.ID
			n++
			continue
		}
		break
	}
	c.mu.Lock()
	c.lent += n
	c.mu.Unlock()
	c.counts.received.Add(uint64(n))
	return n
}

// flushed ends the path because the queue pair has failed. The reason is among the completions of sends, now or in a moment, if it was
// a send of ours that failed.
func (c *Carrier) flushed(w *verbs.Completion) {
	for range 20 {
		c.tx.reaping.Lock()
		n, err := c.sends.Spin(c.tx.wc[:], 50*time.Microsecond, true)
		c.reaped(n, err)
		c.tx.reaping.Unlock()
		if c.err.Load() != nil {
			return
		}
	}
	c.fail("recv", substrate.PathDown, status(verbs.OpRecv, w))
}

// Done gives a slot back.
func (c *Carrier) Done(s *activemsg.Segment) {
	in := c.enter()
	c.mu.Lock()
	c.lent--
	if in {
		c.back[c.nback] = c.recvWR(s.Slot)
		if c.nback++; c.nback == len(c.back) {
			c.postBack()
		}
	} else {
		c.freeSlots()
	}
	c.mu.Unlock()
	if in {
		c.leave()
	}
}

// Forget frees the memory of segments that are not Done. Nobody may look at them any more.
func (c *Carrier) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lent = 0
	c.freeSlots()
}

// postBack posts slots that have come back. mu is held.
func (c *Carrier) postBack() {
	err := c.qp.Post(c.back[:c.nback], nil)
	c.nback = 0
	if err != nil {
		c.fail("recv", substrate.PathDown, err)
	}
}

// Alloc returns n bytes that the peer can be let write into, at most 4 MiB, not zeroed. Sizes are rounded up to powers of two.
func (c *Carrier) Alloc(n int) ([]byte, error) { return c.exposed.alloc(n) }

// Lend returns n bytes of Adapter.Alloc, nil if there are no more.
func (c *Carrier) Lend(n int) []byte {
	b, err := c.adapter.Alloc(n)
	if err != nil {
		return nil
	}
	return b
}

// Return takes back what Lend returned.
func (c *Carrier) Return(b []byte) { c.adapter.Free(b) }

// Free takes back what Alloc returned, also after Close.
func (c *Carrier) Free(b []byte) { c.exposed.release(b) }

// Expose lets the peer write into buf, which lies in memory of Alloc; with ConnConfig.Strict in any registered memory.
func (c *Carrier) Expose(buf []byte) (activemsg.Key, error) {
	if !c.enter() {
		return activemsg.Key{}, net.ErrClosed
	}
	defer c.leave()
	chunk := c.adapter.mem.find(buf)
	if len(buf) == 0 || chunk == nil || chunk.owner != c.exposed && !(c.strict && chunk.owner == c.adapter.local) {
		return activemsg.Key{}, fmt.Errorf("%w: memory that the peer can't be let write into", errUnsupported)
	}
	k := activemsg.Key{Addr: address(buf), RKey: chunk.rkey, Len: uint32(len(buf))}
	if !c.strict {
		return k, nil
	}
	r, err := c.adapter.pd.Register(buf, verbs.LocalWrite|verbs.RemoteWrite)
	if err != nil {
		return activemsg.Key{}, c.failure("expose", substrate.Config, err)
	}
	k.RKey = r.RKey()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.regions == nil {
		c.regions = map[uint32]verbs.Region{}
	}
	c.regions[k.RKey] = r
	return k, nil
}

// Hide takes the permission of a key back, with ConnConfig.Strict. Otherwise it relies on the peer to use a key once.
func (c *Carrier) Hide(k activemsg.Key) {
	c.mu.Lock()
	r := c.regions[k.RKey]
	delete(c.regions, k.RKey)
	c.mu.Unlock()
	if r != nil {
		r.Close()
	}
}
