package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/wire"
)

// elsewhereRetry is the pause after every address of a peer led to another process: a load balancer stands in between, and its
// connections stay in record mode meanwhile.
const elsewhereRetry = 30 * time.Second

// idleChannel is how long a control channel outlives its last connection.
const idleChannel = 5 * time.Second

// steady is how long a control channel on which the peer has proved a connection must live for the next one to be sought at once.
const steady = 50 * time.Millisecond

// errElsewhere: an address led to another process than the one wanted.
var errElsewhere = errors.New("another process answers there")

// A peer is a process to which this one looks after a control channel, because it has dialled connections to it.
type peer struct {
	e    *Endpoint
	proc gid.ProcessID

	mu       sync.Mutex
	addrs    []string // the latest, oldest first
	sessions map[gid.GID]*session.Session
	ch       *channel
	running  bool // the dial loop
	retry    chan struct{}
	without  time.Time     // since when no control channel has been of use; zero: one is, or was until just now
	backoff  time.Duration // before the next one is dialled
	home     string        // by which the policy for it is found
	policy   selector.Policy
	offers   []wire.Offer
	table    *selector.Table
	rtt      time.Duration // of its base path; 0: unknown
	choices  map[gid.GID]*choice
	choosing bool          // the loop runs
	again    chan struct{} // wakes it

	spare              *spare    // of the round that is under way; the loop's
	eagerFrom, eagerAt time.Time // since and until when young connections have had the paths measured more often; the loop's
}

// Bound implements session.Env: a session has a new link, perhaps to another process than before.
func (e *Endpoint) Bound(s *session.Session) {
	proc, addrs := s.Peer()
	e.mu.Lock()
	en := e.sessions[endOf(s)]
	if en == nil || en.home == "" && !(en.imported && en.reach) || e.closed {
		e.mu.Unlock()
		return
	}
	if proc == e.proc && !s.Initiator() {
		// The other end is here, too, and looks after the channel: records don't say for which end of a connection they are, so that each end
		// must have one end of the channel to itself.
		old := en.peer
		en.peer = nil
		e.mu.Unlock()
		if old != nil {
			old.leave(s)
		}
		return
	}
	p := e.peers[proc]
	if p == nil {
		name := en.home
		if name == "" {
			name = proc.String()
		}
		p = &peer{
			e: e, proc: proc, home: en.home, policy: e.policy(en.home), sessions: make(map[gid.GID]*session.Session), retry: make(chan struct{}, 1),
			table: selector.NewTable(name, e.choiceConfig()), choices: make(map[gid.GID]*choice), again: make(chan struct{}, 1),
		}
		e.peers[proc] = p
	}
	old := en.peer
	en.peer = p
	home := en.home
	// The end that dialled decides; and that only if there is something to choose from.
	if en.choice == nil && s.Initiator() && e.chooses(home) {
		en.choice = &choice{s: s, own: e.policy(home), changed: make(chan struct{})}
	}
	c := en.choice
	if en.ended {
		c = nil // this link only answers the peer
	}
	// Here, not in join: tidy would forget a peer that it finds empty before that, and what remove and Ended take out must not come
	// back.
	p.mu.Lock()
	p.sessions[s.GID()] = s
	p.rtt = max(p.rtt, en.rtt) // until it is measured again
	if c != nil {
		p.choices[s.GID()] = c
	}
	p.mu.Unlock()
	e.mu.Unlock()
	if old != nil && old != p {
		old.leave(s)
	}
	p.join(s, candidates(home, addrs), c)
}

