package fault

import (
	"math/rand/v2"
	"sync"
)

// A conn is what two Links are the ends of.
type conn struct {
	net *Network

	mu    sync.Mutex // guards everything below, and both pipes and ends
	pipes [2]pipe    // by direction: 0 is from the dialer
	ends  [2]Link    // 0 is the dialer's
	rng   *rand.Rand
	err   error // set when the conn was reset
	over  bool  // reset, or closed at both ends: nothing can happen to it any more
}

// newConn makes a conn and counts it among the network's; link seeds its chance.
func (n *Network) newConn(from, to, dialled Addr, link uint64) (*conn, error) {
	c := &conn{net: n, rng: n.rng(link, 1)}
	c.pipes[0].init(c, 0, hosts{from.Host, to.Host}, link)
	c.pipes[1].init(c, 1, hosts{to.Host, from.Host}, link)
	c.ends[0] = Link{conn: c, side: 0, local: from, remote: dialled}
	c.ends[1] = Link{conn: c, side: 1, local: to, remote: from}
	if err := n.add(c); err != nil {
		return nil, err
	}
	n.stats.links.Add(1)
	// Only now: a rule that changes in between finds the conn in the network's set.
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applyRules()
	return c, nil
}

func (c *conn) applyRules() {
	for i := range c.pipes {
		if p := &c.pipes[i]; !c.over {
			p.apply(c.net.ruleFor(i, p.hosts))
		}
	}
}

// cut resets the conn and lets chance decide what of the bytes under way is lost.
func (c *conn) cut() {
	if c.over {
		return
	}
	for i := range c.pipes {
		c.pipes[i].cut()
	}
	c.reset()
}

// reset breaks the conn for both ends. What has arrived can still be read.
func (c *conn) reset() {
	if c.over {
		return
	}
	c.err = ErrReset
	c.net.stats.cuts.Add(1)
	c.retire()
}

// retire ends everything that happens to the conn by itself, and wakes everybody.
func (c *conn) retire() {
	c.over = true
	for i := range c.pipes {
		p := &c.pipes[i]
		if p.timer != nil {
			p.timer.Stop()
		}
		p.marks = nil
		p.sendable.Broadcast()
		p.readable.Broadcast()
	}
	c.net.remove(c)
}
