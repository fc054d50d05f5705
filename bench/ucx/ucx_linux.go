//go:build linux && cgo

package ucx

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "ucx.h"

static struct {
	int (*config_read)(const char *, const char *, void **);
	int (*config_modify)(void *, const char *, const char *);
	void (*config_release)(void *);
	int (*init_version)(unsigned, unsigned, const ux_params *, const void *, void **);
	int (*worker_create)(void *, const ux_worker_params *, void **);
	int (*worker_get_address)(void *, void **, size_t *);
	void (*worker_release_address)(void *, void *);
	int (*worker_get_efd)(void *, int *);
	int (*worker_arm)(void *);
	unsigned (*worker_progress)(void *);
	int (*ep_create)(void *, const ux_ep_params *, void **);
	void *(*stream_send_nbx)(void *, const void *, size_t, const ux_request_param *);
	void *(*stream_recv_data_nb)(void *, size_t *);
	void (*stream_data_release)(void *, void *);
	int (*request_check_status)(void *);
	void (*request_free)(void *);
} ux;

static const char *(*ux_text)(int);

static const char *ux_load(void) {
	// Read when the library is loaded. Its handlers of signals and hooks of memory calls have no place in a Go program.
	setenv("UCX_MEM_EVENTS", "n", 0);
	setenv("UCX_ERROR_SIGNALS", "", 0);
	setenv("UCX_WARN_UNUSED_ENV_VARS", "n", 0);
	setenv("UCX_LOG_FILE", "/dev/stderr", 0); // standard output is the program's
	void *h, *s;
	if (!(h = dlopen("libucp.so.0", RTLD_NOW | RTLD_GLOBAL)) || !(s = dlopen("libucs.so.0", RTLD_NOW | RTLD_GLOBAL)))
		return dlerror();
#define LOAD(name) if (!(*(void **)&ux.name = dlsym(h, "ucp_" #name))) return dlerror()
	LOAD(config_read); LOAD(config_modify); LOAD(config_release); LOAD(init_version); LOAD(worker_create); LOAD(worker_get_address);
	LOAD(worker_release_address); LOAD(worker_get_efd); LOAD(worker_arm); LOAD(worker_progress); LOAD(ep_create);
	LOAD(stream_send_nbx); LOAD(stream_recv_data_nb); LOAD(stream_data_release); LOAD(request_check_status); LOAD(request_free);
	if (!(*(void **)&ux_text = dlsym(s, "ucs_status_string")))
		return dlerror();
	return NULL;
}

static const char *ux_string(int status) { return ux_text(status); }

// A connection has a worker of its own.
typedef struct {
	void *worker, *ep;
	int efd;
	atomic_int closed;
	char *data, *at; // received, and what of it was not read
	size_t left;
} ux_conn;

static int ux_context(const char *tls, void **ctx) {
	void *config;
	int st = ux.config_read(NULL, NULL, &config);
	if (st)
		return st;
	if (!(st = ux.config_modify(config, "TLS", tls))) {
		ux_params p = {.mask = UX_PARAM_FEATURES, .features = UX_FEATURE_STREAM | UX_FEATURE_WAKEUP};
		st = ux.init_version(1, 10, &p, config, ctx);
	}
	ux.config_release(config);
	return st;
}

static int ux_open(void *ctx, ux_conn *c, void **address, size_t *n) {
	ux_worker_params p = {.mask = UX_WORKER_THREAD_MODE, .thread_mode = UX_THREAD_SERIALIZED};
	int st = ux.worker_create(ctx, &p, &c->worker);
	if (!st)
		st = ux.worker_get_efd(c->worker, &c->efd);
	if (!st)
		st = ux.worker_get_address(c->worker, address, n);
	return st;
}

static void ux_release(ux_conn *c, void *address) { ux.worker_release_address(c->worker, address); }

static int ux_connect(ux_conn *c, const void *address) {
	ux_ep_params p = {.mask = UX_EP_ADDRESS, .address = address};
	return ux.ep_create(c->worker, &p, &c->ep);
}

static int64_t ux_now(void) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int ux_is_error(void *r) { return (uintptr_t)r >= (uintptr_t)-100; }

enum { SPIN_NS = 20000, LATE = -1000, CLOSED = -1001 };

// Makes progress, sleeps if there is none for a while. Returns 0 to be called again. deadline: ns since 1970, 0 for none.
static int ux_pass(ux_conn *c, int64_t deadline, int64_t *idle) {
	if (ux.worker_progress(c->worker)) {
		*idle = 0;
		return 0;
	}
	if (atomic_load(&c->closed))
		return CLOSED;
	int64_t now = ux_now();
	if (deadline && now >= deadline)
		return LATE;
	if (!*idle)
		*idle = now;
	if (now - *idle < SPIN_NS)
		return 0;
	int armed = ux.worker_arm(c->worker);
	if (armed)
		return armed == UX_BUSY ? 0 : armed;
	struct pollfd p = {.fd = c->efd, .events = POLLIN};
	poll(&p, 1, 100);
	*idle = 0;
	return 0;
}

static int ux_send(ux_conn *c, const void *p, size_t n, int64_t deadline) {
	ux_request_param q = {0};
	void *r = ux.stream_send_nbx(c->ep, p, n, &q);
	if (!r)
		return 0;
	if (ux_is_error(r))
		return (intptr_t)r;
	int64_t idle = 0;
	int st, broken = 0;
	while ((st = ux.request_check_status(r)) == UX_INPROGRESS) {
		if ((broken = ux_pass(c, deadline, &idle)))
			return broken; // with the request: the stream is unusable, the process about to end
	}
	ux.request_free(r);
	return st;
}

