package sockemu

import (
	"context"
	"net"

	"github.com/sockemu/sockemu/internal/endpoint"
)

// Listener accepts connections. It is a net.Listener; its methods are safe for concurrent use.
type Listener struct {
	e       *Endpoint
	l       *endpoint.Listener
	network string
}

var _ net.Listener = (*Listener)(nil)

// Listen listens at address, a "host:port", on network "tcp", "tcp4" or "tcp6". With port 0 the system picks one.
func (e *Endpoint) Listen(ctx context.Context, network, address string) (*Listener, error) {
	fail := func(err error) (*Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: textAddr(address), Err: err}
	}
	target, err := resolve(ctx, network, address, true)
	if err != nil {
		return fail(err)
	}
	e.control()
	l, err := e.e.Listen(ctx, target, endpoint.Plain{Accept: e.cfg.AcceptPlain, Wait: e.cfg.PlainWait})
	if err != nil {
		return fail(err)
	}
	return &Listener{e: e, l: l, network: network}, nil
}

// Accept waits for the next connection; the result is a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptConn waits for the next connection. After Close it returns an error that matches net.ErrClosed.
func (l *Listener) AcceptConn() (*Conn, error) {
	a, err := l.l.Accept()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: l.network, Addr: l.Addr(), Err: err}
	}
	if a.Session != nil {
		return newConn(l.e, a.Session), nil
	}
	nc := a.Link.(interface{ NetConn() net.Conn }).NetConn()
	return newPlainConn(l.e, nc, a.Head, "the client does not speak sockemu"), nil
}

// Close stops accepting: new connections are refused and those that nobody has accepted yet are reset. Accepted ones live
// on and can still resume here: the port is freed with the last of them. Use Free to free it at once.
func (l *Listener) Close() error { return l.wrap(l.l.Close()) }

// Free closes the listener and frees its port at once. Connections that it accepted live on their present links, but can't
// resume here any more unless another process takes the port over.
func (l *Listener) Free() error { return l.wrap(l.l.Free()) }

func (l *Listener) wrap(err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: "close", Net: l.network, Addr: l.Addr(), Err: err}
}

// Addr returns the address that clients dial.
func (l *Listener) Addr() net.Addr { return l.l.Addr() }

// ListenConfig has the method that other packages want of one. The zero ListenConfig uses the Default endpoint.
type ListenConfig struct {
	// Endpoint; nil means Default.
	Endpoint *Endpoint
}

// Listen listens at address: see Endpoint.Listen.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	listen := Listen
	if lc.Endpoint != nil {
		listen = lc.Endpoint.Listen
	}
	l, err := listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return l, nil
}
