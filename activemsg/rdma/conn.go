package rdma

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/internal/look"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/substrate"
)

// ConnConfig tunes a connection. The zero value is good. Both ends may differ: of payload and slots the smaller counts.
type ConnConfig struct {
	Payload   int // most bytes of a segment; 0 is 16 KiB less the header
	Slots     int // segments that can be received before they are Done; 0 is 160, which is 128 for data and some for control
	SendSlots int // segments that can be on their way as copies; 0 is 32

	// Spin is how long to look for completions before sleeping, at most: less if what was waited for of late came sooner, and not at all if it
	// came later. 0 is 50 us, or 2 ms where other threads get their turn between looks: on machines with less than 4 processors. Less than 0: never.
	Spin time.Duration

	Timeout int // exponent of the time-out of a packet, 4.096 us * 2^Timeout; 0 is 14, 67 ms
	Retry   int // repeats before the path counts as dead, 1 to 6; 0 is 6: half a second in all

	// Strict registers each buffer that is exposed by itself, so that a key is worth nothing after Hide.
	Strict bool

	// For iWARP, where one end connects to the other: the address of this end, and whether it is the one that is awaited. That one must not send before
	// something of the other has come, and its Connect waits for the other's, at most 4 s: so the other must have been told first.
	Local netip.Addr
	Await bool
}

func (cfg *ConnConfig) defaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&cfg.Payload, 16<<10-activemsg.HeaderLen)
	def(&cfg.Slots, 160)
	def(&cfg.SendSlots, 32)
	def(&cfg.Timeout, 14)
	def(&cfg.Retry, verbs.MaxRetry)
	if cfg.Spin == 0 {
		cfg.Spin = 50 * time.Microsecond
		if fewProcessors() {
			cfg.Spin = 2 * time.Millisecond
		}
	}
}

func fewProcessors() bool { return min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) < 4 }

const (
	inlineWish = 220 // what most devices can do in a request of two cache lines more
	queueDepth = 256 // requests that can be on their way
	headerStep = 32  // bytes between headers of requests that send from the caller's memory
	// markerRoom is kept free in the queue for the marker of Close.
	markerRoom = 1
)

// A Conn is one end of a connection that isn't made yet.
type Conn struct {
	carrier *Carrier
	cfg     ConnConfig
	info    info
}

// Prepare makes a queue pair with all its receives posted.
func (a *Adapter) Prepare(cfg ConnConfig) (*Conn, error) {
	cfg.defaults()
	limits := a.device.Limits()
	depth := min(queueDepth, limits.QueueWR)
	switch {
	case cfg.Payload < minPayload || cfg.Payload > maxPayload, cfg.Slots < 1 || cfg.Slots > min(limits.QueueWR, 1<<16-1), cfg.SendSlots < 2,
		cfg.Timeout < 1 || cfg.Timeout > 31, cfg.Retry < 1 || cfg.Retry > verbs.MaxRetry:
		return nil, configError(fmt.Errorf("rdma: the device can't do %+v", cfg))
	case limits.SGE < 2 || depth < 16:
		return nil, configError(fmt.Errorf("rdma: %s is too small: %+v", a.device.Name(), limits))
	}
	c := &Carrier{
		adapter: a, idle: make(chan struct{}, 1), closed: make(chan struct{}), sge: min(limits.SGE, verbs.MaxSGE),
		slotLen: slotLen(cfg.Payload), strict: cfg.Strict, yield: fewProcessors(),
		waitSend: look.New(cfg.Spin), waitRecv: look.New(cfg.Spin),
	}
	c.tx.init(depth, cfg.SendSlots)
	if a.IWARP() {
		c.tx.every = 1 // else the device may read memory after it is free again, see verbs.Joiner
	}
	conn := &Conn{carrier: c, cfg: cfg}
	if err := c.open(cfg, depth); err != nil {
		c.free()
		return nil, configError(err)
	}
	if err := a.add(c); err != nil {
		c.free()
		return nil, configError(err)
	}
	conn.info = info{
		link: a.port.LinkLayer, mtu: a.port.ActiveMTU, qp: c.qp.Number(), psn: rand.Uint32() & max24, lid: a.port.LID,
		slots: cfg.Slots, payload: cfg.Payload, gid: a.gid.GID,
	}
	if a.IWARP() {
		if err := conn.meet(); err != nil {
			c.Close()
			return nil, configError(err)
		}
	}
	return conn, nil
}

func configError(err error) error {
	return &substrate.Error{Op: "prepare", Substrate: "verbs", Class: substrate.Config, Err: err}
}

