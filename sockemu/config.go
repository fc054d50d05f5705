package sockemu

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/sockemu/sockemu/internal/endpoint"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	shm "github.com/sockemu/sockemu/substrate_shm"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
	udp "github.com/sockemu/sockemu/substrate_udp"
	verbs "github.com/sockemu/sockemu/substrate_verbs"
)

// Security says how peers are checked and what of the traffic is protected.
type Security uint8

const (
	// SecurityDefault is SecurityAuth if there is a cluster key and SecurityNone if not.
	SecurityDefault Security = iota
	// SecurityNone: anybody may open a connection. Resuming one still takes its secret, which is agreed on at set-up (X25519):
	// knowing a GID is not enough.
	SecurityNone
	// SecurityAuth: besides, both sides must have the cluster key. Application bytes travel in clear.
	SecurityAuth
	// SecurityEncrypt: besides, everything is encrypted and authenticated (AES-256-GCM), with the cluster key if there is one.
	SecurityEncrypt
)

// String names the level as flags do.
func (s Security) String() string {
	switch s {
	case SecurityNone:
		return "none"
	case SecurityAuth:
		return "auth"
	case SecurityEncrypt:
		return "encrypt"
	}
	return "default"
}

// Fallback says what Dial does with a peer that doesn't speak sockemu.
type Fallback uint8

const (
	// FallbackDefault is FallbackPlain, but FallbackForbid with a cluster key or encryption: security is never downgraded in
	// silence.
	FallbackDefault Fallback = iota
	// FallbackPlain: use plain TCP, without any of the layer's promises. Conn.Explain says so.
	FallbackPlain
	// FallbackForbid: fail with ErrNotSockemu.
	FallbackForbid
)

// Config holds everything that can be tuned. The zero Config is good.
type Config struct {
	// Patience is how long a connection may be without a path before it ends with ErrPatience. Default 10 minutes; days
	// are fine.
	Patience time.Duration
	// Linger is how long Close waits until the peer has everything. Default 10 s. See Conn.SetLinger.
	Linger time.Duration
	// SendBuffer bounds what a connection keeps for replay, in bytes; Write blocks at the bound. Default 32 MiB, taken only as
	// needed.
	SendBuffer int
	// RecvBuffer bounds what has arrived and wasn't read, while a link carries framed data (encryption, no control channel).
	// Default 16 MiB. With bare links the kernel's socket buffer does this.
	RecvBuffer int
	// MemoryBudget bounds the buffers of all connections of the endpoint together, in bytes. Default 1 GiB; every connection
	// keeps a minimum of 64 KiB.
	MemoryBudget int64
	// AckEvery and AckDelay: an acknowledgement leaves after so many bytes or so much time. Defaults 256 KiB and 20 ms.
	AckEvery int
	AckDelay time.Duration
	// DeadAfter is how long a path may fail to deliver before another one is sought. Default 3 s; below a second is fine.
	DeadAfter time.Duration
	// KeepAlive is how often an idle peer process is asked for a sign of life, and KeepAliveDead the silence after which the
	// path to it counts as broken. Defaults 5 s and 3*KeepAlive.
	KeepAlive, KeepAliveDead time.Duration
	// GoneAfter is how long the peer's address may answer "no such connection" before the connection ends with ErrPeerGone.
	// Default 5 s; it must have been said eight times in a row, too, since a load balancer may pick the wrong process.
	GoneAfter time.Duration
	// RetryMin and RetryMax bound the back-off between attempts to get a new link. Defaults 20 ms and 2 s.
	RetryMin, RetryMax time.Duration
	// HandshakeTimeout bounds one set-up. Default 5 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the set-ups in progress on the accepting side; more are told to come back. Default 1024.
	MaxHandshakes int

	// ClusterKey is shared by all processes that may connect to each other. Any length; use at least 32 random bytes.
	ClusterKey []byte
	// Security: see there.
	Security Security
	// Fallback: see there. FallbackTimeout bounds the wait for a silent peer's first answer; default 2 s. What was found is
	// remembered per address for FallbackCache; default 1 minute.
	Fallback                       Fallback
	FallbackTimeout, FallbackCache time.Duration
	// AcceptPlain makes listeners serve clients that don't speak sockemu, over plain TCP. PlainWait is how long a client that
	// says nothing is given before it is taken for one of them; default 300 ms.
	AcceptPlain bool
	PlainWait   time.Duration

	// Substrates says what may carry the connections, in the words of selector.ParsePolicy: "auto" (what is measured decides, the
	// default), "tcp" or "pin:shm,tcp" (one of these, or an error), "prefer:shm", "!shm". Every connection begins on TCP, with
	// which it is usable at once, and moves as soon as a better path has been measured; a pinned one before Dial returns.
	// UDP takes part only where it is named, at both ends ("pin:tcp,shm,udp"): kernel TCP still moves more bytes, which a
	// short measurement doesn't always show. The environment variable SOCKEMU_SUBSTRATE says it for programs that don't. Both ends'
	// policies hold.
	Substrates string
	// Rules names a file with policies for single peers (selector.ParseRules), which go before Substrates. The environment
	// variable SOCKEMU_RULES says it for programs that don't.
	Rules string
	// SHM tunes shared memory, which carries connections within a host; UDP the reliable protocol over UDP; Verbs RDMA, where there is
	// a device.
	SHM   shm.Options
	UDP   udp.Options
	Verbs verbs.Options
	// Private keeps the endpoint out of `sockemu ls` and `sockemu probe why`: no control socket is opened.
	Private bool

	// TCP tunes the sockets.
	TCP tcp.Options
	// Logger gets one line per event in the life of a connection, never one per message. Nil discards.
	Logger *slog.Logger
}

