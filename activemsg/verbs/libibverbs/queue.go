//go:build linux && cgo

package libibverbs

/*
#cgo noescape sk_post
#cgo nocallback sk_post
#cgo noescape sk_poll
#cgo nocallback sk_poll
#cgo noescape sk_spin
#cgo nocallback sk_spin
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

type cq struct {
	device  *device
	cq      *C.struct_vb_cq
	channel *C.struct_vb_comp_channel
	file    *os.File
	raw     syscall.RawConn
	woken   atomic.Bool
}

func (d *device) NewCQ(depth int) (verbs.CQ, error) {
	c := &cq{device: d}
	if e := C.sk_cq(d.ctx, C.int(depth), &c.channel, &c.cq); e != 0 {
		return nil, d.error("make a completion queue", e)
	}
	var err error
	if c.file, c.raw, err = watch(c.channel.fd, d.name+" completions"); err != nil {
		C.sk_free_cq(c.cq, c.channel)
		return nil, &verbs.Error{Op: "make a completion queue", Device: d.name, Err: err}
	}
	return c, nil
}

func completions(into []verbs.Completion) (*C.struct_sk_completion, C.int) {
	return (*C.struct_sk_completion)(unsafe.Pointer(unsafe.SliceData(into))), C.int(len(into))
}

func (c *cq) Poll(into []verbs.Completion) (int, error) {
	p, max := completions(into)
	return c.result(C.sk_poll(c.cq, p, max))
}

func (c *cq) Spin(into []verbs.Completion, d time.Duration, yield bool) (int, error) {
	p, max := completions(into)
	var y C.int
	if yield {
		y = 1
	}
	return c.result(C.sk_spin(c.cq, p, max, C.int64_t(d), y))
}

func (c *cq) result(n C.int) (int, error) {
	if n < 0 {
		return 0, c.device.error("poll", -n)
	}
	return int(n), nil
}

func (c *cq) Arm() error {
	if e := C.sk_arm(c.cq); e != 0 {
		return c.device.error("arm", e)
	}
	return nil
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

func (c *cq) Wait() error {
	var e C.int
	err := c.raw.Read(func(uintptr) bool {
		if c.woken.Load() {
			return true
		}
		e = C.sk_event(c.channel)
		return e != C.EAGAIN
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.file.SetReadDeadline(time.Time{})
		err = nil
	}
	c.woken.Store(false)
	switch {
	case err != nil:
		return &verbs.Error{Op: "wait", Device: c.device.name, Err: fmt.Errorf("%w: %w", verbs.ErrClosed, err)}
	case e != 0 && e != C.EAGAIN:
		return c.device.error("wait", e)
	}
	return nil
}

func (c *cq) Wake() {
	c.woken.Store(true)
	c.file.SetReadDeadline(past)
}

func (c *cq) Close() error {
	if c.cq == nil {
		return nil
	}
	c.file.Close()
	if e := C.sk_free_cq(c.cq, c.channel); e != 0 {
		return c.device.error("close a completion queue", e)
	}
	c.cq, c.channel = nil, nil
	return nil
}

type qp struct {
	device   *device
	qp       *C.struct_vb_qp
	number   uint32
	inline   int
	port     int
	gidIndex int
	closed   atomic.Bool
}

func (p *pd) NewQP(cfg verbs.QPConfig) (verbs.QP, error) {
	const op = "make a queue pair"
	scq, _ := cfg.SendCQ.(*cq)
	rcq, _ := cfg.RecvCQ.(*cq)
	if scq == nil || rcq == nil || cfg.Port < 1 || cfg.Port > 255 || cfg.GIDIndex < 0 || cfg.GIDIndex > 255 || cfg.SGE > verbs.MaxSGE {
		return nil, p.device.error(op, C.int(syscall.EINVAL))
	}
	q := &qp{device: p.device, port: cfg.Port, gidIndex: cfg.GIDIndex}
	port := C.int(cfg.Port)
	iwarp := p.device.transport == verbs.TransportIWARP
	if iwarp {
		if cfg.Port > p.device.Limits().Ports {
			return nil, p.device.error(op, C.int(syscall.EINVAL))
		}
		port = 0
	}
	var inline C.int
	e := C.sk_make_qp(p.pd, scq.cq, rcq.cq, C.int(cfg.SendDepth), C.int(cfg.RecvDepth), C.int(cfg.SGE), C.int(cfg.Inline), port, &q.qp, &inline)
	if e != 0 {
		return nil, p.device.error(op, e)
	}
	q.number, q.inline = uint32(q.qp.qp_num), int(inline)
	if iwarp {
		return &joiner{qp: q}, nil
	}
	return q, nil
}

func (q *qp) Number() uint32 { return q.number }
func (q *qp) Inline() int    { return q.inline }

func (q *qp) Connect(c verbs.Connection) error {
	port, err := q.device.Port(q.port)
	if err != nil {
		return err
	}
	if c.Retry > verbs.MaxRetry || c.Retry < 0 || c.RNRRetry < 0 || c.RNRRetry > 7 || c.Timeout < 0 || c.Timeout > 31 {
		return q.device.error("connect", C.int(syscall.EINVAL))
	}
	x := C.struct_sk_connection{
		qp: C.uint32_t(c.RemoteQP), psn: C.uint32_t(c.LocalPSN & 0xffffff), remote_psn: C.uint32_t(c.RemotePSN & 0xffffff),
		lid: C.uint16_t(c.RemoteLID), port: C.uint8_t(q.port), gid_index: C.uint8_t(q.gidIndex), mtu: mtuNumber(c.MTU),
		timeout: C.uint8_t(c.Timeout), retry: C.uint8_t(c.Retry), rnr_retry: C.uint8_t(c.RNRRetry),
	}
	for i, b := range c.RemoteGID {
		x.gid[i] = C.uint8_t(b)
	}
	if port.LinkLayer != verbs.LinkInfiniBand {
		x.global = 1 // RoCE has no other addresses
	}
	if e := C.sk_connect(q.qp, &x); e != 0 {
		return q.device.error("connect", e)
	}
	return nil
}

func (q *qp) Post(recvs []verbs.RecvWR, sends []verbs.SendWR) error {
	if len(recvs) > verbs.MaxPost || len(sends) > verbs.MaxPost {
		return q.device.error("post", C.int(syscall.EINVAL))
	}
	r := (*C.struct_sk_recv)(unsafe.Pointer(unsafe.SliceData(recvs)))
	s := (*C.struct_sk_send)(unsafe.Pointer(unsafe.SliceData(sends)))
	if e := C.sk_post(q.qp, r, C.int(len(recvs)), s, C.int(len(sends))); e != 0 {
		return q.device.error("post", e)
	}
	return nil
}

func (q *qp) Fail() error {
	if e := C.sk_fail(q.qp); e != 0 {
		return q.device.error("fail", e)
	}
	return nil
}

func (q *qp) Close() error {
	if q.closed.Swap(true) {
		return nil
	}
	if e := C.sk_free_qp(q.qp); e != 0 {
		return q.device.error("close a queue pair", e)
	}
	return nil
}
