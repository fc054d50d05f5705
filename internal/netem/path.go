package netem

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"

	"github.com/sockemu/sockemu/internal/sys"
)

// PathConfig says how two hosts are joined.
type PathConfig struct {
	Up   Impairment // from A to B
	Down Impairment // from B to A
	Seed uint64
	MTU  int // bytes of the interfaces at both ends, with the IP header; 0: 1500
}

// A Path is two hosts, network namespaces really, joined by nothing but the emulated path: each has a TUN interface, and this
// process carries IP packets from one to the other. TCP over it is the kernel's, so its congestion control meets the delay, the
// loss and the queue packet by packet.
type Path struct {
	A, B     *Host
	up, down *line[struct{}]
	readers  sync.WaitGroup
}

// A Host is one end of a Path. It has a loopback interface and the path, nothing else.
type Host struct {
	Addr netip.Addr
	ns   *os.File
	tun  *os.File
}

// The addresses of a path's ends: they can't collide with others, the namespaces have none.
var (
	prefixA = netip.MustParsePrefix("10.77.0.1/30")
	prefixB = netip.MustParsePrefix("10.77.0.2/30")
)

// The sizes that a TUN interface for IPv4 can have.
const (
	minMTU     = 68
	maxMTU     = 65535
	defaultMTU = 1500
)

// NewPath makes two hosts and joins them. It needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and /dev/net/tun; elsewhere than on Linux its
// error wraps errors.ErrUnsupported. Close the path when done.
func NewPath(cfg PathConfig) (*Path, error) {
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.MTU < minMTU || cfg.MTU > maxMTU {
		return nil, fmt.Errorf("emulated path: MTU %d: want %d to %d", cfg.MTU, minMTU, maxMTU)
	}
	if err := (&Link{cfg.Up, cfg.Down}).validate(); err != nil {
		return nil, fmt.Errorf("emulated path: %w", err)
	}
	a, err := newHost(prefixA, cfg.MTU)
	if err != nil {
		return nil, fmt.Errorf("emulated path: %w", hint(err))
	}
	b, err := newHost(prefixB, cfg.MTU)
	if err != nil {
		a.close()
		return nil, fmt.Errorf("emulated path: %w", hint(err))
	}
	p := &Path{A: a, B: b}
	p.up = newLine(cfg.Up, cfg.Seed, bestAlarm(), b.put)
	p.down = newLine(cfg.Down, cfg.Seed+1, bestAlarm(), a.put)
	p.readers.Go(func() { a.pump(p.up) })
	p.readers.Go(func() { b.pump(p.down) })
	return p, nil
}

// hint tells who is refused what would help.
func hint(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (this needs root)", err)
	}
	return err
}

// Set changes what the path does to packets that come to it from now on.
func (p *Path) Set(up, down Impairment) error {
	if err := (&Link{up, down}).validate(); err != nil {
		return err
	}
	p.up.set(up)
	p.down.set(down)
	return nil
}

// Stats counts what happened to packets from A to B and from B to A.
func (p *Path) Stats() (up, down Stats) { return p.up.stats(), p.down.stats() }

// Close takes the path away and drops what is on it. Processes in the hosts go on without a network; the namespaces are gone when
// the last of them has ended. It is called once.
func (p *Path) Close() error {
	err := errors.Join(p.A.tun.Close(), p.B.tun.Close())
	p.readers.Wait()
	p.up.close()
	p.down.close()
	return errors.Join(err, p.A.ns.Close(), p.B.ns.Close())
}

func newHost(prefix netip.Prefix, mtu int) (*Host, error) {
	ns, err := sys.NewNetNS()
	if err != nil {
		return nil, err
	}
	h := &Host{Addr: prefix.Addr(), ns: ns}
	err = h.In(func() error {
		h.tun, err = sys.TUN("netem0", prefix, mtu)
		return err
	})
	if err != nil {
		ns.Close()
		return nil, err
	}
	return h, nil
}

// In calls fn in the host's network: sockets that fn makes live there, also after it has returned. It doesn't hold for goroutines that fn
// starts, nor for what needs such, as a look-up of names does.
func (h *Host) In(fn func() error) error { return sys.InNetNS(h.ns, fn) }

// Start starts cmd in the host's network. The caller waits for it as usual.
func (h *Host) Start(cmd *exec.Cmd) error { return h.In(cmd.Start) }

// pump puts on the line what the host sends, until the interface is closed.
func (h *Host) pump(l *line[struct{}]) {
	b := make([]byte, maxMTU)
	for {
		n, err := h.tun.Read(b)
		if err != nil {
			return
		}
		l.send(b[:n], ecnOf(b[:n]), struct{}{})
	}
}

// put hands a packet to the host. The kernel refuses what isn't IP any more after a flipped bit: that packet is lost, as it would be
// at a router.
func (h *Host) put(b []byte, ecn ECN, _ struct{}) {
	setECN(b, ecn)
	_, _ = h.tun.Write(b)
}

func (h *Host) close() {
	h.tun.Close()
	h.ns.Close()
}
