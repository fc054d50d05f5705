package shm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// handshakeTime bounds a handshake.
const handshakeTime = 2 * time.Second

// The hello is what the dialling end sends over the socket, with three descriptors: the memory file, the event counter that it
// waits on, the one that the other end waits on. All numbers are little endian. The answer is one byte.
//
//	0  8 bytes  magic
//	8  4        version
//	12 4        size of each ring in bytes
const (
	helloMagic = "sockshm\x00"
	version    = 2
	helloSize  = 16
)

// The answers to a hello.
const (
	welcome    = 1
	badVersion = 2
	badUser    = 3
	badMemory  = 4
)

func appendHello(b []byte, ring uint32) []byte {
	b = append(b, helloMagic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	return binary.LittleEndian.AppendUint32(b, ring)
}

// parseHello returns the size of the rings, which it has checked. An answer that isn't welcome says what is wrong.
func parseHello(b []byte) (ring uint32, answer byte) {
	if len(b) != helloSize || string(b[:8]) != helloMagic || binary.LittleEndian.Uint32(b[8:]) != version {
		return 0, badVersion
	}
	ring = binary.LittleEndian.Uint32(b[12:])
	if !validRing(uint64(ring)) {
		return 0, badMemory
	}
	return ring, welcome
}

// userError: the process at the other end isn't ours to talk to.
type userError struct{ theirs, ours int }

func (e *userError) Error() string {
	return fmt.Sprintf("the process there runs as user %d, this one as %d", e.theirs, e.ours)
}

// checkUser refuses processes of other users, but for root, who may do anything to us anyway. It returns the peer's process id.
func checkUser(sock *net.UnixConn) (pid int, err error) {
	pid, uid, err := sys.PeerProcess(sock)
	if err == nil && uid != os.Getuid() && uid != 0 {
		err = &userError{theirs: uid, ours: os.Getuid()}
	}
	return pid, err
}

// offer makes the memory of a link and hands it to the other end. It owns sock.
func (s *Substrate) offer(sock *net.UnixConn, local, remote addr) (l *link, err error) {
	event, peerEvent := -1, -1
	defer func() {
		if err != nil {
			sock.Close()
			closeFDs(event, peerEvent)
		}
	}()
	if _, err := checkUser(sock); err != nil {
		return nil, err
	}
	f, err := sys.SharedMemory("sockemu-shm", headerSize+2*s.opts.RingSize)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if event, err = sys.NewEvent(); err != nil {
		return nil, err
	}
	if peerEvent, err = sys.NewEvent(); err != nil {
		return nil, err
	}
	hello := appendHello(make([]byte, 0, helloSize), uint32(s.opts.RingSize))
	if err := sys.SendFDs(sock, hello, int(f.Fd()), event, peerEvent); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := sock.Read(answer[:]); err != nil {
		return nil, err
	}
	switch answer[0] {
	case welcome:
	case badUser:
		return nil, &userError{theirs: -1, ours: os.Getuid()}
	case badVersion:
		return nil, fmt.Errorf("the process there doesn't speak version %d", version)
	case badMemory:
		return nil, fmt.Errorf("the process there could not map the memory of a link, %d bytes", headerSize+2*s.opts.RingSize)
	default:
		return nil, fmt.Errorf("the process there answers %d", answer[0])
	}
	mem, err := mapMemory(f, s.opts.RingSize)
	if err != nil {
		return nil, err
	}
	mine, theirs := event, peerEvent
	event, peerEvent = -1, -1 // the link's from here on
	return newLink(s, sock, mem, mine, theirs, 0, local, remote)
}

// accept takes the memory of a link from the end that has dialled. It owns sock.
func (s *Substrate) accept(sock *net.UnixConn, local addr, host string) (*link, error) {
	sock.SetDeadline(time.Now().Add(handshakeTime))
	fds := [3]int{-1, -1, -1}
	l, answer, err := s.acceptHello(sock, local, host, &fds)
	if l == nil {
		if answer != 0 {
			sock.Write([]byte{answer})
		}
		sock.Close()
		closeFDs(fds[:]...)
		return nil, err
	}
	if _, err := sock.Write([]byte{welcome}); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (s *Substrate) acceptHello(sock *net.UnixConn, local addr, host string, fds *[3]int) (l *link, answer byte, err error) {
	pid, err := checkUser(sock)
	if err != nil {
		return nil, badUser, err
	}
	var hello [helloSize]byte
	if err := sys.RecvFDs(sock, hello[:], fds[:]); err != nil {
		return nil, 0, err
	}
	f := os.NewFile(uintptr(fds[0]), "shared memory")
	fds[0] = -1
	defer f.Close()
	ring, answer := parseHello(hello[:])
	if answer != welcome {
		return nil, answer, errors.New("a hello that makes no sense")
	}
	if !sys.IsEvent(fds[1]) || !sys.IsEvent(fds[2]) {
		return nil, badMemory, errors.New("a descriptor that is no event counter")
	}
	mem, err := mapMemory(f, int(ring))
	if err != nil {
		return nil, badMemory, err
	}
	event, peerEvent := fds[2], fds[1]
	fds[1], fds[2] = -1, -1 // the link's from here on
	l, err = newLink(s, sock, mem, event, peerEvent, 1, local, processAddr(host, pid))
	return l, 0, err
}

func closeFDs(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			sys.CloseFD(fd)
		}
	}
}
