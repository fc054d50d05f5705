package sim

import (
	"time"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// rnrTimer is what a sender waits before it tries again where no receive was posted.
const rnrTimer = 640 * time.Microsecond

// next is when q has something to do, never if it has nothing.
func (q *qp) next() int64 {
	at := never
	if q.state == stateReady {
		if q.acked < q.arrived {
			at = q.at(q.acked).acked
		}
		if q.arrived < q.sqPosted {
			at = min(at, q.at(q.arrived).due)
		}
	}
	return at
}

func (q *qp) at(number uint64) *request { return &q.sq[number%uint64(len(q.sq))] }

// run does what is due now and leaves the rest to the timer.
func (q *qp) run() {
	var now int64
	if q.next() > 0 { // no need for a clock if everything is due at once
		now = q.net.now()
	}
	for q.next() <= now {
		q.step(now)
	}
	q.net.later(q)
}

// step does the next thing.
func (q *qp) step(now int64) {
	if q.acked < q.arrived && q.at(q.acked).acked <= now {
		r := q.at(q.acked)
		q.acked++
		if r.wr.Flags&verbs.FlagSignaled != 0 {
			q.complete(r, verbs.StatusOK)
		}
		return
	}
	if q.arrived < q.sqPosted && q.at(q.arrived).due <= now {
		q.arrive(q.at(q.arrived))
	}
}

func (q *qp) complete(r *request, s verbs.Status) {
	q.sendCQ.push(entry{
		c:  verbs.Completion{ID: r.wr.ID, Status: s, QP: q.number, Op: r.wr.Op},
		qp: q, send: true, upto: q.acked,
	})
}

// arrive brings a request to the peer, or not.
func (q *qp) arrive(r *request) {
	peer := q.peer()
	faults := &q.net.cfg
	if peer == nil || faults.Lose > 0 && q.rng.Float64() < faults.Lose {
		q.repeat(r)
		return
	}
	fails := faults.Fail > 0 && q.rng.Float64() < faults.Fail
	if fails && q.rng.IntN(2) == 0 {
		q.abort(r, verbs.StatusRetryExceeded)
		return
	}
	status, wait := q.deliver(r, peer)
	switch {
	case wait:
		q.net.stats.RNR++
		r.notReady++
		if q.conn.RNRRetry != 7 && r.notReady > q.conn.RNRRetry {
			q.abort(r, verbs.StatusRNRRetryExceeded)
			return
		}
		r.due = q.net.now() + int64(rnrTimer)
	case status != verbs.StatusOK:
		q.abort(r, status)
	case fails: // the peer has it, and we don't know
		q.abort(r, verbs.StatusRetryExceeded)
	default:
		q.arrived++
		if r.due > 0 {
			r.acked = q.net.now() + q.delay()
			if q.acked < q.arrived-1 {
				r.acked = max(r.acked, q.at(q.arrived-2).acked)
			}
		}
	}
}

// peer is the queue pair at the other end, nil if packets to it or back are lost.
func (q *qp) peer() *qp {
	other := q.net.byGID[q.conn.RemoteGID]
	p := q.net.qps[q.conn.RemoteQP]
	me := q.device.host
	switch {
	case p == nil || p.state != stateReady || p.device.host != other || p.conn.RemoteQP != q.number:
		return nil
	case !me.up || !other.up || other.gone || q.net.cut[[2]*Host{me, other}]:
		return nil
	}
	return p
}

// repeat sends a request again after the time-out.
func (q *qp) repeat(r *request) {
	r.repeats++
	q.net.stats.Repeats++
	if r.repeats > q.conn.Retry {
		q.abort(r, verbs.StatusRetryExceeded)
		return
	}
	r.due = q.net.now() + 4096<<q.conn.Timeout
}

// abort fails the request that is next at the peer, and the queue pair with it. What was before it is finished.
func (q *qp) abort(r *request, s verbs.Status) {
	for q.acked < q.arrived {
		done := q.at(q.acked)
		q.acked++
		if done.wr.Flags&verbs.FlagSignaled != 0 {
			q.complete(done, verbs.StatusOK)
		}
	}
	q.arrived++
	q.acked++
	q.complete(r, s)
	q.fail()
}

// fail makes the queue pair one that flushes.
func (q *qp) fail() {
	if q.state == stateDestroyed {
		return
	}
	q.state = stateFailed
	q.late = nil
	q.flush()
}

func (q *qp) flush() {
	for q.acked < q.sqPosted {
		r := q.at(q.acked)
		q.acked++
		q.complete(r, verbs.StatusFlushed)
	}
	q.arrived = q.acked
	for q.rqUsed < q.rqPosted {
		wr := &q.rq[q.rqUsed%uint64(len(q.rq))]
		q.rqUsed++
		q.received(wr, verbs.Completion{Status: verbs.StatusFlushed})
	}
}

// received completes a receive.
func (q *qp) received(wr *verbs.RecvWR, c verbs.Completion) {
	c.ID, c.QP = wr.ID, q.number
	q.recvCQ.push(entry{c: c, qp: q, upto: q.rqUsed})
}

// deliver does what the request wants at the peer. With wait the peer has no receive posted.
func (q *qp) deliver(r *request, peer *qp) (s verbs.Status, wait bool) {
	wr := &r.wr
	consumes := wr.Op != verbs.OpWrite
	if consumes && peer.rqUsed == peer.rqPosted {
		return 0, true
	}
	n := 0
	var from [verbs.MaxSGE][]byte
	if wr.Flags&verbs.FlagInline != 0 {
		from[0], n = r.inline, len(r.inline)
	} else {
		for i := range wr.SGE[:wr.NumSGE] {
			sge := &wr.SGE[i]
			if from[i] = q.pd.local(sge, false); from[i] == nil && sge.Len > 0 {
				return verbs.StatusLocalProtection, false
			}
			n += int(sge.Len)
		}
	}
	c := verbs.Completion{Op: verbs.OpRecv, Len: uint32(n)}
	if wr.Op == verbs.OpSendImm || wr.Op == verbs.OpWriteImm {
		c.Imm, c.HasImm = wr.Imm, true
	}
	if wr.Op == verbs.OpWrite || wr.Op == verbs.OpWriteImm {
		c.Op = verbs.OpRecvWriteImm
		if !q.write(wr, peer, &from, n) {
			q.net.stats.Denied++
			peer.fail()
			return verbs.StatusRemoteAccess, false
		}
		q.net.stats.Writes++
	} else {
		q.net.stats.Sends++
	}
	q.net.stats.Bytes += uint64(n)
	if !consumes {
		return verbs.StatusOK, false
	}
	peer.show()
	recv := &peer.rq[peer.rqUsed%uint64(len(peer.rq))]
	peer.rqUsed++
	if c.Op == verbs.OpRecv {
		to := peer.pd.local(&recv.SGE, true)
		switch {
		case int(recv.SGE.Len) < n:
			peer.received(recv, verbs.Completion{Status: verbs.StatusLocalLength})
			peer.fail()
			return verbs.StatusRemoteInvalid, false
		case to == nil && recv.SGE.Len > 0:
			peer.received(recv, verbs.Completion{Status: verbs.StatusLocalProtection})
			peer.fail()
			return verbs.StatusRemoteOperation, false
		}
		for _, b := range from {
			to = to[copy(to, b):]
		}
	}
	peer.received(recv, c)
	return verbs.StatusOK, false
}

// write puts the bytes into the peer's memory, or where they wait to become visible.
func (q *qp) write(wr *verbs.SendWR, peer *qp, from *[verbs.MaxSGE][]byte, n int) bool {
	if n == 0 {
		return true // no key is looked at
	}
	to, region := peer.pd.remote(wr.RemoteAddr, wr.RKey, n)
	if to == nil {
		return false
	}
	if q.net.cfg.LateWrites && (len(peer.late) > 0 || q.rng.IntN(4) > 0) {
		data := make([]byte, 0, n)
		for _, b := range from {
			data = append(data, b...)
		}
		peer.late = append(peer.late, lateWrite{region: region, to: to, data: data})
		return true
	}
	for _, b := range from {
		to = to[copy(to, b):]
	}
	return true
}

// show makes visible what peers have written: a receive completes.
func (q *qp) show() {
	for _, w := range q.late {
		if q.net.regions[w.region.rkey] == w.region {
			copy(w.to, w.data)
		}
	}
	clear(q.late)
	q.late = q.late[:0]
}
