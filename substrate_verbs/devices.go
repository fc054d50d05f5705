package verbs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/rdma"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/libibverbs"
	"github.com/sockemu/sockemu/internal/inventory"
)

// Devices returns the Fabric of the machine's RDMA devices, which are driven by libibverbs. There is one for the process.
func Devices() Fabric { return machine() }

var machine = sync.OnceValue(func() *devices {
	return newDevices(libibverbs.New(), &system{root: os.DirFS("/")})
})

// A finder knows which address leads to which device.
type finder interface {
	check() error
	addrs() []netip.Addr
	find(local netip.Addr) (place, error)
	forget() // what was found is wrong
}

// A place is an entry of a device's table of addresses.
type place struct {
	device   string
	port     int
	gid      int
	kind     Kind
	software bool // the device is rxe
}

// segment is how many bytes of a link go in one message: programs write powers of two, which should not need one more for the rest.
const segment = 16 << 10

// softwareTimeout is how long a packet may be unanswered on rxe, about a second (4.096 us * 2^18). When that of Linux 6.1 repeats messages that were
// not lost but late, on a busy machine, it sometimes sends a packet of them once too often: the message is longer by one MTU, or its
// bytes are wrong (seen between two virtual machines). Death of the path is noticed by heartbeats.
const softwareTimeout = 18

// devices is the Fabric of a provider's devices. What was opened stays open until the last Substrate has left: opening takes a while.
type devices struct {
	provider verbs.Provider
	finder   finder
	turn     chan struct{} // has room for the one who measures thresholds

	mu     sync.Mutex
	joined int // Substrates
	open   map[place]*adapter
	fits   map[way]knownFit
}

// Join notes that a Substrate may use devices, Leave that it does so no more.
func (d *devices) Join() {
	d.mu.Lock()
	d.joined++
	d.mu.Unlock()
}

// Leave closes what nobody uses any more, if it was the last.
func (d *devices) Leave() {
	d.mu.Lock()
	d.joined--
	var idle []*adapter
	for _, a := range d.open {
		if d.joined == 0 && a.users.Load() == 0 {
			idle = append(idle, a)
			a.gone = true
			delete(d.open, a.at)
		}
	}
	d.mu.Unlock()
	for _, a := range idle {
		a.Close()
	}
}

func newDevices(p verbs.Provider, f finder) *devices {
	return &devices{provider: p, finder: f, turn: make(chan struct{}, 1), open: map[place]*adapter{}}
}

func (d *devices) Check() error {
	if err := d.finder.check(); err != nil {
		return err
	}
	_, err := d.provider.Devices()
	return err
}

func (d *devices) Addrs() ([]netip.Addr, error) { return d.finder.addrs(), nil }

func (d *devices) Open(local, remote netip.Addr, dialled bool) (Half, error) {
	at, err := d.finder.find(local)
	if err != nil {
		return nil, err
	}
	a, err := d.adapter(at)
	if err != nil {
		d.finder.forget()
		return nil, err
	}
	cfg := rdma.ConnConfig{Payload: segment + dataHead, Local: local, Await: dialled}
	if at.software {
		cfg.Timeout = softwareTimeout
	}
	conn, err := a.Prepare(cfg)
	if err != nil {
		d.distrust(a)
		a.release()
		return nil, err
	}
	return &deviceHalf{conn: conn, a: a, remote: remote}, nil
}

// adapter returns the adapter at a place, opened if need be. Whoever gets it must release it.
func (d *devices) adapter(at place) (*adapter, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.open[at]; a != nil {
		a.users.Add(1)
		return a, nil
	}
	dev, err := d.provider.Open(at.device)
	if err != nil {
		return nil, err
	}
	a, err := rdma.Open(dev, rdma.Config{Port: at.port, GIDIndex: &at.gid})
	if err != nil {
		return nil, err
	}
	if b, err := a.Alloc(1); err == nil {
		a.Free(b) // it stays registered: the first who sends needn't wait for that, nor measure it
	}
	opened := &adapter{Adapter: a, of: d, at: at}
	opened.users.Add(1)
	d.open[at] = opened
	return opened, nil
}

// distrust has the device opened anew the next time: it may have been removed and be back, or its port may have changed.
func (d *devices) distrust(a *adapter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[a.at] == a {
		delete(d.open, a.at)
	}
	d.finder.forget()
}

// An adapter is an open device. Its users are ends of queue pairs, and lent memory.
type adapter struct {
	*rdma.Adapter
	of    *devices
	at    place
	users atomic.Int64 // the first one, also after none, comes under devices.mu
	gone  bool         // under it: it was closed
}

