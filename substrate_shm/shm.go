package shm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/rundir"
	"github.com/sockemu/sockemu/substrate"
)

const name = "shm"

// suffix is what the names of sockets end in.
const suffix = ".shm"

// The bounds of Options.RingSize and what it is by default: 2 MiB, or 256 KiB where addresses have 32 bits, for 500 links of 4 MiB each would
// fill half of them.
const (
	MinRingSize     = 4 << 10
	MaxRingSize     = 64 << 20
	DefaultRingSize = 256 << 10 << (3 * (^uint(0) >> 63))
)

// Options tune the links of a Substrate. The zero value is good.
type Options struct {
	// Dir is where Listen("") makes its sockets: a directory for the processes that shall meet, and nobody else. "" is the user's
	// private directory: sockemu-UID in $XDG_RUNTIME_DIR, or in the directory for temporary files.
	Dir string
	// RingSize is the most bytes on their way in each direction of a link that this end dials: a power of two from
	// MinRingSize to MaxRingSize, 0 for DefaultRingSize. Another value makes Dial fail with class Config.
	RingSize int
	// Spin is how long a Send or Recv that must wait looks at the memory before it parks: 0 is 50 microseconds, which is good where a
	// wake-up costs half as much; below 0 it parks at once. Spinning stops by itself where it doesn't pay.
	Spin time.Duration
}

// Substrate makes links of shared memory. It is safe for concurrent use.
type Substrate struct {
	opts    Options
	hangups hangups
}

var _ substrate.Substrate = (*Substrate)(nil)

// New returns a Substrate that makes links as opts say.
func New(opts Options) *Substrate {
	if opts.RingSize == 0 {
		opts.RingSize = DefaultRingSize
	}
	if opts.Spin == 0 {
		opts.Spin = defaultSpin
	}
	return &Substrate{opts: opts}
}

// Name returns "shm".
func (s *Substrate) Name() string { return name }

// Caps says that both ends are on one host.
func (s *Substrate) Caps() substrate.Caps { return substrate.Caps{SameHost: true} }

// validRing reports whether a ring may have size bytes.
func validRing(size uint64) bool {
	return size >= MinRingSize && size <= MaxRingSize && size&(size-1) == 0
}

// Dial opens a link to address, HOST:/path/of/socket as a Listener's Addr says it. An address of another host, one in a directory
// that isn't here, and a process of another user are of class Config; a socket that nobody listens on, or that isn't there, is of
// class Refused. It takes two seconds at most. When ctx ends first, the error wraps ctx.Err().
func (s *Substrate) Dial(ctx context.Context, address string) (substrate.Link, error) {
	host, path, err := s.locate(address)
	if err != nil {
		return nil, newError("dial", address, substrate.Config, err)
	}
	if !validRing(uint64(s.opts.RingSize)) {
		return nil, newError("dial", address, substrate.Config, fmt.Errorf("a ring of %d bytes: want a power of two from %d to %d", s.opts.RingSize, MinRingSize, MaxRingSize))
	}
	within, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(within, "unix", path)
	if err != nil {
		return nil, dialError(ctx, address, path, err)
	}
	sock := conn.(*net.UnixConn)
	stop := context.AfterFunc(within, func() { sock.SetDeadline(longAgo) })
	l, err := s.offer(sock, processAddr(host, os.Getpid()), addr(address))
	if !stop() && err == nil {
		l.Close() // ctx ended at the last moment
		err = context.Cause(within)
	}
	if err != nil {
		return nil, dialError(ctx, address, path, err)
	}
	return l, nil
}

// locate says which host this is, and where on it the socket of an address is.
func (s *Substrate) locate(address string) (host, path string, err error) {
	if host, err = hostID(); err != nil {
		return "", "", fmt.Errorf("no shared memory between processes here: %w (%w)", err, errors.ErrUnsupported)
	}
	path, err = socketPath(address, host)
	return host, path, err
}

// dialError says why there is no link, and which class that is.
func dialError(ctx context.Context, address, path string, err error) error {
	class := substrate.PathDown
	var user *userError
	ended := ctx.Err()
	// A timer of net's own can be a moment faster than that of ctx.
	if d, ok := ctx.Deadline(); ok && ended == nil && !time.Now().Before(d) {
		ended = context.DeadlineExceeded
	}
	connecting := false
	switch op := (*net.OpError)(nil); {
	case ended != nil:
		if !errors.Is(err, ended) {
			err = fmt.Errorf("%w (%w)", ended, err)
		}
		return newError("dial", address, class, err)
	case errors.As(err, &user):
		return newError("dial", address, substrate.Config, err)
	case errors.As(err, &op):
		connecting, err = op.Op == "dial", op.Err
	}
	switch {
	case errors.Is(err, syscall.ENOENT):
		class, err = substrate.Refused, fmt.Errorf("no such socket: nobody listens there, or the directory isn't shared with this process (%w)", err)
		if _, derr := os.Stat(filepath.Dir(path)); errors.Is(derr, fs.ErrNotExist) {
			class, err = substrate.Config, fmt.Errorf("the directory isn't shared with this process (%w)", syscall.ENOENT)
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		class = substrate.Refused
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		class = substrate.Config
		if connecting { // else it was memory, say, that this process may not have
			err = fmt.Errorf("another user's socket (%w)", err)
		}
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EPROTOTYPE), errors.Is(err, syscall.ENOTSOCK), errors.Is(err, errors.ErrUnsupported):
		class = substrate.Config
	case !connecting && errors.Is(err, io.EOF):
		err = fmt.Errorf("the peer's process closed it in the middle: is it out of file descriptors or memory? (%w)", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("no answer within %v (%w)", handshakeTime, err)
	}
	return newError("dial", address, class, err)
}

// Listen makes a socket that peers dial: at the path in address, which may be /path or HOST:/path, or at a new path in Options.Dir
// if address is "". A socket that a killed process has left there is taken over.
func (s *Substrate) Listen(ctx context.Context, address string) (substrate.Listener, error) {
	l, err := s.listen(ctx, address)
	if err != nil {
		return nil, newError("listen", address, substrate.Config, err)
	}
	return l, nil
}

func (s *Substrate) listen(ctx context.Context, address string) (*listener, error) {
	host, err := hostID()
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", err, errors.ErrUnsupported)
	}
	var path string
	switch {
	case address == "":
		path, err = s.freshPath()
	case strings.HasPrefix(address, "/"):
		path, err = address, checkPath(address)
	default:
		path, err = socketPath(address, host)
	}
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	nl, err := lc.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(path) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		nl, err = lc.Listen(ctx, "unix", path)
	}
	if err != nil {
		return nil, err
	}
	return newListener(s, nl.(*net.UnixListener), addr(host+":"+path)), nil
}

// freshPath returns a path for a new socket, and removes what killed processes have left beside it.
func (s *Substrate) freshPath() (string, error) {
	dir := s.opts.Dir
	if dir == "" {
		var err error
		if dir, err = rundir.Dir(); err != nil {
			return "", err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	rundir.Sweep(dir, suffix)
	var id [8]byte
	rand.Read(id[:])
	path := filepath.Join(dir, hex.EncodeToString(id[:])+suffix)
	return path, checkPath(path)
}

// abandoned reports whether path is a socket that nobody listens on.
func abandoned(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.DialTimeout("unix", path, 100*time.Millisecond)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func newError(op, peer string, class substrate.Class, err error) *substrate.Error {
	return &substrate.Error{Op: op, Substrate: name, Peer: peer, Class: class, Err: err}
}
