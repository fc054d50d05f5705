package sys

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NewEvent returns the descriptor of a new event counter that never blocks (eventfd(2)).
func NewEvent() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return fd, os.NewSyscallError("eventfd2", err)
}

// PollEvent hands an event counter to Go's poller. Each Signal is an edge that wakes whoever is parked in the Read or Write of the
// file's SyscallConn: nobody needs to read the counter. The file owns fd.
func PollEvent(fd int) *os.File { return os.NewFile(uintptr(fd), "event") }

var one = uint64(1)

// Signal adds one to an event counter. It skips the Go scheduler, which a call that never blocks need not ask.
func Signal(fd int) {
	unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

// CloseFD closes a descriptor that no file owns.
func CloseFD(fd int) error { return unix.Close(fd) }

// CPU returns the number of the processor that the calling thread runs on, -1 if that is unknown (getcpu(2)).
func CPU() int {
	var cpu uint32
	if _, _, e := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); e != 0 {
		return -1
	}
	return int(cpu)
}

// Yield lets another thread that waits for this processor run, if there is one (sched_yield(2)). The runtime isn't told: this thread keeps
// its place.
func Yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// SendFDs sends b and descriptors over a UNIX socket.
func SendFDs(c *net.UnixConn, b []byte, fds ...int) error {
	_, _, err := c.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	return err
}

// RecvFDs receives what SendFDs sent: len(b) bytes and as many descriptors as fds has room for. The caller owns them.
func RecvFDs(c *net.UnixConn, b []byte, fds []int) error {
	oob := make([]byte, unix.CmsgSpace(4*len(fds)))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	var got []int
	for i := range msgs {
		if rights, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			got = append(got, rights...)
		}
	}
	if n != len(b) || len(got) != len(fds) || flags&unix.MSG_CTRUNC != 0 {
		for _, fd := range got {
			unix.Close(fd)
		}
		return fmt.Errorf("a message of %d bytes with %d descriptors, want %d and %d", n, len(got), len(b), len(fds))
	}
	copy(fds, got) // net has asked for close-on-exec
	return nil
}

// IsEvent reports whether fd is an event counter.
func IsEvent(fd int) bool {
	s, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return err == nil && s == "anon_inode:[eventfd]"
}

// PeerProcess returns the ids of the process and the user at the other end of a UNIX socket; a process that isn't visible from here
// has id 0.
func PeerProcess(c *net.UnixConn) (pid, uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, 0, err
	}
	if cerr != nil {
		return 0, 0, os.NewSyscallError("getsockopt SO_PEERCRED", cerr)
	}
	return int(cred.Pid), int(cred.Uid), nil
}

// Hangups tells of sockets whose other end has gone, any number of them in one goroutine (epoll(7), itself watched by Go's poller).
type Hangups struct {
	file *os.File
}

// NewHangups returns an empty set of sockets.
func NewHangups() (*Hangups, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl O_NONBLOCK", err)
	}
	return &Hangups{file: os.NewFile(uintptr(fd), "epoll")}, nil
}

// Add watches c under the name id. It is told of once, and forgotten when c is closed.
func (h *Hangups) Add(c *net.UnixConn, id int32) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	epoll, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = raw.Control(func(fd uintptr) {
		err := epoll.Control(func(epfd uintptr) {
			ev := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: id}
			cerr = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(epfd), unix.EPOLL_CTL_ADD, int(fd), &ev))
		})
		cerr = errors.Join(cerr, err)
	})
	return errors.Join(cerr, err)
}

// Wait calls gone for each socket whose other end goes, until Close.
func (h *Hangups) Wait(gone func(id int32)) {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return
	}
	var events [64]unix.EpollEvent
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if n <= 0 && err != unix.EINTR {
				return false // until the next edge
			}
			for _, ev := range events[:max(n, 0)] {
				gone(ev.Fd)
			}
		}
	})
	runtime.KeepAlive(h)
}

// Close ends Wait.
func (h *Hangups) Close() error { return h.file.Close() }