func (c Config) sealed() bool { return c.Security == SecurityEncrypt }

func (c Config) mayFallBack() bool {
	if c.Fallback == FallbackDefault {
		return len(c.ClusterKey) == 0 && !c.sealed()
	}
	return c.Fallback == FallbackPlain
}

func (c Config) session() session.Config {
	return session.Config{
		Patience: c.Patience, Linger: c.Linger, SendBuffer: c.SendBuffer, RecvBuffer: c.RecvBuffer, AckEvery: c.AckEvery,
		AckDelay: c.AckDelay, DeadAfter: c.DeadAfter, GoneAfter: c.GoneAfter, RetryMin: c.RetryMin, RetryMax: c.RetryMax,
		Seal: c.sealed(), Logger: c.Logger,
	}
}

// Environment variables that stand in for fields of Config that are empty.
const (
	substrateVar = "SOCKEMU_SUBSTRATE"
	rulesVar     = "SOCKEMU_RULES"
)

// policies returns what Substrates and Rules say about a peer that is known by addr.
// udpWanted says whether any of it asks for UDP.
func (c Config) policies() (policy func(addr string) selector.Policy, udpWanted bool, err error) {
	text := cmp.Or(c.Substrates, os.Getenv(substrateVar))
	general, err := selector.ParsePolicy(text)
	if err == nil {
		err = general.Check(substrates...)
	}
	if err != nil {
		return nil, false, fmt.Errorf("substrates (Config.Substrates, %s): %w", substrateVar, err)
	}
	var rules selector.Rules
	if name := cmp.Or(c.Rules, os.Getenv(rulesVar)); name != "" {
		f, err := os.Open(name)
		if err != nil {
			return nil, false, fmt.Errorf("rules (Config.Rules, %s): %w", rulesVar, err)
		}
		defer f.Close()
		if rules, err = selector.ParseRules(f); err == nil {
			err = rules.Check(substrates...)
		}
		if err != nil {
			return nil, false, fmt.Errorf("rules in %s: %w", name, err)
		}
	}
	return func(addr string) selector.Policy {
		if p, ok := rules.Find(addr); ok {
			return p
		}
		return general
	}, general.Wants("udp") || rules.Wants("udp"), nil
}

// substrates are the names that policies may use.
var substrates = []string{"tcp", "shm", "udp", "verbs"}

// endpoint is what the layer below needs. policy stands in for Substrates and Rules.
func (c Config) endpoint(policy func(addr string) selector.Policy, udpWanted bool, rdma *verbs.Substrate) endpoint.Config {
	others := []endpoint.Other{{Substrate: shm.New(c.SHM)}, {Substrate: rdma, Listen: ":0"}}
	if udpWanted {
		others = append(others, endpoint.Other{Substrate: udp.New(c.UDP), Listen: ":0"})
	}
	return endpoint.Config{
		Session: c.session(), Substrate: tcp.New(c.TCP), ClusterKey: c.ClusterKey, HandshakeTimeout: c.HandshakeTimeout,
		MaxHandshakes: c.MaxHandshakes, KeepAlive: c.KeepAlive, KeepAliveDead: c.KeepAliveDead, MemoryBudget: c.MemoryBudget,
		Policy: policy, Others: others,
	}
}