// retain adds a user, unless there is none any more. It takes no lock: while one device is being opened, which may take long, links send over others.
func (a *adapter) retain() bool {
	for n := a.users.Load(); n > 0; n = a.users.Load() {
		if a.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (a *adapter) release() {
	if a.users.Add(-1) > 0 {
		return
	}
	a.of.mu.Lock()
	known := a.of.open[a.at] == a
	last := a.users.Load() == 0 && !a.gone && (a.of.joined == 0 || !known)
	a.gone = a.gone || last
	if last && known {
		delete(a.of.open, a.at)
	}
	a.of.mu.Unlock()
	if last {
		a.Close()
	}
}

type deviceHalf struct {
	conn   *rdma.Conn
	a      *adapter
	remote netip.Addr
}

func (h *deviceHalf) Kind() Kind     { return h.a.at.kind }
func (h *deviceHalf) Info() []byte   { return h.conn.Local() }
func (h *deviceHalf) String() string { return h.a.String() }

func (h *deviceHalf) Close() error {
	defer h.a.release()
	return h.conn.Close()
}

func (h *deviceHalf) Connect(info []byte) (activemsg.Carrier, error) {
	gid, err := rdma.PeerGID(info)
	// RoCE v2 and iWARP go by IP, so the peer is where it says it is, or somebody else would get our packets.
	byIP := h.Kind() == KindRoCEv2 || h.Kind() == KindIWARP
	if _, real := h.a.of.finder.(*system); err == nil && real && byIP && gid.Addr() != h.remote.WithZone("") {
		err = fmt.Errorf("the peer at %v says that it is %v", h.remote, gid.Addr())
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	c, err := h.conn.Connect(info)
	if err != nil {
		h.a.of.distrust(h.a)
		if errors.Is(err, context.DeadlineExceeded) {
			go h.a.release() // who is last closes the adapter, and waits for what iWARP still holds
		} else {
			h.a.release()
		}
		return nil, err
	}
	d := &deviceCarrier{Carrier: c, a: h.a, way: way{h.a.at, h.remote}}
	if f, ok := d.Known(); ok {
		d.Adopt(f.Thresholds)
	}
	return d, nil
}

// deviceCarrier keeps its adapter open, also for memory that it has lent.
type deviceCarrier struct {
	*rdma.Carrier
	a   *adapter
	way way
}

var (
	_ Lender           = (*deviceCarrier)(nil)
	_ activemsg.Placer = (*deviceCarrier)(nil)
)

func (c *deviceCarrier) Lend(n int) []byte {
	if !c.a.retain() { // first: memory that is lent keeps the adapter open
		return nil
	}
	b := c.Carrier.Lend(n)
	if b == nil {
		c.a.release()
	}
	return b
}

func (c *deviceCarrier) Return(b []byte) {
	c.Carrier.Return(b)
	c.a.release()
}

// Release is for who has closed the carrier's endpoint: nobody looks at what came any more.
func (c *deviceCarrier) Release() { c.a.release() }

// system finds devices by what the kernel shows of them.
type system struct {
	root fs.FS

	mu    sync.Mutex
	read  time.Time
	last  []netip.Addr
	found map[netip.Addr]finding
}

type finding struct {
	place
	at time.Time
}

// fresh is how old may be what was read: that takes a while, and is asked for at every set-up of a connection.
const fresh = 3 * time.Second

// classDir is where the kernel lists RDMA devices.
const classDir = "sys/class/infiniband"

func (s *system) check() error {
	list, err := fs.ReadDir(s.root, classDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errNoDevice("/" + classDir + " does not exist")
	case err != nil:
		return errNoDevice(err.Error())
	case len(list) == 0:
		return errNoDevice("/" + classDir + " is empty")
	}
	return nil
}

// errNoDevice says why there is no RDMA device.
type errNoDevice string

func (e errNoDevice) Error() string { return "no RDMA device: " + string(e) }

func (errNoDevice) Unwrap() error { return errors.ErrUnsupported }

// addrs are those that lead to a device, also those of an interface that is down for the moment.
func (s *system) addrs() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.read) < fresh {
		return s.last
	}
	s.last, s.read = nil, now
	ifis, err := net.Interfaces()
	if err != nil {
		return nil
	}
	r := inventory.ReadRDMA(s.root)
	for _, ifi := range ifis {
		as, _ := ifi.Addrs()
		for _, a := range as {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, _ := netip.AddrFromSlice(n.IP)
			if ip = ip.Unmap(); !ip.IsGlobalUnicast() {
				continue
			}
			if _, err := r.Map(ifi.Name, ip); err == nil || below(r, ifi.Name) {
				s.last = append(s.last, ip)
			}
		}
	}
	return s.last
}

// below reports whether an interface is a port's own.
func below(r inventory.RDMA, netdevice string) bool {
	for _, d := range r.Devices {
		for _, p := range d.Ports {
			if slices.Contains(p.NetDevices, netdevice) {
				return true
			}
		}
	}
	return false
}

func (s *system) find(local netip.Addr) (place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.found[local]; ok && time.Since(f.at) < fresh {
		return f.place, nil
	}
	at, err := s.look(local)
	if s.found == nil || len(s.found) > 100 {
		s.found = map[netip.Addr]finding{}
	}
	if delete(s.found, local); err == nil {
		s.found[local] = finding{at, time.Now()}
	}
	return at, err
}

func (s *system) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.found)
}

func (s *system) look(local netip.Addr) (place, error) {
	m, err := inventory.MapLocal(local)
	if err != nil {
		return place{}, err
	}
	at := place{device: m.Device, port: m.Port, gid: m.GIDIndex}
	if _, err := fs.Stat(s.root, path.Join(classDir, m.Device, "parent")); err == nil { // only rxe has it
		at.software = true
	}
	switch {
	case m.Transport == "infiniband":
		at.kind = KindInfiniBand
	case m.Transport == "iwarp":
		at.kind = KindIWARP
	case m.GIDType == "RoCE v2":
		at.kind = KindRoCEv2
	default:
		at.kind = KindRoCEv1
	}
	return at, nil
}
