package activemsg

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// Config tunes an Endpoint. The zero value is good.
type Config struct {
	// Manual: messages are handled inside Extract only. Otherwise they are handled as they arrive.
	Manual bool
	// Death is the silence after which the peer counts as dead. 0 is 800 ms. A fifth of it without a word from the peer
	// starts a heartbeat.
	Death time.Duration
	// Buffer bounds the bytes of unread messages that are moved out of their slots to let others through. 0 is 1 MiB.
	Buffer int
	// Handlers bounds the Stream handlers that run at a time; messages beyond wait for one to return. 0 is 1024. It is at least 256: as up
	// to 255 can be waiting for the rest of their messages, one is always left for a message that is complete.
	Handlers int
	// OnCredit, if not nil, is called when it is worth to try again after a TryShort or TrySend found no credit. It must not wait, and is
	// not called twice at a time.
	OnCredit func()
	// OnPlaced, if not nil, is called when the peer has put n bytes into the buffer that was posted for id, or has given it back:
	// then n is 0. It runs like a Quick handler, in the order of messages.
	OnPlaced func(id uint64, n int)
}

// An Endpoint is one end of a path between two processes. Its methods are safe for concurrent use.
//
// Locks: tx (cork.busy) is held while segments are handed to the carrier, which may take time. No other lock is held while anybody waits for
// anything. After it come the lock of a message and posts.mu; all others are leaves.
//
// Goroutines: one receives (see also turn), the keeper sends what the endpoint itself has to say, and each Stream handler that runs has one. The receiving
// goroutine never waits for anything but the carrier's Recv.
type Endpoint struct {
	carrier  Carrier
	handlers *Handlers
	cfg      Config
	limits   Limits

	out     window
	cork    cork
	batcher Batcher         // carrier, if it is one
	poller  Poller          // carrier, if it is one
	head    [HeaderLen]byte // under tx
	vec     [1][]byte       // under tx
	args    [argsLen]byte   // under tx
	lost    error           // under tx: the carrier failed to send, nothing more is sent
	flight  atomic.Int64    // bytes that were sent and not released, if Limits.Waits asks for it
	lengths []atomic.Uint32 // of what was sent, by number modulo out.size

	turn turn // over a Poller

	in slots // see there

	rx       sync.Mutex // guards what follows
	watching bool       // stall runs
	mark     uint32     // in.prefix when it was set
	stall    *time.Timer

	unstalling sync.Mutex // held by unstall

	opens   opens // messages that we send
	arrives arrives
	posts   posts
	extract queue
	msg     Msg // what a quick handler is given

	heard  atomic.Uint64 // for the heartbeat: rises when segments were received, and when they have been handled. Odd in between
	last   uint64        // heard at the last beat; only the watch looks
	silent int           // beats without news; only the watch looks

	// If Send may have to wait for the peer (Limits.Waits), who may go on talking and take nothing: rises before and after each call, so it is odd in
	// between. lastSends is that at the last beat, held how many beats one call has taken; only the watch looks.
	sends     atomic.Uint64
	lastSends uint64
	held      int

	owed owed // what the keeper is to send
	rtt  atomic.Int64

	ending atomic.Bool
	err    *substrate.Error // why the endpoint ended, nil for Close; written before done is closed
	done   chan struct{}
	watch  *time.Timer
	tasks  sync.WaitGroup
}

const (
	defaultDeath    = 800 * time.Millisecond
	defaultBuffer   = 1 << 20
	defaultHandlers = 1024
	defaultDirect   = 32 << 10
	defaultChunk    = 1 << 20
	byeWait         = 100 * time.Millisecond
)

// ErrNoCredit is returned by TryShort and TrySend when the peer has no free slot now, or too much waits for the carrier.
var ErrNoCredit = errors.New("activemsg: no credit")

// ErrTooLong is returned for more bytes than fit or were announced.
var ErrTooLong = errors.New("activemsg: message too long")

