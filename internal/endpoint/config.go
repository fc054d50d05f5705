package endpoint

import (
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
)

// Config holds the tunables of an endpoint. Zero fields take the defaults, except Substrate, which is needed.
type Config struct {
	// Session is the configuration of every connection.
	Session session.Config
	// Substrate makes the first link of every connection, and those that no other substrate makes: it is what the addresses of Dial
	// and Listen are for.
	Substrate substrate.Substrate
	// Others are substrates that a connection may move to.
	Others []Other
	// Policy says which substrates may be used with the peer at an address; nil: any.
	Policy func(addr string) selector.Policy
	// Choice configures the choice between them. Zero fields take the defaults.
	Choice selector.Config
	// ClusterKey, if not empty, must be the same on both sides; peers without it are refused.
	ClusterKey []byte
	// HandshakeTimeout bounds one handshake. Default 5 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the handshakes in progress on the accepting side; more are told to come back. Default 1024.
	MaxHandshakes int
	// Backlog bounds the connections waiting for Accept, per listener. Default 1024.
	Backlog int
	// KeepAlive is how often a silent control channel is asked for a sign of life; KeepAliveDead is the silence after which
	// it is given up and replaced. Defaults 5 s and 15 s.
	KeepAlive, KeepAliveDead time.Duration
	// MemoryBudget bounds the send and receive buffers of all connections together, in bytes. Beyond it every connection keeps a
	// minimum of 64 KiB. Default 1 GiB.
	MemoryBudget int64
	// Remember is how long an ended connection still answers its peer. Default 30 s.
	Remember time.Duration
	// NoWatch leaves changes of the host's interfaces, addresses and routes unnoticed until the next probes.
	NoWatch bool
	// NoSharing keeps the endpoint from sharing pages of memory with processes on the same host.
	NoSharing bool
}

func (c Config) withDefaults() Config {
	if c.KeepAlive > 0 {
		c.Session.KeepAlive = c.KeepAlive
	}
	c.Session = c.Session.WithDefaults()
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.HandshakeTimeout, 5*time.Second)
	def(&c.KeepAlive, 5*time.Second)
	def(&c.KeepAliveDead, 3*c.KeepAlive)
	def(&c.Remember, 30*time.Second)
	if c.MaxHandshakes <= 0 {
		c.MaxHandshakes = 1024
	}
	if c.Backlog <= 0 {
		c.Backlog = 1024
	}
	if c.MemoryBudget <= 0 {
		c.MemoryBudget = 1 << 30
	}
	return c
}

// Other is a further substrate. If it is an io.Closer it is closed with the endpoint.
type Other struct {
	Substrate substrate.Substrate
	// Listen is where it accepts links, in its own form of addresses, while the endpoint has a Listener. It must let the system
	// choose: there may be many endpoints on a host.
	Listen string
}
