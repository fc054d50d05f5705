package rdma

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/substrate"
)

// Config tunes an Adapter. The zero value is good.
type Config struct {
	Port     int   // 0 is 1
	GIDIndex *int  // nil: the address that reaches most, see verbs.BestGID
	Budget   int64 // most bytes of registered memory, which can't be swapped out; 0 is 256 MiB
}

// An Adapter is a port of a device and the registered memory of this process. It serves any number of carriers. Its methods are safe for
// concurrent use.
type Adapter struct {
	device verbs.Device
	pd     verbs.PD
	number int // of the port
	port   verbs.Port
	gid    verbs.GIDEntry
	mem    memory
	local  *pool // what only this process writes

	mu       sync.Mutex
	closed   bool
	lost     error // events come no more
	carriers map[*Carrier]bool
	events   sync.WaitGroup
}

// Open makes an adapter of a device, which it owns from then on, also if it fails.
func Open(device verbs.Device, cfg Config) (*Adapter, error) {
	if cfg.Port == 0 {
		cfg.Port = 1
	}
	if cfg.Budget == 0 {
		cfg.Budget = 256 << 20
	}
	a := &Adapter{device: device, number: cfg.Port, carriers: map[*Carrier]bool{}}
	if err := a.open(cfg); err != nil {
		device.Close()
		return nil, &substrate.Error{Op: "open", Substrate: "verbs", Class: substrate.Config, Err: err}
	}
	a.mem.pd, a.mem.budget = a.pd, cfg.Budget
	a.local = newPool(&a.mem, verbs.LocalWrite)
	a.events.Go(a.watch)
	return a, nil
}

func (a *Adapter) open(cfg Config) (err error) {
	if a.port, err = a.device.Port(a.number); err != nil {
		return err
	}
	if a.port.State != verbs.PortActive {
		return fmt.Errorf("port %d of %s is %s", a.number, a.device.Name(), a.port.State)
	}
	if a.gid, err = a.chooseGID(cfg.GIDIndex); err != nil {
		return err
	}
	a.pd, err = a.device.NewPD()
	return err
}

func (a *Adapter) chooseGID(index *int) (verbs.GIDEntry, error) {
	list, err := a.device.GIDs(a.number)
	if err != nil {
		return verbs.GIDEntry{}, err
	}
	if index == nil {
		if best, ok := verbs.BestGID(list); ok {
			return best, nil
		}
		return verbs.GIDEntry{}, fmt.Errorf("%w: port %d of %s has no address", verbs.ErrNoDevice, a.number, a.device.Name())
	}
	for _, e := range list {
		if e.Index == *index {
			return e, nil
		}
	}
	return verbs.GIDEntry{}, fmt.Errorf("%w: port %d of %s has no address with index %d", verbs.ErrNoDevice, a.number, a.device.Name(), *index)
}

// Device is the name of the device, GID the address in use, Port the state of the port when the adapter was opened.
func (a *Adapter) Device() string      { return a.device.Name() }
func (a *Adapter) GID() verbs.GIDEntry { return a.gid }
func (a *Adapter) Port() verbs.Port    { return a.port }

// String says which device, port and address it is.
func (a *Adapter) String() string {
	return fmt.Sprintf("%s port %d (%s), %s", a.device.Name(), a.number, a.port.LinkLayer, a.gid)
}

// Alloc returns n bytes of registered memory, not zeroed, at most 4 MiB. Sizes are rounded up to powers of two.
//
// Every carrier of the adapter sends from it without a copy. So payload in it isn't the caller's again when Send or Place returns: it must
// not change before the peer is known to have it, or the carrier was closed.
func (a *Adapter) Alloc(n int) ([]byte, error) { return a.local.alloc(n) }

// Free takes back what Alloc returned. The memory stays registered for the next Alloc.
func (a *Adapter) Free(b []byte) { a.local.release(b) }

// Usage is the state of an adapter's registered memory, in bytes.
type Usage struct {
	Budget     int64
	Registered int64 // everything: slots of carriers, what Alloc has handed out and holds
	Allocated  int64 // by Adapter.Alloc, rounded up
}

// Usage returns what is registered now.
func (a *Adapter) Usage() Usage {
	a.mem.mu.Lock()
	u := Usage{Budget: a.mem.budget, Registered: a.mem.registered}
	a.mem.mu.Unlock()
	a.local.mu.Lock()
	defer a.local.mu.Unlock()
	u.Allocated = a.local.inUse
	return u
}

var (
	errPortDown = errors.New("the port is down")
	errGone     = errors.New("the device is gone")
)

// watch ends carriers when their port goes down. Where it can't any more there must be none.
func (a *Adapter) watch() {
	for {
		e, err := a.device.NextEvent()
		switch {
		case errors.Is(err, verbs.ErrClosed):
			return
		case err != nil:
			a.mu.Lock()
			a.lost = err
			a.mu.Unlock()
			a.failAll(err)
			return
		case e.Kind == verbs.EventPortDown && e.Port == a.number:
			a.failAll(errPortDown)
		case e.Kind == verbs.EventFatal:
			a.failAll(errGone)
		}
	}
}

func (a *Adapter) failAll(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.carriers {
		c.fail("use", substrate.PathDown, err)
	}
}

// add notes a carrier whose failure is to be told.
func (a *Adapter) add(c *Carrier) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return verbs.ErrClosed
	case a.lost != nil:
		return a.lost
	}
	a.carriers[c] = true
	return nil
}

func (a *Adapter) remove(c *Carrier) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.carriers, c)
}

// Close closes the adapter's carriers and frees the device. Nobody may use memory of Alloc any more, nor of segments.
func (a *Adapter) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	var open []*Carrier
	for c := range a.carriers {
		open = append(open, c)
	}
	a.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	a.mem.close()
	err := errors.Join(a.pd.Close(), a.device.Close())
	a.events.Wait()
	return err
}
