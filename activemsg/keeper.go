package activemsg

import (
	"errors"
	"sync"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// owed is what the keeper is to do: the goroutine that receives must never wait for the one that transmits, or two full paths in
// opposite directions would wait for each other.
type owed struct {
	sync.Mutex
	kick chan struct{}

	ping    bool      // say something, for the peer to answer
	pinging bool      // and wait for the pong
	number  uint64    // of the last ping
	pinged  time.Time // when
	pong    bool      // answer pongArg
	pongArg uint64    //
	credit  bool      // call OnCredit
}

// nudge makes the keeper look.
func (o *owed) nudge() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

func (o *owed) tellCredit() {
	o.Lock()
	o.credit = true
	o.Unlock()
	o.nudge()
}

// keep does what is owed until the endpoint ends.
func (e *Endpoint) keep() {
	for {
		select {
		case <-e.done:
			return
		case <-e.owed.kick:
		}
		e.lock() // first: it may take a while, and more may be owed then
		e.flush()
		e.owed.Lock()
		ping := e.owed.ping && !e.owed.pinging
		if ping {
			e.owed.number++
			e.owed.pinging, e.owed.pinged = true, time.Now()
		}
		number := e.owed.number
		pong, arg := e.owed.pong, e.owed.pongArg
		credit := e.owed.credit
		e.owed.ping, e.owed.pong, e.owed.credit = false, false, false
		e.owed.Unlock()

		if e.in.due() { // looked at under tx, as it must not be told twice: see ControlSlots
			e.send(header{id: controlGrant, flags: flagControl}, body{})
		}
		if pong {
			e.send(header{id: controlPong, flags: flagControl, arg: arg}, body{})
		}
		if ping {
			e.send(header{id: controlPing, flags: flagControl, arg: number}, body{})
		}
		e.unlock(corkRounds)
		e.answerPosts()
		if credit && e.cfg.OnCredit != nil {
			e.cfg.OnCredit()
		}
	}
}

var (
	errSilent = errors.New("nothing was heard from the peer")
	errDeaf   = errors.New("the peer takes nothing")
)

// beats is into how many parts Death is divided: silence is noticed between beats-1 and beats of them.
const beats = 5

// beat looks whether the peer lives: silence is first answered with a question, then with the end. It is a timer's own goroutine, as
// the keeper may be waiting for the carrier. It counts beats, not time, so that a pause of this process isn't taken for one of the peer.
func (e *Endpoint) beat() {
	if heard := e.heard.Load(); heard != e.last || heard%2 == 1 {
		e.last, e.silent = heard, 0
	} else {
		e.silent++
	}
	if sends := e.sends.Load(); sends != e.lastSends || sends%2 == 0 {
		e.lastSends, e.held = sends, 0
	} else {
		e.held++
	}
	switch {
	case e.silent == beats-1:
		e.failWith(substrate.PathDown, errSilent)
		return
	case e.held == beats-1:
		e.failWith(substrate.PathDown, errDeaf)
		return
	}
	e.owed.Lock()
	defer e.owed.Unlock()
	if e.silent > 0 {
		e.owed.ping = true
		e.owed.nudge()
	}
	select {
	case <-e.done:
	default:
		e.watch.Reset(e.cfg.Death / beats)
	}
}
