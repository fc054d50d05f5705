package tcp

import (
	"context"
	"errors"
	"net"
	"runtime"
	"syscall"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

const name = "tcp"

// Options tune the connections of a Substrate. The zero value is good.
type Options struct {
	// Dialer is a template for dialling (local address, timeout, resolver, Control); nil is the zero net.Dialer. New copies it.
	Dialer *net.Dialer
	// ListenConfig is a template for listening.
	ListenConfig net.ListenConfig
	// Nagle leaves Nagle's algorithm on. Normally it is off (TCP_NODELAY): the session decides what to send together.
	Nagle bool
	// KeepAlive, if not zero, takes the place of the keep-alive settings in Dialer and ListenConfig.
	KeepAlive net.KeepAliveConfig
	// Congestion names the congestion control algorithm, for example "bbr"; "" is the system's default. Linux only: elsewhere, and
	// if the kernel has no such algorithm, Dial and Listen fail with class Config.
	Congestion string
	// ReadBuffer and WriteBuffer are the sizes of the kernel's buffers in bytes. 0 leaves them to the kernel, which adapts them to
	// the path and is seldom wrong.
	ReadBuffer, WriteBuffer int
}

// Substrate makes links over TCP. It is safe for concurrent use.
type Substrate struct {
	opts   Options
	dialer net.Dialer
	listen net.ListenConfig
}

var _ substrate.Substrate = (*Substrate)(nil)

// New returns a Substrate that makes connections as opts say.
func New(opts Options) *Substrate {
	s := &Substrate{opts: opts, listen: opts.ListenConfig}
	if opts.Dialer != nil {
		s.dialer = *opts.Dialer
	}
	s.dialer.SetMultipathTCP(false)
	s.listen.SetMultipathTCP(false)
	if opts.KeepAlive != (net.KeepAliveConfig{}) {
		s.dialer.KeepAliveConfig, s.dialer.KeepAlive = opts.KeepAlive, 0
		s.listen.KeepAliveConfig, s.listen.KeepAlive = opts.KeepAlive, 0
	}
	// Both are set before the socket connects or listens: then they hold from the first segment on, and accepted
	// connections inherit them.
	s.dialer.ControlContext = s.controlContext(s.dialer.ControlContext, s.dialer.Control)
	s.listen.Control = s.control(s.listen.Control)
	return s
}

// Name returns "tcp".
func (s *Substrate) Name() string { return name }

// Caps returns the zero Caps: a plain byte stream.
func (s *Substrate) Caps() substrate.Caps { return substrate.Caps{} }

// Dial connects to address, a "host:port". When ctx ends first, the error wraps ctx.Err().
func (s *Substrate) Dial(ctx context.Context, address string) (substrate.Link, error) {
	conn, err := s.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, dialError(ctx, address, err)
	}
	return s.link(conn), nil
}

// Listen listens at address, a "host:port"; without a host it listens on all addresses, with port 0 the system picks one.
func (s *Substrate) Listen(ctx context.Context, address string) (substrate.Listener, error) {
	l, err := s.listen.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &substrate.Error{Op: "listen", Substrate: name, Peer: address, Class: listenClass(err), Err: substrate.Cause(err)}
	}
	return &listener{tcp: l, substrate: s}, nil
}

// WrapListener makes a Listener of one that is already open: inherited from another process, or shared.
func (s *Substrate) WrapListener(l net.Listener) substrate.Listener {
	return &listener{tcp: l, substrate: s}
}

// link wraps a new connection and applies what can only be set on a connected one.
func (s *Substrate) link(conn net.Conn) substrate.Link {
	if c, ok := conn.(*net.TCPConn); ok {
		// Errors here mean that the connection is already gone: the first Send or Recv says so with more to tell.
		if s.opts.Nagle {
			c.SetNoDelay(false)
		}
		if runtime.GOOS != "linux" && s.opts.ReadBuffer > 0 {
			c.SetReadBuffer(s.opts.ReadBuffer)
		}
		if runtime.GOOS != "linux" && s.opts.WriteBuffer > 0 {
			c.SetWriteBuffer(s.opts.WriteBuffer)
		}
	}
	return WrapConn(conn)
}

type control = func(network, address string, c syscall.RawConn) error
type controlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error

// controlContext returns a hook that runs the user's own, then ours. As in net.Dialer, a ControlContext hides a Control.
func (s *Substrate) controlContext(userCtx controlContext, user control) controlContext {
	if userCtx == nil {
		ours := s.control(user)
		return func(_ context.Context, network, address string, c syscall.RawConn) error {
			return ours(network, address, c)
		}
	}
	return func(ctx context.Context, network, address string, c syscall.RawConn) error {
		if err := userCtx(ctx, network, address, c); err != nil {
			return err
		}
		return s.setOptions(c)
	}
}

func (s *Substrate) control(user control) control {
	return func(network, address string, c syscall.RawConn) error {
		if user != nil {
			if err := user(network, address, c); err != nil {
				return err
			}
		}
		return s.setOptions(c)
	}
}

func (s *Substrate) setOptions(c syscall.RawConn) error {
	var optErr error
	err := c.Control(func(fd uintptr) {
		if s.opts.Congestion != "" {
			if err := sys.SetTCPCongestion(fd, s.opts.Congestion); err != nil {
				optErr = &optionError{option: "congestion control " + s.opts.Congestion, err: err}
				return
			}
		}
		err := sys.SetSocketBuffers(fd, s.opts.ReadBuffer, s.opts.WriteBuffer)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			optErr = &optionError{option: "buffer sizes", err: err}
		}
	})
	if err != nil {
		return err
	}
	return optErr
}

// A listener accepts links on a TCP socket.
type listener struct {
	tcp       net.Listener
	substrate *Substrate
}

func (l *listener) Accept() (substrate.Link, error) {
	conn, err := l.tcp.Accept()
	if err == nil {
		return l.substrate.link(conn), nil
	}
	if errors.Is(err, net.ErrClosed) {
		return nil, err
	}
	// Out of descriptors or memory, or a client that left before it was accepted: nothing is proved about any path.
	return nil, &substrate.Error{Op: "accept", Substrate: name, Class: substrate.PathSuspect, Err: err}
}

func (l *listener) Addr() net.Addr { return l.tcp.Addr() }

// NetListener returns the listening socket, for an upper layer that hands it to another process.
func (l *listener) NetListener() net.Listener { return l.tcp }

func (l *listener) Close() error { return l.tcp.Close() }
