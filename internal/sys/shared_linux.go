package sys

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pageSeals keep the size of a shared memory file what it is: a mapping can't be cut short under its user's feet.
const pageSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// SharedMemory returns a new anonymous memory file of size bytes, sealed against changes of its size (memfd_create(2)).
func SharedMemory(name string, size int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(int64(size)); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, pageSeals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return f, nil
}

// MapShared maps a memory file that SharedMemory made, here or in another process. It refuses one of another size and one that
// isn't sealed.
func MapShared(f *os.File, size int) ([]byte, error) {
	fd := int(f.Fd())
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl F_GET_SEALS", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if seals&pageSeals != pageSeals || st.Size != int64(size) {
		return nil, fmt.Errorf("shared memory of %d bytes with seals %#x, want %d and %#x", st.Size, seals, size, pageSeals)
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return b, os.NewSyscallError("mmap", err)
}

// Unmap ends a mapping of MapShared.
func Unmap(b []byte) error { return unix.Munmap(b) }

// SendFile sends b and the descriptor of f over a UNIX socket.
func SendFile(c *net.UnixConn, b []byte, f *os.File) error {
	_, _, err := c.WriteMsgUnix(b, unix.UnixRights(int(f.Fd())), nil)
	return err
}

// RecvFile receives what SendFile sent: len(b) bytes and one descriptor.
func RecvFile(c *net.UnixConn, b []byte) (*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	var got []int
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			got = append(got, fds...)
		}
	}
	if n != len(b) || len(got) != 1 {
		for _, fd := range got {
			unix.Close(fd)
		}
		return nil, errors.New("short message, or not exactly one descriptor")
	}
	unix.CloseOnExec(got[0])
	return os.NewFile(uintptr(got[0]), "shared memory"), nil
}

// PeerUID returns the user id of the process at the other end of a UNIX socket.
func PeerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, os.NewSyscallError("getsockopt SO_PEERCRED", cerr)
	}
	return int(cred.Uid), nil
}

// OwnedByUs reports whether the file belongs to the user of this process.
func OwnedByUs(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