// join looks after the control channel of s, which is one of p's sessions, and after its path, if it has a choice.
func (p *peer) join(s *session.Session, addrs []string, c *choice) {
	offers, _ := s.PeerOffers()
	p.mu.Lock()
	for _, a := range addrs {
		if slices.Contains(p.addrs, a) {
			continue
		}
		if len(p.addrs) == 2*wire.MaxAddrs {
			p.addrs = slices.Delete(p.addrs, 0, 1)
		}
		p.addrs = append(p.addrs, a)
	}
	if name, _, _ := s.Link(); name == p.e.cfg.Substrate.Name() {
		p.offers = offers // over a path without network addresses the peer can't say which of its own we can reach
	}
	ch := p.ch
	p.mu.Unlock()
	if c != nil {
		c.bind(p)
		p.choose()
	}
	switch {
	case p.e.cfg.Session.Seal: // records travel in the sealed link
	case ch == nil:
		p.run()
		select {
		case p.retry <- struct{}{}:
		default:
		}
	case ch.refused(s) || !s.Attached():
		ch.attach(s)
	}
}

func candidates(home string, more []string) []string {
	var list []string
	if home != "" {
		list = append(list, home)
	}
	for _, a := range more {
		if a != home {
			list = append(list, a)
		}
	}
	return list
}

// choiceConfig is the configuration of a peer's table.
func (e *Endpoint) choiceConfig() selector.Config {
	c := e.cfg.Choice
	c.Base = e.cfg.Substrate.Name()
	return c
}

// leave forgets s; the last one to leave closes the channel after a while.
func (p *peer) leave(s *session.Session) {
	p.mu.Lock()
	if p.sessions[s.GID()] == s { // not the other end, if that is here as well
		delete(p.sessions, s.GID())
		delete(p.choices, s.GID())
	}
	empty := len(p.sessions) == 0
	p.mu.Unlock()
	if empty {
		p.wake() // the loop has nothing left to do
		p.tidyLater()
	}
}

// decided forgets the choice of a connection that has ended, but not the connection, which may still answer its peer.
func (p *peer) decided(s *session.Session) {
	p.mu.Lock()
	if p.sessions[s.GID()] == s {
		delete(p.choices, s.GID())
	}
	last := len(p.choices) == 0
	p.mu.Unlock()
	if last {
		p.wake()
	}
}

// tidyLater has p forgotten if nobody needs it by then.
func (p *peer) tidyLater() {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	if !p.e.closed {
		time.AfterFunc(idleChannel, p.tidy)
	}
}

func (p *peer) tidy() {
	p.e.mu.Lock()
	p.mu.Lock()
	ch := p.ch
	empty := len(p.sessions) == 0
	if empty && !p.running && !p.choosing {
		delete(p.e.peers, p.proc)
	}
	p.mu.Unlock()
	p.e.mu.Unlock()
	if empty && ch != nil {
		ch.close(errChannelClosed)
	}
}

// run starts the loop that gets a control channel, unless it runs.
func (p *peer) run() {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running || p.ch != nil || p.e.closed {
		return
	}
	p.running = true
	p.e.wg.Go(p.loop)
}

func (p *peer) loop() {
	cfg := &p.e.cfg.Session
	p.mu.Lock()
	if p.without.IsZero() {
		p.without = time.Now()
	}
	since, backoff := p.without, p.backoff
	p.mu.Unlock()
	// Not only after an attempt has failed: each of many silent addresses takes its time.
	dead := time.AfterFunc(time.Until(since.Add(cfg.DeadAfter)), func() { p.giveUpBare(errors.New("the peer is silent")) })
	defer dead.Stop()
	for pause := session.Jitter(backoff); ; {
		if pause > 0 {
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-p.retry:
			case <-p.e.ctx.Done():
			}
			t.Stop()
		}
		p.mu.Lock()
		if len(p.sessions) == 0 || p.e.ctx.Err() != nil {
			p.running = false
			p.mu.Unlock()
			p.tidyLater()
			return
		}
		var paths []selector.Path
		for _, a := range p.addrs {
			paths = append(paths, p.e.basePath(a))
		}
		for _, o := range p.offers { // better a channel over any of them than none
			if p.e.subs[o.Substrate] != nil && p.policy.Allows(o.Substrate) {
				paths = append(paths, selector.Path{Substrate: o.Substrate, Addr: o.Addr})
			}
		}
		p.mu.Unlock()

		c, err := p.dial(paths)
		if err == nil {
			if err = p.up(c); err == nil {
				return
			}
		}
		backoff = cfg.MoreBackoff(backoff)
		pause = session.Jitter(backoff)
		if errors.Is(err, errElsewhere) {
			pause = elsewhereRetry
		}
		if errors.Is(err, errElsewhere) || time.Since(since) >= cfg.DeadAfter {
			p.giveUpBare(err)
		}
		p.e.log.Debug("no control channel yet", "peer", p.proc, "err", err)
	}
}

