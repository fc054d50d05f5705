package sim

import (
	"math"
	"unsafe"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

type device struct {
	host   *Host
	net    *Network
	events chan verbs.Event
	closed chan struct{}
	shut   bool
}

func (d *device) Name() string { return DeviceName }

func (d *device) Limits() verbs.Limits {
	return verbs.Limits{Ports: 1, QueueWR: d.net.cfg.Depth, SGE: verbs.MaxSGE, CQE: 4 * d.net.cfg.Depth, RegionLen: math.MaxInt64}
}

// check says whether op can be done. The network's mu is held.
func (d *device) check(op string) error {
	switch {
	case d.host.gone:
		return &verbs.Error{Op: op, Device: DeviceName, Err: verbs.ErrGone}
	case d.shut:
		return &verbs.Error{Op: op, Device: DeviceName, Err: verbs.ErrClosed}
	}
	return nil
}

func bad(op string, err error) error { return &verbs.Error{Op: op, Device: DeviceName, Err: err} }

func (d *device) Port(n int) (verbs.Port, error) {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	if err := d.check("query port"); err != nil {
		return verbs.Port{}, err
	}
	if n != 1 {
		return verbs.Port{}, bad("query port", verbs.ErrNoDevice)
	}
	p := verbs.Port{State: verbs.PortDown, LinkLayer: verbs.LinkEthernet, MaxMTU: 4096, ActiveMTU: 4096}
	if d.host.up {
		p.State = verbs.PortActive
	}
	return p, nil
}

func (d *device) GIDs(port int) ([]verbs.GIDEntry, error) {
	if _, err := d.Port(port); err != nil {
		return nil, err
	}
	return d.host.gids, nil
}

func (d *device) NewPD() (verbs.PD, error) {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	if err := d.check("make a protection domain"); err != nil {
		return nil, err
	}
	return &pd{device: d}, nil
}

func (d *device) NextEvent() (verbs.Event, error) {
	select {
	case e := <-d.events:
		return e, nil
	case <-d.closed:
		return verbs.Event{}, bad("wait for events", verbs.ErrClosed)
	}
}

func (d *device) Close() error {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	if d.shut {
		return nil
	}
	d.shut = true
	delete(d.host.devices, d)
	close(d.closed)
	return nil
}

type pd struct {
	device *device
}

func (p *pd) Close() error { return nil }

type region struct {
	pd         *pd
	mem        []byte
	base       uint64
	access     verbs.Access
	lkey, rkey uint32
}

func (p *pd) Register(mem []byte, access verbs.Access) (verbs.Region, error) {
	n := p.device.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := p.device.check("register"); err != nil {
		return nil, err
	}
	if len(mem) == 0 || access&verbs.RemoteWrite != 0 && access&verbs.LocalWrite == 0 {
		return nil, bad("register", verbs.ErrInvalid)
	}
	r := &region{pd: p, mem: mem, base: address(mem), access: access, lkey: n.lastKey + 1, rkey: n.lastKey + 2}
	n.lastKey += 2
	n.regions[r.lkey], n.regions[r.rkey] = r, r
	return r, nil
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func (r *region) LKey() uint32 { return r.lkey }
func (r *region) RKey() uint32 { return r.rkey }

func (r *region) Close() error {
	n := r.pd.device.net
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.regions, r.lkey)
	delete(n.regions, r.rkey)
	return nil
}

// local returns the memory of s, nil if it isn't registered. mu is held.
func (p *pd) local(s *verbs.SGE, write bool) []byte {
	r := p.device.net.regions[s.LKey]
	if r == nil || r.pd != p || r.lkey != s.LKey || write && r.access&verbs.LocalWrite == 0 {
		return nil
	}
	return r.at(s.Addr, uint64(s.Len))
}

// remote returns the memory that a peer's key opens, nil if none.
func (p *pd) remote(addr uint64, rkey uint32, n int) ([]byte, *region) {
	r := p.device.net.regions[rkey]
	if r == nil || r.pd != p || r.rkey != rkey || r.access&verbs.RemoteWrite == 0 {
		return nil, nil
	}
	return r.at(addr, uint64(n)), r
}

func (r *region) at(addr, n uint64) []byte {
	if addr < r.base || n > uint64(len(r.mem)) || addr-r.base > uint64(len(r.mem))-n {
		return nil
	}
	off := addr - r.base
	return r.mem[off : off+n : off+n]
}