// open makes everything that free frees.
func (c *Carrier) open(cfg ConnConfig, depth int) (err error) {
	a := c.adapter
	// One chunk: slots to receive, slots to send, headers, scratch for inline.
	recvs, sends := cfg.Slots*c.slotLen, cfg.SendSlots*c.slotLen
	size := recvs + sends + depth*headerStep + verbs.MaxPost*inlineWish
	if c.chunk, err = a.mem.add((size+4095)&^4095, verbs.LocalWrite, nil); err != nil {
		return err
	}
	mem := c.chunk.mem
	c.recvMem, mem = mem[:recvs], mem[recvs:]
	c.tx.mem, mem = mem[:sends], mem[sends:]
	c.tx.heads, mem = mem[:depth*headerStep], mem[depth*headerStep:]
	c.tx.scratch = mem[:verbs.MaxPost*inlineWish]
	access := verbs.LocalWrite | verbs.RemoteWrite
	if c.strict {
		access = verbs.LocalWrite
	}
	c.exposed = newPool(&a.mem, access)
	if c.sends, err = a.device.NewCQ(depth + 1); err != nil {
		return err
	}
	c.tx.tick = time.AfterFunc(barrenTick, c.sends.Wake)
	c.tx.tick.Stop()
	if c.recvs, err = a.device.NewCQ(cfg.Slots + 1); err != nil {
		return err
	}
	c.qp, err = a.pd.NewQP(verbs.QPConfig{
		SendCQ: c.sends, RecvCQ: c.recvs, SendDepth: depth, RecvDepth: cfg.Slots, SGE: c.sge, Inline: inlineWish,
		Port: a.number, GIDIndex: a.gid.Index,
	})
	if err != nil {
		return err
	}
	c.inline = min(c.qp.Inline(), inlineWish)
	for slot := 0; slot < cfg.Slots; {
		n := 0
		for ; n < verbs.MaxPost && slot < cfg.Slots; n++ {
			c.back[n] = c.recvWR(uint64(slot))
			slot++
		}
		if err := c.qp.Post(c.back[:n], nil); err != nil {
			return err
		}
	}
	return nil
}

// Local returns what the peer's Connect wants to know.
func (conn *Conn) Local() []byte { return conn.info.put() }

// Connect joins the queue pair to the peer's, of which peer is the Local, and returns the carrier. But for iWARP it doesn't wait for the peer: nothing must be sent
// before the peer is known to have connected, too. Conn must not be used any more, whether it fails or not.
func (conn *Conn) Connect(peer []byte) (*Carrier, error) {
	c := conn.carrier
	var p info
	if err := p.parse(peer); err != nil {
		c.Close()
		return nil, &substrate.Error{Op: "connect", Substrate: "verbs", Class: substrate.Protocol, Err: err}
	}
	c.peer = p.gid.String()
	if p.link != conn.info.link {
		c.Close()
		return nil, c.failure("connect", substrate.Config, fmt.Errorf("%s here, %s there", linkText(conn.info.link), linkText(p.link)))
	}
	var err error
	if j, ok := c.qp.(verbs.Joiner); ok {
		err = conn.join(j, &p)
	} else {
		err = conn.connect(&p)
	}
	if err != nil {
		class := substrate.PathDown
		if errors.Is(err, verbs.ErrInvalid) {
			class = substrate.Config
		}
		if errors.Is(err, context.DeadlineExceeded) {
			go c.Close() // the kernel may not let go for minutes, see verbs.Joiner
		} else {
			c.Close()
		}
		return nil, c.failure("connect", class, err)
	}
	c.limits = activemsg.Limits{
		Payload: min(conn.cfg.Payload, p.payload), Slots: min(conn.cfg.Slots, p.slots),
		Inline: max(c.inline-activemsg.HeaderLen, 0), Look: max(conn.cfg.Spin, 0),
	}
	c.Adopt(c.priors())
	return c, nil
}

func (conn *Conn) connect(p *info) error {
	return conn.carrier.qp.Connect(verbs.Connection{
		RemoteQP: p.qp, RemoteGID: p.gid, RemoteLID: p.lid, LocalPSN: conn.info.psn, RemotePSN: p.psn,
		MTU: min(p.mtu, conn.info.mtu), Timeout: conn.cfg.Timeout, Retry: conn.cfg.Retry,
		RNRRetry: 6, // never needed: a peer that isn't ready has broken the rules of credits
	})
}

// Close gives a connection up that was not made.
func (conn *Conn) Close() error { return conn.carrier.Close() }
