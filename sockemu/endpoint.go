package sockemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/control"
	"github.com/sockemu/sockemu/internal/endpoint"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	verbs "github.com/sockemu/sockemu/substrate_verbs"
)

// Errors to compare with errors.Is. The ends of connections also match the system errors that programs check for:
// ErrReset and ErrPeerGone match syscall.ECONNRESET, ErrPeerClosed matches syscall.EPIPE, ErrPatience is a time-out.
var (
	ErrNotSockemu  = endpoint.ErrNotSockemu
	ErrPatience    = session.ErrPatience
	ErrReset       = session.ErrReset
	ErrPeerGone    = session.ErrPeerGone
	ErrPeerClosed  = session.ErrPeerClosed
	ErrFenced      = session.ErrFenced
	ErrDesync      = session.ErrDesync
	ErrProtocol    = session.ErrProtocol
	ErrExported    = session.ErrExported
	ErrUndelivered = session.ErrUndelivered

	ErrStateDamaged  = session.ErrStateDamaged
	ErrStateVersion  = session.ErrStateVersion
	ErrStateReplayed = session.ErrStateReplayed

	// ErrPlain: this connection is plain TCP, to a peer that doesn't speak sockemu; it can't do that.
	ErrPlain = errors.New("a plain TCP connection can't be exported")
)

// EndError is the error of a connection that has ended: which one, why, and how many bytes are not known to have arrived.
type EndError = session.EndError

// RefusedError says why a peer's process refused a connection.
type RefusedError = session.RefusedError

// Endpoint is a process's end of its connections: identity, control channels, configuration, memory budget. Most programs use the
// Default one through the package's functions. Its methods are safe for concurrent use.
type Endpoint struct {
	cfg    Config
	e      *endpoint.Endpoint
	policy atomic.Pointer[func(addr string) selector.Policy]
	open   sync.Once       // the control socket
	ctl    *control.Server // nil without one
	rdma   *verbs.Substrate

	mu    sync.Mutex
	plain map[string]time.Time // addresses found not to speak sockemu, until when
	speak map[string]struct{}  // addresses found to speak it: never downgraded
}

// maxCached bounds the caches of what was found at an address.
const maxCached = 4096

// NewEndpoint returns an endpoint with a fresh identity.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	if cfg.Security == SecurityAuth && len(cfg.ClusterKey) == 0 {
		return nil, &substrate.Error{Op: "configure the endpoint", Class: substrate.Config, Err: errors.New("SecurityAuth needs a ClusterKey")}
	}
	if cfg.Security == SecurityNone {
		cfg.ClusterKey = nil
	}
	if cfg.FallbackTimeout <= 0 {
		cfg.FallbackTimeout = 2 * time.Second
	}
	if cfg.FallbackCache <= 0 {
		cfg.FallbackCache = time.Minute
	}
	policy, udpWanted, err := cfg.policies()
	if err != nil {
		return nil, configError(err)
	}
	e := &Endpoint{cfg: cfg, plain: make(map[string]time.Time), speak: make(map[string]struct{})}
	e.policy.Store(&policy)
	e.rdma = verbs.New(cfg.Verbs)
	e.e = endpoint.New(cfg.endpoint(e.pins, udpWanted, e.rdma))
	return e, nil
}

func configError(err error) error {
	return &substrate.Error{Op: "configure the endpoint", Class: substrate.Config, Err: err}
}

// pins is what the configuration says about the peer at addr.
func (e *Endpoint) pins(addr string) selector.Policy { return (*e.policy.Load())(addr) }

// SetSubstrates changes Config.Substrates while connections are open; a rules file is read again. Connections leave paths that are
// not admitted any more at once, and may move to those that are now. What UDP needs can't be opened later: it must have been named
// before, or in a rule.
func (e *Endpoint) SetSubstrates(text string) error {
	cfg := e.cfg
	cfg.Substrates = text
	policy, _, err := cfg.policies()
	if err != nil {
		return configError(err)
	}
	e.policy.Store(&policy)
	e.e.PolicyChanged()
	return nil
}