static long ux_recv(ux_conn *c, void *p, size_t n, int64_t deadline) {
	int64_t idle = 0;
	while (c->left == 0) {
		if (c->data)
			ux.stream_data_release(c->ep, c->data);
		c->data = ux.stream_recv_data_nb(c->ep, &c->left);
		c->at = c->data;
		if (ux_is_error(c->data)) {
			long st = (intptr_t)c->data;
			c->data = NULL;
			c->left = 0;
			return st;
		}
		if (!c->data) {
			c->left = 0;
			int st = ux_pass(c, deadline, &idle);
			if (st)
				return st;
		}
	}
	if (n > c->left)
		n = c->left;
	memcpy(p, c->at, n);
	c->at += n;
	c->left -= n;
	return n;
}

static void ux_close(ux_conn *c) { atomic_store(&c->closed, 1); }
*/
import "C"

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/sockemu/sockemu/bench"

	"github.com/sockemu/sockemu/bench/internal/deadline"
)

var load = sync.OnceValue(func() error {
	if e := C.ux_load(); e != nil {
		return fmt.Errorf("UCX needs libucp.so.0: %s", C.GoString(e))
	}
	return nil
})

// Available says what is missing to use UCX on this machine, or nil.
func Available() error { return load() }

// A Transport is UCX over certain of its transports.
type Transport struct {
	tls  string
	once sync.Once
	ctx  unsafe.Pointer
	err  error
}

// Over returns the Transport that may use what tls says, in the form of UCX_TLS.
func Over(tls string) *Transport { return &Transport{tls: tls} }

func (t *Transport) context() (unsafe.Pointer, error) {
	t.once.Do(func() {
		if t.err = load(); t.err != nil {
			return
		}
		name := C.CString(t.tls)
		defer C.free(unsafe.Pointer(name))
		t.err = fail("initialise UCX with "+t.tls, C.ux_context(name, &t.ctx))
	})
	return t.ctx, t.err
}

// Dial connects to address, "host:port", where workers' addresses are exchanged over TCP.
func (t *Transport) Dial(ctx context.Context, network, address string) (*Conn, error) {
	d := net.Dialer{Control: bench.Control(ctx)}
	meeting, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return t.join(ctx, meeting)
}

// Listen lets Dial meet it at address.
func (t *Transport) Listen(ctx context.Context, network, address string) (*Listener, error) {
	if _, err := t.context(); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: bench.Control(ctx)}
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &Listener{l, t}, nil
}

// Listener accepts connections.
type Listener struct {
	net.Listener
	t *Transport
}

// meetTime bounds the exchange of addresses.
const meetTime = 10 * time.Second

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	meeting, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), meetTime)
	defer cancel()
	c, err := l.t.join(ctx, meeting)
	if err != nil {
		return nil, err // not c: a nil *Conn in a net.Conn isn't nil
	}
	return c, nil
}

// maxAddress bounds what is believed of the peer's address.
const maxAddress = 64 << 10

// join makes a connection of a meeting, which it owns.
func (t *Transport) join(ctx context.Context, meeting net.Conn) (_ *Conn, err error) {
	defer func() {
		if err != nil {
			meeting.Close()
		}
	}()
	context, err := t.context()
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		meeting.SetDeadline(end)
	}
	c := &Conn{meeting: meeting, c: (*C.ux_conn)(C.calloc(1, C.sizeof_ux_conn))}
	var address unsafe.Pointer
	var n C.size_t
	if err := fail("open", C.ux_open(context, c.c, &address, &n)); err != nil {
		return nil, err
	}
	mine := binary.BigEndian.AppendUint32(nil, uint32(n))
	mine = append(mine, unsafe.Slice((*byte)(address), int(n))...)
	C.ux_release(c.c, address)
	if _, err := meeting.Write(mine); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(meeting, head[:]); err != nil {
		return nil, err
	}
	peer := make([]byte, min(binary.BigEndian.Uint32(head[:]), maxAddress))
	if _, err := io.ReadFull(meeting, peer); err != nil {
		return nil, err
	}
	return c, fail("connect", C.ux_connect(c.c, unsafe.Pointer(unsafe.SliceData(peer))))
}

type deadlines = deadline.Pair

// Conn is one connection. The embedded one, over which the ends met, gives it addresses.
type Conn struct {
	meeting net.Conn
	mu      sync.Mutex
	c       *C.ux_conn
	deadlines
}

func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := C.ux_recv(c.c, unsafe.Pointer(&p[0]), C.size_t(len(p)), C.int64_t(c.deadlines.Read.Load()))
	if n < 0 {
		return 0, fail("receive", C.int(n))
	}
	return int(n), nil
}

func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := fail("send", C.ux_send(c.c, unsafe.Pointer(&p[0]), C.size_t(len(p)), C.int64_t(c.deadlines.Write.Load()))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends calls that wait. The memory is kept until the process ends.
func (c *Conn) Close() error {
	C.ux_close(c.c)
	return c.meeting.Close()
}

// LocalAddr and RemoteAddr are those of the TCP connection on which the ends have met.
func (c *Conn) LocalAddr() net.Addr  { return c.meeting.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr { return c.meeting.RemoteAddr() }

// fail makes an error of a status.
func fail(op string, status C.int) error {
	switch status {
	case 0:
		return nil
	case C.LATE:
		return fmt.Errorf("%s: %w", op, os.ErrDeadlineExceeded)
	case C.CLOSED:
		return fmt.Errorf("%s: %w", op, net.ErrClosed)
	}
	return fmt.Errorf("%s: %s", op, C.GoString(C.ux_string(status)))
}
