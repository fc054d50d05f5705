package verbs

import (
	"net/netip"

	"github.com/sockemu/sockemu/activemsg"
)

// A Fabric makes queue pairs. Tests have others than that of the machine.
type Fabric interface {
	// Check returns nil if there is a device, else why there is none, in words. It is cheap.
	Check() error

	// Addrs are the addresses of this host that lead to a device, for a listener that is bound to none.
	Addrs() ([]netip.Addr, error)

	// Open makes one end of a queue pair between two addresses, of which local is one of this host; the end that was dialled says so. It says in words
	// why it can't.
	Open(local, remote netip.Addr, dialled bool) (Half, error)
}

// A Half is one end of a queue pair that doesn't know its other end yet.
type Half interface {
	// Kind says how the ends talk; they must be the same.
	Kind() Kind

	// Info is what the other end must be told, at most MaxInfo bytes.
	Info() []byte

	// Connect makes it a carrier with the end that has said info, which is to be treated as hostile. The Half is used up, also if it fails.
	// Where the ends are joined by TCP, KindIWARP, that which was dialled waits for the other.
	Connect(info []byte) (activemsg.Carrier, error)

	// Close frees a Half that was not connected.
	Close() error

	// String names the device, port and GID, as users are shown them.
	String() string
}

// MaxInfo bounds what Half.Info returns.
const MaxInfo = 512

// Kind is how the two ends of a queue pair talk to each other.
type Kind uint8

// The kinds.
const (
	KindMemory     Kind = iota + 1 // within a process, for tests
	KindRoCEv2                     // UDP on Ethernet
	KindRoCEv1                     // Ethernet without IP
	KindInfiniBand                 //
	KindIWARP                      // TCP
)

// String names the kind as it is shown to users.
func (k Kind) String() string {
	switch k {
	case KindMemory:
		return "memory"
	case KindRoCEv2:
		return "RoCE v2"
	case KindRoCEv1:
		return "RoCE v1"
	case KindInfiniBand:
		return "InfiniBand"
	case KindIWARP:
		return "iWARP"
	}
	return "unknown"
}

// A Lender is a carrier with memory of its own to send from: payload that lies in it isn't copied by Send. Such payload must stay as it is until the
// peer's endpoint is known to have it.
type Lender interface {
	activemsg.Carrier

	// Lend returns n bytes, nil if it has no more. They are gone with the carrier.
	Lend(n int) []byte

	// Return takes them back.
	Return(b []byte)
}
