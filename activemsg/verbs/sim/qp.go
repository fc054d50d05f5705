package sim

import (
	"math/rand/v2"
	"time"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

type state uint8

const (
	stateInit state = iota // receives can be posted
	stateReady
	stateFailed
	stateDestroyed
)

type qp struct {
	net            *Network
	device         *device
	pd             *pd
	number         uint32
	gid            verbs.GID
	sendCQ, recvCQ *cq
	cfg            verbs.QPConfig
	conn           verbs.Connection
	state          state
	rng            *rand.Rand
	waiting        bool // in Network.waiting

	// Requests by number. Those before acked are finished, those before arrived have been at the peer; a place is free again only
	// below freed, when a completion was polled.
	sq                                []request
	sqPosted, arrived, acked, sqFreed uint64
	rq                                []verbs.RecvWR
	rqPosted, rqUsed, rqFreed         uint64

	late []lateWrite // at the receiver: not visible yet
}

type request struct {
	wr       verbs.SendWR
	inline   []byte // its bytes, kept for the next user of the place
	due      int64  // at the peer
	acked    int64  // back here
	repeats  int
	notReady int
}

type lateWrite struct {
	region *region
	to     []byte
	data   []byte
}

func (p *pd) NewQP(cfg verbs.QPConfig) (verbs.QP, error) {
	n := p.device.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := p.device.check("make a queue pair"); err != nil {
		return nil, err
	}
	scq, _ := cfg.SendCQ.(*cq)
	rcq, _ := cfg.RecvCQ.(*cq)
	limit := n.cfg.Depth
	switch {
	case cfg.Port != 1 || cfg.GIDIndex < 0 || cfg.GIDIndex >= len(p.device.host.gids):
		return nil, bad("make a queue pair", verbs.ErrNoDevice)
	case scq == nil || rcq == nil:
		return nil, bad("make a queue pair", verbs.ErrInvalid)
	case cfg.SendDepth > limit || cfg.RecvDepth > limit || cfg.SGE > verbs.MaxSGE || cfg.Inline > n.cfg.Inline:
		return nil, bad("make a queue pair", verbs.ErrLimit)
	}
	n.lastQP++
	q := &qp{
		net: n, device: p.device, pd: p, number: n.lastQP, gid: p.device.host.gids[cfg.GIDIndex].GID,
		sendCQ: scq, recvCQ: rcq, cfg: cfg, rng: n.rand(n.lastQP),
		sq: make([]request, max(cfg.SendDepth, 1)), rq: make([]verbs.RecvWR, max(cfg.RecvDepth, 1)),
	}
	n.qps[q.number] = q
	if n.cfg.IWARP {
		return newJoiner(q), nil
	}
	return q, nil
}

func (q *qp) Number() uint32 { return q.number }
func (q *qp) Inline() int    { return q.net.cfg.Inline }

func (q *qp) Connect(c verbs.Connection) error {
	q.net.mu.Lock()
	defer q.net.mu.Unlock()
	return q.connect(c)
}

// connect is Connect with mu held.
func (q *qp) connect(c verbs.Connection) error {
	if err := q.device.check("connect"); err != nil {
		return err
	}
	if q.state != stateInit || c.Retry > verbs.MaxRetry || c.RNRRetry > 7 || c.Timeout > 31 || q.net.byGID[c.RemoteGID] == nil {
		return bad("connect", verbs.ErrInvalid)
	}
	q.conn, q.state = c, stateReady
	return nil
}

func (q *qp) Post(recvs []verbs.RecvWR, sends []verbs.SendWR) error {
	q.net.mu.Lock()
	defer q.net.mu.Unlock()
	if err := q.device.check("post"); err != nil {
		return err
	}
	q.net.stats.Posts++
	switch {
	case len(recvs) > verbs.MaxPost || len(sends) > verbs.MaxPost, q.state == stateDestroyed, q.state == stateInit && len(sends) > 0:
		return bad("post", verbs.ErrInvalid)
	case q.rqPosted-q.rqFreed+uint64(len(recvs)) > uint64(len(q.rq)), q.sqPosted-q.sqFreed+uint64(len(sends)) > uint64(len(q.sq)):
		return bad("post", verbs.ErrFull)
	}
	for i := range recvs {
		q.rq[q.rqPosted%uint64(len(q.rq))] = recvs[i]
		q.rqPosted++
	}
	for i := range sends {
		if err := q.post(&sends[i]); err != nil {
			return err
		}
	}
	if q.state == stateFailed {
		q.flush()
		return nil
	}
	q.run()
	return nil
}

func (q *qp) post(wr *verbs.SendWR) error {
	r := &q.sq[q.sqPosted%uint64(len(q.sq))]
	n := 0
	for _, s := range wr.SGE[:wr.NumSGE] {
		n += int(s.Len)
	}
	if int(wr.NumSGE) > q.cfg.SGE || wr.Op > verbs.OpWriteImm || wr.Flags&verbs.FlagInline != 0 && n > q.net.cfg.Inline {
		return bad("post", verbs.ErrInvalid)
	}
	*r = request{wr: *wr, inline: r.inline[:0]}
	if wr.Flags&verbs.FlagInline != 0 {
		for i := range wr.SGE[:wr.NumSGE] {
			// Hardware takes inline bytes from any memory; here it must be registered.
			b := q.pd.local(&wr.SGE[i], false)
			if b == nil && wr.SGE[i].Len > 0 {
				return bad("post", verbs.ErrInvalid)
			}
			r.inline = append(r.inline, b...)
		}
	}
	if q.net.cfg.Delay > 0 || q.net.cfg.Jitter > 0 {
		r.due = q.net.now() + q.delay()
		if q.sqPosted > q.arrived {
			r.due = max(r.due, q.sq[(q.sqPosted-1)%uint64(len(q.sq))].due)
		}
	}
	q.sqPosted++
	return nil
}

// delay draws the time of one way.
func (q *qp) delay() int64 {
	d := q.net.cfg.Delay
	if j := q.net.cfg.Jitter; j > 0 {
		d += time.Duration(q.rng.Int64N(int64(j)))
	}
	return int64(d)
}

func (q *qp) Fail() error {
	q.net.mu.Lock()
	defer q.net.mu.Unlock()
	if q.state != stateDestroyed {
		q.fail()
	}
	return nil
}

func (q *qp) Close() error {
	q.net.mu.Lock()
	q.destroy()
	held := q.device.host.held
	q.net.mu.Unlock()
	if held != nil {
		<-held
	}
	return nil
}

func (q *qp) destroy() {
	q.state = stateDestroyed
	q.late = nil
	q.arrived, q.acked = q.sqPosted, q.sqPosted
	delete(q.net.qps, q.number)
}
