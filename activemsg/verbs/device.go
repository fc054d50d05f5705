package verbs

import "fmt"

// A Provider finds devices. Its methods are safe for concurrent use.
type Provider interface {
	// Name is "libibverbs" or "sim".
	Name() string

	// Devices lists what there is. If the provider can't work here at all the error wraps ErrUnavailable and says why.
	Devices() ([]DeviceInfo, error)

	// Open opens a device by name. Each Open makes a Device of its own.
	Open(name string) (Device, error)
}

// DeviceInfo is what is known of a device that isn't open.
type DeviceInfo struct {
	Name      string // "mlx5_0", "rxe0"
	Transport Transport
}

// A Device is an open device. Its methods are safe for concurrent use; what it makes must be closed before it is. Every Close in this package
// can be called again.
type Device interface {
	Name() string

	// Limits says what the device can do at most.
	Limits() Limits

	// Port asks for the state of a port; they are numbered from 1 to Limits.Ports.
	Port(n int) (Port, error)

	// GIDs lists the addresses of a port, those that are set. Their Index is not always their place in the list.
	GIDs(port int) ([]GIDEntry, error)

	// NewPD makes a protection domain.
	NewPD() (PD, error)

	// NewCQ makes a completion queue for at least depth completions that are not polled yet.
	NewCQ(depth int) (CQ, error)

	// NextEvent waits for an event of the device and returns ErrClosed after Close. One goroutine at a time calls it.
	NextEvent() (Event, error)

	Close() error
}

// Limits are what a device can do at most.
type Limits struct {
	Ports     int
	QueueWR   int // requests in each queue of a queue pair
	SGE       int // pieces of memory of a request, at most MaxSGE
	CQE       int // completions in a queue
	RegionLen uint64
}

// Port is the state of a port.
type Port struct {
	State     PortState
	LinkLayer LinkLayer
	MaxMTU    int // of the path, in bytes: 256 ... 4096
	ActiveMTU int
	LID       uint16 // InfiniBand's own address, 0 on Ethernet
}

// A PD is a protection domain: queue pairs use only regions of the same one. Its methods are safe for concurrent use.
type PD interface {
	// Register makes mem known to the device. It must not be memory of the Go heap, and must stay mapped until the region is closed.
	Register(mem []byte, access Access) (Region, error)

	// NewQP makes a queue pair that can be posted receives.
	NewQP(cfg QPConfig) (QP, error)

	Close() error
}

// A Region is registered memory.
type Region interface {
	// LKey names it in requests of this process, RKey in those of peers.
	LKey() uint32
	RKey() uint32
	// Close takes it back: when it returns, no peer reads or writes it any more. Requests that use it fail.
	Close() error
}

// Access is what may be done to a region, beside reading it locally.
type Access uint8

// Access rights. RemoteWrite needs LocalWrite.
const (
	LocalWrite Access = 1 << iota
	RemoteWrite
)

// A Transport is what a device speaks.
type Transport uint8

// Transports.
const (
	TransportUnknown Transport = iota
	TransportIB                // InfiniBand's, on its own links or on Ethernet (RoCE)
	TransportIWARP             // RDMA over TCP
)

// String names the transport as it is shown to users.
func (t Transport) String() string {
	switch t {
	case TransportIB:
		return "InfiniBand"
	case TransportIWARP:
		return "iWARP"
	}
	return "unknown transport"
}

// A LinkLayer is what is below.
type LinkLayer uint8

// Link layers.
const (
	LinkUnknown LinkLayer = iota
	LinkInfiniBand
	LinkEthernet
)

// String names the link layer as sysfs does.
func (l LinkLayer) String() string {
	switch l {
	case LinkInfiniBand:
		return "InfiniBand"
	case LinkEthernet:
		return "Ethernet"
	}
	return "unknown link layer"
}

// A PortState is one of those of the InfiniBand specification.
type PortState uint8

// States of a port. Only an active one carries data.
const (
	PortNop PortState = iota
	PortDown
	PortInit
	PortArmed
	PortActive
	PortActiveDefer
)

// String names the state.
func (s PortState) String() string {
	switch s {
	case PortNop:
		return "unknown"
	case PortDown:
		return "down"
	case PortInit:
		return "initializing"
	case PortArmed:
		return "armed"
	case PortActive:
		return "active"
	case PortActiveDefer:
		return "deferred"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// An Event is news of a device, not of a single request.
type Event struct {
	Kind EventKind
	Port int // of EventPortUp and EventPortDown
}

// An EventKind says what happened.
type EventKind uint8

// Kinds of events.
const (
	EventOther      EventKind = iota // nothing that matters to queue pairs as a whole
	EventPortUp                      // the port is active
	EventPortDown                    // and isn't any more
	EventPortChange                  // its addresses changed
	EventFatal                       // the device is gone
)

// String names the event.
func (k EventKind) String() string {
	switch k {
	case EventPortUp:
		return "port up"
	case EventPortDown:
		return "port down"
	case EventPortChange:
		return "port changed"
	case EventFatal:
		return "device gone"
	}
	return "other event"
}