// defaultEndpoint's error is about the environment: the zero Config is valid.
var defaultEndpoint = sync.OnceValues(func() (*Endpoint, error) { return NewEndpoint(Config{}) })

// Default returns the endpoint that the package's functions use; it is made at the first call. It panics if SOCKEMU_SUBSTRATE or SOCKEMU_RULES
// can't be understood, where Dial, Listen and the others return that as an error.
func Default() *Endpoint {
	e, err := defaultEndpoint()
	if err != nil {
		panic(err)
	}
	return e
}

// Dial connects to address with the Default endpoint: see Endpoint.Dial.
func Dial(ctx context.Context, network, address string) (*Conn, error) {
	e, err := defaultEndpoint()
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr(address), Err: err}
	}
	return e.Dial(ctx, network, address)
}

// Listen listens at address with the Default endpoint: see Endpoint.Listen.
func Listen(ctx context.Context, network, address string) (*Listener, error) {
	e, err := defaultEndpoint()
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: textAddr(address), Err: err}
	}
	return e.Listen(ctx, network, address)
}

// Import continues an exported connection with the Default endpoint: see Endpoint.Import.
func Import(ctx context.Context, state []byte) (*Conn, error) {
	e, err := defaultEndpoint()
	if err != nil {
		return nil, fmt.Errorf("sockemu: import: %w", err)
	}
	return e.Import(ctx, state)
}

// Close ends every connection of the endpoint with a reset, frees its ports, and waits for its goroutines.
func (e *Endpoint) Close() error {
	err := e.e.Close()
	e.rdma.Close()
	e.open.Do(func() {}) // none is opened any more
	if e.ctl != nil {
		e.ctl.Close()
	}
	return err
}

// resolve checks the network and picks an address of the family it demands.
func resolve(ctx context.Context, network, address string, listen bool) (string, error) {
	family := ""
	switch network {
	case "tcp":
		return address, nil
	case "tcp4":
		family = "ip4"
	case "tcp6":
		family = "ip6"
	default:
		return "", net.UnknownNetworkError(network)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if host == "" {
		switch {
		case listen && family == "ip4":
			host = "0.0.0.0"
		case listen:
			host = "::"
		default:
			host = "localhost"
		}
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, family, host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(ips[0].Unmap().String(), port), nil
}

// Dial opens a connection to address, a "host:port", over network "tcp", "tcp4" or "tcp6". It returns when the peer has
// answered: one round trip more than TCP's. A peer that doesn't speak sockemu is found out by its first answer, or by its
// silence for FallbackTimeout; then Dial connects again, plainly, and remembers it for FallbackCache, unless the configuration
// forbids it. Once an address has spoken sockemu it is never downgraded: if a link to it breaks before an answer Dial tries again, some times.
//
// Errors are *net.OpError around: ErrNotSockemu, *RefusedError, or a *substrate.Error with its class.
func (e *Endpoint) Dial(ctx context.Context, network, address string) (*Conn, error) {
	fail := func(err error) (*Conn, error) {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
			err = timeoutError{err}
		}
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr(address), Err: err}
	}
	target, err := resolve(ctx, network, address, false)
	if err != nil {
		return fail(err)
	}
	e.control()
	pin := e.pins(target)
	may := e.cfg.mayFallBack() && pin.Allows("tcp")
	if may && e.knownPlain(address) {
		return e.dialPlain(ctx, network, address, "known not to speak sockemu")
	}
	s, err := e.dial(ctx, target, address)
	if err == nil {
		e.remember(address)
		if err := e.e.AwaitPolicy(ctx, s); err != nil {
			s.Abort(net.ErrClosed, "the policy can't be met")
			return fail(err)
		}
		return newConn(e, s), nil
	}
	if errors.Is(err, ErrNotSockemu) && may && !e.knownSpeaker(address) && ctx.Err() == nil {
		return e.dialPlain(ctx, network, address, err.Error())
	}
	return fail(err)
}

// How often a peer that is known to speak sockemu is asked again if a link to it ends unanswered, and after which pauses: that long a process may
// take to get through a crowd that has overrun its port.
const (
	crowdTries = 5
	crowdPause = 20 * time.Millisecond // doubled each time
)

