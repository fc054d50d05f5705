//go:build linux && cgo

package libibverbs

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

type device struct {
	name      string
	transport verbs.Transport
	ctx       *C.struct_vb_context

	events    *os.File
	eventsRaw syscall.RawConn
	waiting   sync.Mutex // held by NextEvent
	once      sync.Once
	closeErr  error
}

func (d *device) Name() string { return d.name }

func (d *device) Limits() verbs.Limits {
	var a C.struct_vb_device_attr
	if C.sk_attr(d.ctx, &a) != 0 {
		return verbs.Limits{}
	}
	return verbs.Limits{
		Ports: int(a.phys_port_cnt), QueueWR: int(a.max_qp_wr), SGE: int(min(a.max_sge, verbs.MaxSGE)), CQE: int(a.max_cqe),
		RegionLen: uint64(a.max_mr_size),
	}
}

func (d *device) Port(n int) (verbs.Port, error) {
	var a C.struct_vb_port_attr
	if n < 1 || n > 255 {
		return verbs.Port{}, d.error("query port", C.int(syscall.EINVAL))
	}
	if e := C.sk_port(d.ctx, C.int(n), &a); e != 0 {
		return verbs.Port{}, d.error("query port", e)
	}
	p := verbs.Port{
		State: verbs.PortState(a.state), MaxMTU: mtuBytes(a.max_mtu), ActiveMTU: mtuBytes(a.active_mtu), LID: uint16(a.lid),
	}
	switch a.link_layer {
	case C.VB_LINK_LAYER_INFINIBAND:
		p.LinkLayer = verbs.LinkInfiniBand
	case C.VB_LINK_LAYER_ETHERNET:
		p.LinkLayer = verbs.LinkEthernet
	}
	return p, nil
}

// mtuBytes translates the numbers 1 to 5 of the interface, mtuNumber back.
func mtuBytes(n C.int) int { return 128 << min(max(n, 1), 5) }

func mtuNumber(bytes int) C.uint8_t {
	n := C.uint8_t(1)
	for n < 5 && 128<<(n+1) <= bytes {
		n++
	}
	return n
}

func (d *device) GIDs(port int) ([]verbs.GIDEntry, error) {
	list, err := gids(sysfs(), d.name, port)
	if err != nil {
		return nil, &verbs.Error{Op: "list addresses", Device: d.name, Err: err}
	}
	return list, nil
}

func (d *device) NewPD() (verbs.PD, error) {
	p := &pd{device: d}
	if e := C.sk_pd(d.ctx, &p.pd); e != 0 {
		return nil, d.error("make a protection domain", e)
	}
	return p, nil
}

func (d *device) NextEvent() (verbs.Event, error) {
	d.waiting.Lock()
	defer d.waiting.Unlock()
	var e, kind, port C.int
	err := d.eventsRaw.Read(func(uintptr) bool {
		e = C.sk_async(d.ctx, &kind, &port)
		return e != C.EAGAIN && e != C.EINTR
	})
	switch {
	case err != nil: // there is no other reason
		return verbs.Event{}, &verbs.Error{Op: "wait for events", Device: d.name, Err: fmt.Errorf("%w: %w", verbs.ErrClosed, err)}
	case e != 0:
		return verbs.Event{}, d.error("wait for events", e)
	}
	switch kind {
	case C.VB_EVENT_PORT_ACTIVE:
		return verbs.Event{Kind: verbs.EventPortUp, Port: int(port)}, nil
	case C.VB_EVENT_PORT_ERR:
		return verbs.Event{Kind: verbs.EventPortDown, Port: int(port)}, nil
	case C.VB_EVENT_GID_CHANGE, C.VB_EVENT_LID_CHANGE:
		return verbs.Event{Kind: verbs.EventPortChange, Port: int(port)}, nil
	case C.VB_EVENT_DEVICE_FATAL:
		return verbs.Event{Kind: verbs.EventFatal}, nil
	}
	return verbs.Event{}, nil
}

func (d *device) Close() error {
	d.once.Do(func() {
		d.events.Close()
		d.waiting.Lock() // until NextEvent has left
		defer d.waiting.Unlock()
		if e := C.sk_close(d.ctx); e != 0 {
			d.closeErr = d.error("close", e)
		}
	})
	return d.closeErr
}

type pd struct {
	device *device
	pd     *C.struct_vb_pd
}

func (p *pd) Close() error {
	if p.pd == nil {
		return nil
	}
	if e := C.sk_free_pd(p.pd); e != 0 {
		return p.device.error("free a protection domain", e)
	}
	p.pd = nil
	return nil
}

type region struct {
	device     *device
	mr         *C.struct_vb_mr
	lkey, rkey uint32
}

func (p *pd) Register(mem []byte, access verbs.Access) (verbs.Region, error) {
	var flags C.int
	if access&verbs.LocalWrite != 0 {
		flags |= C.VB_ACCESS_LOCAL_WRITE
	}
	if access&verbs.RemoteWrite != 0 {
		flags |= C.VB_ACCESS_REMOTE_WRITE
	}
	if len(mem) == 0 {
		return nil, p.device.error("register", C.int(syscall.EINVAL))
	}
	r := &region{device: p.device}
	addr := C.uintptr_t(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	if e := C.sk_register(p.pd, addr, C.size_t(len(mem)), flags, &r.mr); e != 0 {
		return nil, p.device.error("register", e)
	}
	r.lkey, r.rkey = uint32(r.mr.lkey), uint32(r.mr.rkey)
	return r, nil
}

func (r *region) LKey() uint32 { return r.lkey }
func (r *region) RKey() uint32 { return r.rkey }

func (r *region) Close() error {
	if r.mr == nil {
		return nil
	}
	if e := C.sk_unregister(r.mr); e != 0 {
		return r.device.error("unregister", e)
	}
	r.mr = nil
	return nil
}
