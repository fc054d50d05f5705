package endpoint

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/sockemu/sockemu/internal/samehost"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/wire"
)

// token ties a page to the channel over which its places are given out.
func (c *channel) token() [samehost.TokenSize]byte {
	return sha256.Sum256(append([]byte("sockemu page"), c.binding...))
}

// share tries to set up a page of shared memory with the peer's process, if that runs on this host: acknowledgements then
// cost neither a system call nor a wake-up. Only the side that dialled the channel tries.
func (c *channel) share() {
	var p *samehost.Page
	var err error
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		p, err = samehost.Offer(c.e.ctx, c.proc, c.token())
		if !errors.Is(err, samehost.ErrToken) || pause > time.Second {
			break // ErrToken: the offer has overtaken the end of the channel's handshake
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-c.done:
			t.Stop()
			return
		}
	}
	if err != nil {
		c.e.log.Debug("no shared page with the peer", "peer", c.proc, "err", err)
		return
	}
	c.page.Store(p)
	c.e.log.Info("sharing a page with the peer", "peer", c.proc)
	c.mu.Lock()
	list := make([]*session.Session, 0, len(c.attached))
	for _, s := range c.attached {
		list = append(list, s)
	}
	c.mu.Unlock()
	for _, s := range list {
		c.giveSlot(s)
	}
}

// takePage is called when another process of this host brings a page.
func (e *Endpoint) takePage(token [samehost.TokenSize]byte, p *samehost.Page) bool {
	for _, c := range e.openChannels() {
		if !c.dialed && c.token() == token {
			c.page.Store(p)
			return true
		}
	}
	return false
}

// giveSlot gives an attached connection a place on the page, if there is a page and a place.
func (c *channel) giveSlot(s *session.Session) {
	p := c.page.Load()
	if p == nil || !c.dialed {
		return
	}
	c.mu.Lock()
	if _, ok := c.slots[s.GID()]; ok || c.err != nil {
		c.mu.Unlock()
		return
	}
	i := c.nextSlot
	if n := len(c.freeSlots); n > 0 {
		i, c.freeSlots = c.freeSlots[n-1], c.freeSlots[:n-1]
	} else {
		c.nextSlot++
	}
	if i >= samehost.Slots {
		c.nextSlot = samehost.Slots
		c.mu.Unlock()
		return
	}
	c.slotGen = max(c.slotGen+1, 1)
	gen := c.slotGen
	c.slots[s.GID()] = i
	c.mu.Unlock()
	c.Post(&wire.Record{Type: wire.TypeSlot, GID: s.GID(), Slot: uint32(i), Gen: gen})
	s.Share(c, p.Slot(i, gen, true))
}

func (c *channel) onSlot(r *wire.Record) {
	p := c.page.Load()
	c.mu.Lock()
	s := c.attached[r.GID]
	c.mu.Unlock()
	if p == nil || s == nil || c.dialed {
		return
	}
	if sl := p.Slot(int(r.Slot), r.Gen, false); sl != nil {
		s.Share(c, sl)
	}
}