// dial opens a session to target, which is address resolved.
func (e *Endpoint) dial(ctx context.Context, target, address string) (*session.Session, error) {
	s, err := e.e.Dial(ctx, target, e.answerTimeout(address))
	pause := crowdPause
	for range crowdTries {
		// Whoever was asked at the same time may have got an answer meanwhile.
		if !errors.Is(err, endpoint.ErrUnanswered) || !e.knownSpeaker(address) || ctx.Err() != nil {
			break
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
		pause *= 2
		s, err = e.e.Dial(ctx, target, 0)
	}
	return s, err
}

// timeoutError is for net.OpError.Timeout, which looks no deeper than the error it holds, and for programs that compare: whether
// the context or the deadline that it sets on the link is noticed first is chance.
type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
func (e timeoutError) Unwrap() error { return e.error }

// Is matches both errors of deadlines.
func (timeoutError) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

// answerTimeout is how long a connected peer may be silent before it is taken for one that doesn't speak sockemu; 0: as long as a
// handshake may take, and then it is an error.
func (e *Endpoint) answerTimeout(address string) time.Duration {
	if e.knownSpeaker(address) || !e.cfg.mayFallBack() {
		return 0
	}
	return e.cfg.FallbackTimeout
}

func (e *Endpoint) dialPlain(ctx context.Context, network, address, why string) (*Conn, error) {
	var d net.Dialer
	if e.cfg.TCP.Dialer != nil {
		d = *e.cfg.TCP.Dialer
	}
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	if len(e.plain) >= maxCached {
		clear(e.plain)
	}
	if _, ok := e.plain[address]; !ok {
		e.plain[address] = time.Now().Add(e.cfg.FallbackCache)
	}
	e.mu.Unlock()
	e.e.CountPlain()
	e.logger().Info("fell back to plain TCP", "addr", address, "why", why)
	return newPlainConn(e, nc, nil, why), nil
}

func (e *Endpoint) logger() *slog.Logger { return e.e.Config().Session.Logger }

func (e *Endpoint) knownPlain(address string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	until, ok := e.plain[address]
	if ok && time.Now().After(until) {
		delete(e.plain, address)
		ok = false
	}
	return ok
}

func (e *Endpoint) knownSpeaker(address string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.speak[address]
	return ok
}

func (e *Endpoint) remember(address string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.speak) >= maxCached {
		clear(e.speak)
	}
	e.speak[address] = struct{}{}
}

// Import continues, in this process, a connection that Conn.Export took out of another one. It returns at once; Reads and
// Writes wait until the two ends have found each other: the end that had dialled dials again, and the end that had accepted waits
// at its listener, or dials if the peer had one. The error matches ErrStateDamaged, ErrStateVersion or ErrStateReplayed.
func (e *Endpoint) Import(ctx context.Context, state []byte) (*Conn, error) {
	return e.importConn(ctx, state, false)
}

func (e *Endpoint) importConn(ctx context.Context, state []byte, hold bool) (*Conn, error) {
	s, err := e.e.Import(ctx, state, hold)
	if err != nil {
		return nil, fmt.Errorf("sockemu: import: %w", err)
	}
	return newConn(e, s), nil
}

// A Dialer has the methods that other packages want of one: DialContext for net/http, and the like. The zero Dialer
// uses the Default endpoint.
type Dialer struct {
	// Endpoint; nil means Default.
	Endpoint *Endpoint
	// Timeout bounds each Dial; 0 means only the context does.
	Timeout time.Duration
}

// Dial connects without a context.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects: see Endpoint.Dial.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	dial := Dial
	if d.Endpoint != nil {
		dial = d.Endpoint.Dial
	}
	c, err := dial(ctx, network, address)
	if err != nil {
		return nil, err // not a nil *Conn in a non-nil interface
	}
	return c, nil
}

// DialAddr connects over "tcp"; it is what grpc.WithContextDialer takes.
func (d *Dialer) DialAddr(ctx context.Context, address string) (net.Conn, error) {
	return d.DialContext(ctx, "tcp", address)
}

// textAddr is an address as it was given, for errors.
type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }
