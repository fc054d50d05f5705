//go:build linux && cgo

package rsocket

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

// The calls have the signatures of their namesakes without r: rsocket(7).
static struct {
	int (*socket)(int, int, int);
	int (*bind)(int, const struct sockaddr *, socklen_t);
	int (*listen)(int, int);
	int (*accept)(int, struct sockaddr *, socklen_t *);
	int (*connect)(int, const struct sockaddr *, socklen_t);
	int (*shutdown)(int, int);
	int (*close)(int);
	ssize_t (*recv)(int, void *, size_t, int);
	ssize_t (*send)(int, const void *, size_t, int);
	int (*poll)(struct pollfd *, nfds_t, int);
	int (*getsockname)(int, struct sockaddr *, socklen_t *);
	int (*setsockopt)(int, int, int, const void *, socklen_t);
} rs;

static const char *rs_load(void) {
	void *h = dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!h)
		return dlerror();
#define LOAD(name) if (!(*(void **)&rs.name = dlsym(h, "r" #name))) return dlerror()
	LOAD(socket); LOAD(bind); LOAD(listen); LOAD(accept); LOAD(connect); LOAD(shutdown); LOAD(close); LOAD(recv); LOAD(send);
	LOAD(poll); LOAD(getsockname); LOAD(setsockopt);
	return NULL;
}

// Go's scheduler sends its threads signals.
#define RETRY(result, call) do result = call; while (result < 0 && errno == EINTR)

// All return -errno on failure.
static int rs_socket(void) {
	int fd = rs.socket(AF_INET, SOCK_STREAM, 0), on = 1;
	if (fd < 0)
		return -errno;
	rs.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	rs.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	return fd;
}
static struct sockaddr_in rs_addr(uint32_t ip, uint16_t port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(ip)};
	return a;
}
static int rs_listen(uint32_t ip, uint16_t port) {
	struct sockaddr_in a = rs_addr(ip, port);
	int fd = rs_socket();
	if (fd < 0)
		return fd;
	if (rs.bind(fd, (struct sockaddr *)&a, sizeof a) || rs.listen(fd, 128)) {
		int e = errno;
		rs.close(fd);
		return -e;
	}
	return fd;
}
static int rs_connect(uint32_t ip, uint16_t port) {
	struct sockaddr_in a = rs_addr(ip, port);
	int fd = rs_socket();
	if (fd < 0)
		return fd;
	if (rs.connect(fd, (struct sockaddr *)&a, sizeof a)) {
		int e = errno;
		rs.close(fd);
		return -e;
	}
	return fd;
}
static int rs_port(int fd) {
	struct sockaddr_in a;
	socklen_t n = sizeof a;
	return rs.getsockname(fd, (struct sockaddr *)&a, &n) ? -errno : ntohs(a.sin_port);
}
static int rs_accept(int fd) {
	int c;
	RETRY(c, rs.accept(fd, NULL, NULL));
	return c < 0 ? -errno : c;
}
// Never with a time-out: before rdma-core 63 an rpoll that has timed out is counted as one that sleeps for ever, and all later ones spin, waiting
// for it to wake up.
static int rs_ready(int fd, short events) {
	struct pollfd p = {.fd = fd, .events = events};
	int n;
	RETRY(n, rs.poll(&p, 1, 0));
	return n < 0 ? -errno : n;
}
static long rs_recv(int fd, void *p, size_t n) {
	long r;
	RETRY(r, rs.recv(fd, p, n, 0));
	return r < 0 ? -errno : r;
}
static long rs_send(int fd, const void *p, size_t n) {
	long r;
	RETRY(r, rs.send(fd, p, n, 0));
	return r < 0 ? -errno : r;
}
static void rs_close(int fd) {
	rs.shutdown(fd, SHUT_RDWR);
	rs.close(fd);
}
*/
import "C"

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/sockemu/sockemu/bench/internal/deadline"
)

// load finds the library, once.
var load = sync.OnceValue(func() error {
	if e := C.rs_load(); e != nil {
		return fmt.Errorf("rsockets need librdmacm.so.1: %s", C.GoString(e))
	}
	devices, err := os.ReadDir("/sys/class/infiniband")
	if err != nil || len(devices) == 0 {
		return errors.New("rsockets need an RDMA device: there is none in /sys/class/infiniband")
	}
	return nil
})

// Available says what is missing to use rsockets on this machine, or nil.
func Available() error { return load() }

// A call that has a deadline and an Accept sleep between two looks: first and most.
const (
	firstNap = 50 * time.Microsecond
	lastNap  = 10 * time.Millisecond
)

type deadlines = deadline.Pair

// Conn is one connection. Read and Write may be called by one goroutine each at a time.
type Conn struct {
	fd            C.int
	local, remote net.Addr
	deadlines
	closed atomic.Bool
	once   sync.Once
}

// Dial connects to address, "ip:port" of IPv4. It isn't interrupted by ctx: librdmacm bounds it by some seconds.
func Dial(ctx context.Context, _, address string) (*Conn, error) {
	if err := errors.Join(ctx.Err(), load()); err != nil {
		return nil, err
	}
	ip, port, err := parse(address)
	if err != nil {
		return nil, err
	}
	fd := C.rs_connect(ip, port)
	if fd < 0 {
		return nil, fail("rconnect", address, int(fd))
	}
	return &Conn{fd: fd, local: addr(""), remote: addr(address)}, nil
}

// Listener accepts connections.
type Listener struct {
	at addr

	mu     sync.Mutex // guards what follows; it isn't held while Accept waits
	fd     C.int
	closed bool
}

// Listen accepts connections at address, "ip:port" of IPv4; port 0 lets the system choose.
func Listen(ctx context.Context, _, address string) (*Listener, error) {
	if err := errors.Join(ctx.Err(), load()); err != nil {
		return nil, err
	}
	ip, port, err := parse(address)
	if err != nil {
		return nil, err
	}
	fd := C.rs_listen(ip, port)
	if fd < 0 {
		return nil, fail("rlisten", address, int(fd))
	}
	got := C.rs_port(fd)
	if got < 0 {
		C.rs_close(fd)
		return nil, fail("rgetsockname", address, int(got))
	}
	host, _, _ := net.SplitHostPort(address)
	return &Listener{fd: fd, at: addr(net.JoinHostPort(host, fmt.Sprint(int(got))))}, nil
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	for ; ; time.Sleep(lastNap) {
		if c, err := l.look(); c != nil || err != nil {
			return c, err
		}
	}
}

// look accepts a connection if there is one.
func (l *Listener) look() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	switch n := C.rs_ready(l.fd, C.POLLIN); {
	case n < 0:
		return nil, fail("rpoll", string(l.at), int(n))
	case n == 0:
		return nil, nil
	}
	fd := C.rs_accept(l.fd)
	if fd < 0 {
		return nil, fail("raccept", string(l.at), int(fd))
	}
	return &Conn{fd: fd, local: l.at, remote: addr("")}, nil
}

// Close ends Accept and frees the listener. A process that has four of them at a time can't accept on the last before rdma-core 53: the library's thread for
// listeners looks at a table that was freed.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		C.rs_close(l.fd)
	}
	return nil
}

// Addr is where the listener can be dialled.
func (l *Listener) Addr() net.Addr { return l.at }

func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.await(&c.deadlines.Read, C.POLLIN); err != nil {
		return 0, err
	}
	switch n := C.rs_recv(c.fd, unsafe.Pointer(&p[0]), C.size_t(len(p))); {
	case n > 0:
		return int(n), nil
	case c.closed.Load():
		return 0, net.ErrClosed
	case n == 0:
		return 0, io.EOF
	default:
		return 0, fail("rrecv", c.remote.String(), int(n))
	}
}

func (c *Conn) Write(p []byte) (done int, err error) {
	for done < len(p) {
		if err := c.await(&c.deadlines.Write, C.POLLOUT); err != nil {
			return done, err
		}
		n := C.rs_send(c.fd, unsafe.Pointer(&p[done]), C.size_t(len(p)-done))
		switch {
		case c.closed.Load():
			return done, net.ErrClosed
		case n <= 0:
			return done, fail("rsend", c.remote.String(), int(n))
		}
		done += int(n)
	}
	return done, nil
}

// await waits until the connection is ready, if there is a deadline: without one the call itself waits, as programs that are measured do.
func (c *Conn) await(deadline *atomic.Int64, events C.short) error {
	for nap := firstNap; ; nap = min(2*nap, lastNap) {
		end := deadline.Load()
		switch {
		case c.closed.Load():
			return net.ErrClosed
		case end == 0:
			return nil
		case time.Now().UnixNano() >= end:
			return os.ErrDeadlineExceeded
		}
		switch n := C.rs_ready(c.fd, events); {
		case n < 0:
			return fail("rpoll", c.remote.String(), int(n))
		case n > 0:
			return nil
		}
		time.Sleep(nap)
	}
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.closed.Store(true)
	c.once.Do(func() { C.rs_close(c.fd) })
	return nil
}

// LocalAddr is known of accepted connections only.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is known of dialled connections only.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

type addr string

func (addr) Network() string  { return "rsocket" }
func (a addr) String() string { return string(a) }

func parse(address string) (C.uint32_t, C.uint16_t, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().Unmap().Is4() {
		return 0, 0, fmt.Errorf("%q is no address of IPv4 with a port", address)
	}
	ip := a.Addr().Unmap().As4()
	return C.uint32_t(binary.BigEndian.Uint32(ip[:])), C.uint16_t(a.Port()), nil
}

func fail(op, peer string, status int) error {
	return fmt.Errorf("%s %s: %w", op, peer, syscall.Errno(-status))
}
