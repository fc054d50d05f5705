package endpoint

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/samehost"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// maxQueue bounds the records waiting to be sent, in bytes. A peer that doesn't take them is not alive. maxStranger bounds them for one that
// has dialled this channel and not proved a connection on it: anybody may do that. It also bounds them for each that was accepted while
// maxQueued wait on all channels together: who has proved one connection can have many channels.
const (
	maxQueue    = 8 << 20
	maxStranger = 64 << 10
	maxQueued   = 256 << 20
)

// emptyChannel is how long a channel that was accepted may be without a connection; maxChannels bounds them all.
const (
	emptyChannel = time.Minute
	maxChannels  = 16384
)

// attachRetry is the pause before a refused offer is repeated.
const (
	attachRetry = 50 * time.Millisecond
	maxRefusals = 20
)

// A channel is the control channel to one process, over one link. It is shared by all connections between the two
// processes that have proved to both sides that they belong there (Attach). Records carry absolute state, so a channel needs no
// replay: when it is lost, the next one begins with the present state of every connection.
type channel struct {
	e       *Endpoint
	link    substrate.Link
	proc    gid.ProcessID
	binding []byte // of the handshake: ties every proof to this channel
	dialed  bool   // by us
	began   time.Time
	heard   atomic.Int64 // when something last arrived, since began

	page atomic.Pointer[samehost.Page] // nil: not on one host, or not yet

	mu        sync.Mutex
	slots     map[gid.GID]int // places given out on page, by the side that dialled
	freeSlots []int
	slotGen   uint16
	nextSlot  int
	queue     []byte
	waiting   int // bytes in queue and on their way out, as counted in Endpoint.queued
	spare     []byte
	late      []*session.Session // they have something to say within the acknowledgement delay
	lateOn    bool
	lateOld   []*session.Session // reused
	lateT     *time.Timer
	attached  map[gid.GID]*session.Session // the peer has proved that it belongs here
	offered   map[gid.GID]*session.Session // we have
	refusals  map[gid.GID]int
	proved    bool // the peer has, a connection
	doubt     doubt
	err       error     // closed
	vec       [1][]byte // the write loop's
	sending   bool
	sent      chan struct{} // the write loop has sent something
	wake      chan struct{}
	done      chan struct{}
}

var _ session.Channel = (*channel)(nil)

func newChannel(e *Endpoint, link substrate.Link, proc gid.ProcessID, binding []byte, dialed bool) *channel {
	c := &channel{
		e: e, link: link, proc: proc, binding: binding, dialed: dialed, began: time.Now(),
		slots: make(map[gid.GID]int), attached: make(map[gid.GID]*session.Session), offered: make(map[gid.GID]*session.Session), refusals: make(map[gid.GID]int), wake: make(chan struct{}, 1), sent: make(chan struct{}, 1), done: make(chan struct{}),
	}
	return c
}

// start runs the channel's three goroutines. They end with it.
func (c *channel) start() {
	c.e.wg.Go(c.readLoop)
	c.e.wg.Go(c.writeLoop)
	c.e.wg.Go(c.keepalive)
	if c.dialed && c.e.host != nil {
		c.e.wg.Go(c.share)
	}
}

// Proc returns the process at the other end.
func (c *channel) Proc() gid.ProcessID { return c.proc }