// New makes an endpoint over carrier, which it owns from then on, also if it fails.
func New(carrier Carrier, handlers *Handlers, cfg Config) (*Endpoint, error) {
	limits := carrier.Limits()
	if limits.Slots <= ControlSlots || limits.Payload < max(argsLen, advertLen) {
		carrier.Close()
		return nil, fmt.Errorf("activemsg: %d slots of %d bytes are too few", limits.Slots, limits.Payload)
	}
	if cfg.Death == 0 {
		cfg.Death = defaultDeath
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = defaultBuffer
	}
	if cfg.Handlers == 0 {
		cfg.Handlers = defaultHandlers
	}
	cfg.Handlers = max(cfg.Handlers, maxOpen)
	if limits.Direct == 0 {
		limits.Direct = defaultDirect
	}
	if limits.Chunk == 0 {
		limits.Chunk = defaultChunk
	}
	data := dataSlots(limits)
	e := &Endpoint{
		carrier: carrier, handlers: handlers, cfg: cfg, limits: limits, done: make(chan struct{}),
	}
	e.in.init(data)
	e.out.size, e.out.mu = data, &e.cork.mu
	if limits.Waits != 0 {
		e.lengths = make([]atomic.Uint32, data)
	}
	e.batcher, _ = carrier.(Batcher)
	e.poller, _ = carrier.(Poller)
	if p, ok := carrier.(Patient); ok {
		p.Patience(cfg.Death)
	}
	e.turn.back = make(chan struct{}, 1)
	e.owed.kick = make(chan struct{}, 1)
	e.opens.init()
	e.extract.signal = make(chan struct{}, 1)
	// Stopped at once: the timers run when they are reset.
	e.stall = time.AfterFunc(time.Hour, e.unstall)
	e.stall.Stop()
	e.owed.Lock() // against a first beat before watch is set
	e.watch = time.AfterFunc(cfg.Death/beats, e.beat)
	e.owed.Unlock()
	if e.poller != nil {
		e.tasks.Go(e.receivePolling)
	} else {
		e.tasks.Go(e.receive)
	}
	e.tasks.Go(e.keep)
	return e, nil
}

// Payload is the most bytes that a message of one segment can have.
func (e *Endpoint) Payload() int { return e.limits.Payload }

// Direct is the number of bytes from which on Post and Place pay. For less, a message costs less. It may change when the carrier has measured that.
func (e *Endpoint) Direct() int {
	if t, ok := e.carrier.(Tuner); ok {
		if n := t.Direct(); n > 0 {
			return n
		}
	}
	return e.limits.Direct
}

// Inline is the number of bytes up to which a message costs least, 0 if there is no difference.
func (e *Endpoint) Inline() int { return e.limits.Inline }

// Done is closed when the endpoint has ended; Err says why.
func (e *Endpoint) Done() <-chan struct{} { return e.done }

// Err returns nil as long as the endpoint is good, net.ErrClosed after Close, or a *substrate.Error.
func (e *Endpoint) Err() error {
	if !e.ending.Load() {
		return nil
	}
	select {
	case <-e.done:
		if e.err == nil {
			return net.ErrClosed
		}
		return e.err
	default:
		return nil
	}
}

// RTT is the round-trip time of the last heartbeat, 0 before the first.
func (e *Endpoint) RTT() time.Duration { return time.Duration(e.rtt.Load()) }

// Close tells the peer, frees the carrier and waits for handlers to return: a handler that waits in Read is woken, one that waits for
// something else is waited for. So it must not be called from a handler; there use go ep.Close().
func (e *Endpoint) Close() error {
	if e.Err() == nil {
		// A carrier that can't take the word must not keep us.
		t := time.AfterFunc(byeWait, func() { e.fail(nil) })
		e.lock()
		e.flush()
		e.send(header{id: controlBye, flags: flagControl}, body{})
		e.unlock(corkRounds)
		t.Stop()
	}
	e.fail(nil)
	<-e.done
	e.tasks.Wait()
	e.forget()
	return nil
}

// forget gives up what was received and not handled: by now nobody but who waits here might, in a call of Wait or Extract or because slots were scarce.
func (e *Endpoint) forget() {
	e.turn.mu.Lock()
	defer e.turn.mu.Unlock()
	e.extract.extracting.Lock()
	defer e.extract.extracting.Unlock()
	e.unstalling.Lock()
	defer e.unstalling.Unlock()
	e.turn.at, e.turn.n, e.turn.nspent = 0, 0, 0
	e.extract.clear()
	if f, ok := e.carrier.(Forgetter); ok {
		f.Forget()
	}
}

// fail ends the endpoint; nil is for Close. It doesn't wait: a device may take long to let go of a carrier (rxe 50 s, if packets of it lie in the
// ring of an interface that is down), and whoever sees done has another path perhaps. But where the peer may place bytes, done says that it does
// so no more, and comes after the carrier's end.
func (e *Endpoint) fail(err *substrate.Error) {
	if !e.ending.CompareAndSwap(false, true) {
		return
	}
	e.err = err
	e.arrives.end()
	exposed := e.posts.bar()
	e.tasks.Go(func() {
		if !exposed {
			<-e.done // the reason is known before what the peer does about it
		}
		e.carrier.Close()
		if e.posts.end(e.carrier); exposed {
			close(e.done)
		}
	})
	if !exposed {
		close(e.done)
	}
	e.owed.Lock()
	e.watch.Stop()
	e.owed.Unlock()
	e.rx.Lock()
	e.stall.Stop()
	e.rx.Unlock()
}

func (e *Endpoint) failWith(class substrate.Class, err error) { e.fail(asError(class, err)) }

// asError returns err as it is if it has a class.
func asError(class substrate.Class, err error) *substrate.Error {
	if s := (*substrate.Error)(nil); errors.As(err, &s) {
		return s
	}
	return &substrate.Error{Op: "message", Substrate: "activemsg", Class: class, Err: err}
}