func (p *peer) giveUpBare(why error) {
	for _, s := range p.list() {
		s.GiveUpBare(fmt.Errorf("no control channel: %w", why))
	}
}

func (p *peer) list() []*session.Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*session.Session, 0, len(p.sessions))
	for _, s := range p.sessions {
		list = append(list, s)
	}
	return list
}

// dial opens a channel over one of the paths. It returns errElsewhere only if each of them led to another process.
func (p *peer) dial(paths []selector.Path) (*channel, error) {
	failed := errors.New("no address of the peer is known")
	first := true
	r := race[*channel]{
		e: p.e, paths: paths,
		patience: func(selector.Path) time.Duration { return patience(0) },
		try: func(ctx context.Context, path selector.Path, claim func() error) (*channel, error) {
			link, _, a, err := p.e.openTo(ctx, p.proc, path, request{
				kind: wire.KindControl, psk: p.e.psk, key: len(p.e.cfg.ClusterKey) > 0, claim: func(wire.Setup) error { return claim() },
			})
			if err != nil {
				return nil, err
			}
			return newChannel(p.e, link, p.proc, a.binding, true), nil
		},
		failed: func(_ selector.Path, err error) bool {
			if first || !errors.Is(err, errElsewhere) {
				failed, first = err, false
			}
			return false
		},
	}
	if c, ok := r.run(p.e.ctx); ok {
		return c, nil
	}
	return nil, failed
}

// up puts a fresh channel to use, or closes it.
func (p *peer) up(c *channel) error {
	if !p.e.register(c, p) {
		c.link.Close()
		return fmt.Errorf("the endpoint is closed, or has %d control channels already", maxChannels)
	}
	p.e.log.Info("control channel up", "peer", p.proc, "addr", c.link.RemoteAddr())
	for _, s := range p.list() {
		c.attach(s)
		s.RetryNow()
	}
	return nil
}

// register adds a channel to the endpoint's and starts it. If this end has dialled it, it is p's from before it starts: it may be
// down again at once, and channelDown must find it there. It reports false if the endpoint is closed.
func (e *Endpoint) register(c *channel, p *peer) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(e.channels) >= maxChannels {
		return false
	}
	e.channels[c] = struct{}{}
	if p != nil {
		p.mu.Lock()
		p.ch, p.running = c, false
		p.mu.Unlock()
	}
	c.start()
	return true
}

// channelDown is called once for every registered channel.
func (e *Endpoint) channelDown(c *channel) {
	e.mu.Lock()
	delete(e.channels, c)
	p := e.peers[c.proc]
	e.mu.Unlock()
	if p == nil || !c.dialed {
		return
	}
	useful := c.useful()
	p.mu.Lock()
	mine := p.ch == c
	switch {
	case !mine:
	case useful:
		p.ch, p.without, p.backoff = nil, time.Time{}, 0
	default:
		// The peer may have too many of them, or another opinion of how to use one: it must not be dialled as fast as it hangs up.
		p.ch, p.backoff = nil, e.cfg.Session.MoreBackoff(p.backoff)
	}
	again := mine && len(p.sessions) > 0
	p.mu.Unlock()
	if again {
		p.run()
	}
}
