// Package peers has what others made as something to measure: a stream each of their connections.
package peers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sockemu/sockemu/bench"
)

// QUIC is one bidirectional stream of a QUIC connection of quic-go: "peer:quic". It is always encrypted (TLS 1.3), with a certificate
// that is made at once and that nobody checks.
func QUIC() bench.Transport { return bench.Via("peer:quic", "udp", dialQUIC, listenQUIC) }

const protocol = "sockemu-bench"

// quicConfig gives the library the windows that it needs to be as fast as it can be.
func quicConfig() *quic.Config {
	const window = 8 << 20
	return &quic.Config{
		InitialStreamReceiveWindow: window, MaxStreamReceiveWindow: 2 * window,
		InitialConnectionReceiveWindow: window, MaxConnectionReceiveWindow: 2 * window,
		MaxIdleTimeout: 10 * time.Minute,
	}
}

func dialQUIC(ctx context.Context, _, address string) (net.Conn, error) {
	// The connection would end with the context of its dial if that were used for both.
	c, err := quic.DialAddr(ctx, address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}, quicConfig())
	if err != nil {
		return nil, err
	}
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		c.CloseWithError(0, "")
		return nil, err
	}
	return &quicConn{c, s}, nil
}

// A quicConn is one stream with its connection.
type quicConn struct {
	conn *quic.Conn
	*quic.Stream
}

func (c *quicConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c *quicConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Read returns io.EOF when the peer has closed.
func (c *quicConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if closed := (*quic.ApplicationError)(nil); errors.As(err, &closed) && closed.ErrorCode == 0 {
		err = io.EOF
	}
	return n, err
}

func (c *quicConn) Close() error {
	c.Stream.CancelRead(0)
	c.Stream.Close()
	return c.conn.CloseWithError(0, "")
}

// A quicListener accepts the first stream of each connection. A stream is seen only when its client has sent something, so many are
// waited for at a time.
type quicListener struct {
	ln     *quic.Listener
	conns  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

func listenQUIC(_ context.Context, _, address string) (net.Listener, error) {
	certificate, err := selfSigned()
	if err != nil {
		return nil, err
	}
	ln, err := quic.ListenAddr(address, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{protocol}}, quicConfig())
	if err != nil {
		return nil, err
	}
	l := &quicListener{ln: ln, conns: make(chan net.Conn)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.work.Go(l.loop)
	return l, nil
}

func (l *quicListener) loop() {
	for {
		c, err := l.ln.Accept(l.ctx)
		if err != nil {
			return
		}
		l.work.Go(func() {
			s, err := c.AcceptStream(l.ctx)
			if err != nil {
				c.CloseWithError(0, "")
				return
			}
			select {
			case l.conns <- &quicConn{c, s}:
			case <-l.ctx.Done():
				c.CloseWithError(0, "")
			}
		})
	}
}

func (l *quicListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *quicListener) Addr() net.Addr { return l.ln.Addr() }

// Close stops accepting.
func (l *quicListener) Close() error {
	l.cancel()
	err := l.ln.Close()
	l.work.Wait()
	return err
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