// Post queues r. It never blocks.
func (c *channel) Post(r *wire.Record) {
	c.mu.Lock()
	most := maxQueue
	if !c.dialed && (len(c.attached) == 0 || c.e.queued.Load() >= c.e.queueMost.Load()) {
		most = maxStranger
	}
	if c.err == nil && len(c.queue) < most {
		if r.Type == wire.TypePing || r.Type == wire.TypeState && r.Flags&wire.StateReply != 0 {
			c.ask()
		}
		was := len(c.queue)
		c.queue = r.Append(c.queue)
		c.count(len(c.queue) - was)
	}
	over := c.err == nil && len(c.queue) >= most
	c.mu.Unlock()
	if over {
		go c.close(fmt.Errorf("%d bytes of records are waiting: the peer takes none", most))
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// count notes that n more bytes are waiting. Under mu.
func (c *channel) count(n int) {
	c.waiting += n
	c.e.queued.Add(int64(n))
}

// PostLater has s flushed within the acknowledgement delay, with all others that asked: one wake-up and one segment for many
// connections.
func (c *channel) PostLater(s *session.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.late = append(c.late, s)
	if !c.lateOn {
		c.lateOn = true
		if c.lateT == nil {
			c.lateT = time.AfterFunc(c.e.cfg.Session.AckDelay, c.flushLate)
		} else {
			c.lateT.Reset(c.e.cfg.Session.AckDelay)
		}
	}
}

func (c *channel) flushLate() {
	c.mu.Lock()
	late := c.late
	c.late, c.lateOld, c.lateOn = c.lateOld[:0], nil, false
	c.mu.Unlock()
	for _, s := range late {
		s.Flush()
	}
	clear(late)
	c.mu.Lock()
	c.lateOld = late
	c.mu.Unlock()
}

func (c *channel) writeLoop() {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		for {
			c.mu.Lock()
			out := c.queue
			c.sending = len(out) > 0
			c.queue, c.spare = c.spare[:0], nil
			c.mu.Unlock()
			if len(out) == 0 {
				c.mu.Lock()
				c.spare = out
				c.mu.Unlock()
				break
			}
			c.vec[0] = out // no allocation per acknowledgement
			_, err := c.link.Send(substrate.Unkept, c.vec[:])
			c.mu.Lock()
			if c.err == nil {
				c.count(-len(out))
			}
			c.sending = false
			select {
			case c.sent <- struct{}{}:
			default:
			}
			if cap(out) <= 64<<10 {
				c.spare = out
			}
			c.mu.Unlock()
			if err != nil {
				c.close(err)
				return
			}
		}
	}
}

func (c *channel) readLoop() {
	buf := make([]byte, 0, 4<<10)
	var r wire.Record
	for {
		n, err := c.link.Recv(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			c.heard.Store(int64(time.Since(c.began)))
		}
		rest := buf
		for {
			k, perr := wire.ParseRecord(rest, &r)
			if perr != nil {
				c.close(perr)
				return
			}
			if k == 0 {
				break
			}
			rest = rest[k:]
			c.dispatch(&r)
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
		if err != nil {
			c.close(err)
			return
		}
	}
}

func (c *channel) dispatch(r *wire.Record) {
	switch r.Type {
	case wire.TypePing:
		c.Post(&wire.Record{Type: wire.TypePong, Token: r.Token})
	case wire.TypeAttach:
		c.onAttach(r)
	case wire.TypeNak:
		c.e.log.Debug("attach refused", "gid", r.GID, "peer", c.proc, "why", r.Code)
		c.mu.Lock()
		s := c.offered[r.GID]
		c.mu.Unlock()
		if s != nil {
			c.offerAgain(s)
		}
	case wire.TypeSlot:
		c.onSlot(r)
	case wire.TypeState, wire.TypeReset:
		c.mu.Lock()
		s := c.attached[r.GID]
		c.mu.Unlock()
		if s != nil {
			s.OnChannelRecord(c, r)
			c.doubtOther(s, r)
		} else if r.Type == wire.TypeState {
			// The peer believes that it has proved its end here: to a session that has left and come back, perhaps.
			c.Post(&wire.Record{Type: wire.TypeNak, GID: r.GID, Code: wire.StatusUnknown})
		}
	}
}

// proof shows that its sender holds the connection's secret, on this very channel and in this role.
func (c *channel) proof(s *session.Session, initiator bool) (mac [wire.MACSize]byte) {
	secret := s.Secret()
	h := hmac.New(sha256.New, secret[:])
	role := "attach acceptor"
	if initiator {
		role = "attach initiator"
	}
	h.Write([]byte(role))
	h.Write(c.binding)
	copy(mac[:], h.Sum(nil))
	return mac
}

// attach offers s to the peer.
func (c *channel) attach(s *session.Session) {
	c.mu.Lock()
	c.offered[s.GID()] = s
	c.mu.Unlock()
	flags := uint8(0)
	if !s.Initiator() {
		flags = wire.AttachAcceptor
	}
	c.Post(&wire.Record{Type: wire.TypeAttach, Flags: flags, GID: s.GID(), MAC: c.proof(s, s.Initiator())})
}

// offerAgain repeats a refused offer in a moment: the offer may have overtaken the data link that brings the connection (or its new
// holder) to the peer; or the peer's end, which had accepted it, has been exported and has come back to its process since.
//
// After maxRefusals the peer's process doesn't have it: its present link, if bare and without a channel, is given up for one that shows
// where it is.
func (c *channel) offerAgain(s *session.Session) {
	id := s.GID()
	c.mu.Lock()
	n := c.refusals[id] + 1
	if c.err == nil {
		c.refusals[id] = n
	}
	c.mu.Unlock()
	if p, _ := s.Peer(); p != c.proc || s.Over() {
		return
	}
	if n >= maxRefusals {
		s.GiveUpBare(errors.New("the peer's process does not know the connection"))
		return
	}
	time.AfterFunc(attachRetry, func() {
		if p, _ := s.Peer(); p == c.proc && !s.Over() {
			c.attach(s)
		}
	})
}

// refused reports whether the offer of s has been refused since it was last accepted, and begins to count anew.
func (c *channel) refused(s *session.Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.refusals[s.GID()]
	delete(c.refusals, s.GID())
	return ok
}

func (c *channel) onAttach(r *wire.Record) {
	s := c.e.lookup(r.GID, r.Flags&wire.AttachAcceptor != 0)
	if s == nil {
		c.Post(&wire.Record{Type: wire.TypeNak, GID: r.GID, Code: wire.StatusUnknown})
		return
	}
	want := c.proof(s, !s.Initiator())
	if !hmac.Equal(want[:], r.MAC[:]) {
		c.e.count.badProofs.Add(1)
		c.e.log.Warn("attach with a wrong proof", "gid", r.GID, "peer", c.proc)
		c.Post(&wire.Record{Type: wire.TypeNak, GID: r.GID, Code: wire.StatusKey})
		return
	}
	if p, _ := s.Peer(); p != c.proc {
		// The holder of the other end has changed, or this channel outran the resume link that says so.
		c.Post(&wire.Record{Type: wire.TypeNak, GID: r.GID, Code: wire.StatusStale})
		return
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.attached[r.GID] = s
	c.proved = true
	delete(c.refusals, r.GID)
	_, offered := c.offered[r.GID]
	c.mu.Unlock()
	if !offered {
		c.attach(s)
	}
	if o := c.e.initiators(s); o == nil || c.dialed == s.Initiator() {
		s.Attach(c)
		if o := c.e.initiators(s); o != nil && c.dialed != s.Initiator() {
			s.Attach(o) // it has come meanwhile
		}
	}
	c.giveSlot(s)
	c.mu.Lock()
	closed := c.err != nil
	c.mu.Unlock()
	if closed {
		s.Detach(c)
	}
}

// useful reports whether the peer has made use of the channel, and not just to hang up.
func (c *channel) useful() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proved && time.Since(c.began) >= steady
}

func (c *channel) forget(s *session.Session) {
	id := s.GID()
	c.mu.Lock()
	if c.attached[id] != s && c.offered[id] != s {
		c.mu.Unlock()
		return
	}
	delete(c.attached, id)
	if i, ok := c.slots[id]; ok {
		delete(c.slots, id)
		c.freeSlots = append(c.freeSlots, i)
	}
	delete(c.offered, id)
	delete(c.refusals, id)
	c.mu.Unlock()
}

// flush waits until what was posted has left, or ctx ends.
func (c *channel) flush(ctx context.Context) {
	for {
		c.mu.Lock()
		idle := c.err != nil || len(c.queue) == 0 && !c.sending
		sent := c.sent
		c.mu.Unlock()
		if idle {
			return
		}
		select {
		case <-sent:
		case <-c.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// keepalive asks for a sign of life when none came by itself.
func (c *channel) keepalive() {
	every, dead := c.e.cfg.KeepAlive, c.e.cfg.KeepAliveDead
	t := time.NewTicker(every)
	defer t.Stop()
	empty := time.Now()
	for n := uint64(0); ; n++ {
		select {
		case <-t.C:
		case <-c.done:
			return
		}
		if !c.dialed {
			// Whoever dials a channel proves a connection on it soon; a stranger's isn't kept.
			c.mu.Lock()
			if len(c.attached) > 0 {
				empty = time.Now()
			}
			c.mu.Unlock()
			if time.Since(empty) >= emptyChannel {
				c.close(errors.New("no connection belongs to it"))
				return
			}
		}
		silent := time.Since(c.began) - time.Duration(c.heard.Load())
		if silent >= dead {
			c.close(fmt.Errorf("nothing heard for %v", silent.Round(time.Millisecond)))
			return
		}
		if silent >= every/2 {
			c.Post(&wire.Record{Type: wire.TypePing, Token: n})
		}
	}
}

var errChannelClosed = errors.New("control channel closed")

// close ends the channel; its connections go on without until the next one.
func (c *channel) close(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	list := c.attached
	c.attached = nil
	c.late, c.queue = nil, nil
	c.count(-c.waiting)
	c.mu.Unlock()
	for _, t := range []*time.Timer{c.lateT, c.doubt.t} {
		if t != nil {
			t.Stop()
		}
	}
	close(c.done)
	c.link.Interrupt()
	c.link.Close()
	for _, s := range list {
		s.Detach(c)
		c.e.reattach(s)
	}
	c.e.log.Info("control channel lost", "peer", c.proc, "err", err)
	c.e.channelDown(c)
}

func (e *Endpoint) openChannels() []*channel {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*channel, 0, len(e.channels))
	for c := range e.channels {
		list = append(list, c)
	}
	return list
}
