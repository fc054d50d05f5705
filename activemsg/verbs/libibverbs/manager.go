//go:build linux && cgo

package libibverbs

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// managerFile is the kernel's connection manager for programs. It takes commands by write, and answers into memory that they name:
// include/uapi/rdma/rdma_user_cm.h.
const managerFile = "/dev/infiniband/rdma_cm"

// Commands, and the lengths of what they and their answers are.
const (
	cmdCreate       = 0
	cmdDestroy      = 1
	cmdResolveRoute = 4
	cmdConnect      = 6
	cmdListen       = 7
	cmdAccept       = 8
	cmdReject       = 9
	cmdEvent        = 12
	cmdQuery        = 19
	cmdBind         = 20
	cmdResolveAddr  = 21

	sockaddrLen    = 128
	privateLen     = 256
	connParamLen   = 8 + privateLen + 8
	createAnswer   = 4
	destroyAnswer  = 4
	eventAnswer    = 336
	queryAnswer    = 16 + 2*sockaddrLen + 8
	portSpaceTCP   = 0x0106
	qpTypeRC       = 2
	eventIDOffset  = 8 // in an event: of whom
	eventOffset    = 12
	statusOffset   = 16
	privateOffset  = 20 + 8
	privateAtLen   = 20 + 8 + privateLen
	querySrcOffset = 16
)

// Events.
const (
	eventAddrResolved   = 0
	eventRouteResolved  = 2
	eventConnectRequest = 4
	eventEstablished    = 9
)

var eventText = map[uint32]string{
	1: "the address can't be reached", 3: "no route", 6: "the connection failed", 7: "no answer", 8: "the peer refused", 10: "the peer ended it",
	11: "the device is gone",
}

// A manager is an open managerFile, used by one goroutine at a time.
type manager struct {
	file   *os.File
	raw    syscall.RawConn
	answer [eventAnswer]byte
}

func openManager() (*manager, error) {
	f, err := os.OpenFile(managerFile, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the connection manager (is the module rdma_ucm loaded?): %w", err)
	}
	m := &manager{file: f}
	if m.raw, err = f.SyscallConn(); err != nil {
		f.Close()
		return nil, err
	}
	return m, nil
}

var native = binary.NativeEndian

// command makes what is written. Answers of n bytes are in m.answer, whose address is behind lead bytes of the body; n is 0 for none.
func (m *manager) command(cmd uint32, n int, lead int, body []byte) []byte {
	if n > 0 {
		address := native.AppendUint64(nil, uint64(uintptr(unsafe.Pointer(&m.answer))))
		body = append(append(append([]byte{}, body[:lead]...), address...), body[lead:]...)
	}
	b := native.AppendUint32(nil, cmd)
	b = native.AppendUint16(b, uint16(len(body)))
	b = native.AppendUint16(b, uint16(n))
	return append(b, body...)
}

// write does a command. Connecting may take as long as TCP needs.
func (m *manager) write(b []byte) error {
	var pin runtime.Pinner
	pin.Pin(&m.answer)
	defer pin.Unpin()
	var err error
	if e := m.raw.Control(func(fd uintptr) { err = writeAll(fd, b) }); e != nil {
		return e
	}
	return err
}

func writeAll(fd uintptr, b []byte) error {
	for {
		if _, err := syscall.Write(int(fd), b); err != syscall.EINTR {
			return err
		}
	}
}

// create makes an identifier: one side of a connection, or one that listens.
func (m *manager) create() (id uint32, err error) {
	body := native.AppendUint64(nil, 1) // events say it; it must not be 0
	body = native.AppendUint16(body, portSpaceTCP)
	body = append(body, qpTypeRC, 0, 0, 0, 0, 0)
	err = m.write(m.command(cmdCreate, createAnswer, 8, body))
	return native.Uint32(m.answer[:]), err
}

func (m *manager) destroy(id uint32) error {
	return m.write(m.command(cmdDestroy, destroyAnswer, 0, native.AppendUint64(nil, uint64(id))))
}

func (m *manager) bind(id uint32, local netip.AddrPort) error {
	return m.write(m.command(cmdBind, 0, 0, bindBody(id, local)))
}

func bindBody(id uint32, local netip.AddrPort) []byte {
	addr, n := sockaddr(local)
	body := native.AppendUint16(native.AppendUint32(nil, id), n)
	return append(append(body, 0, 0), addr...)
}

func (m *manager) listen(id uint32) error {
	return m.write(m.command(cmdListen, 0, 0, two(id, 4)))
}

func two(a, b uint32) []byte { return native.AppendUint32(native.AppendUint32(nil, a), b) }

func (m *manager) resolve(id uint32, from, to netip.AddrPort, wait time.Duration) error {
	return m.write(m.command(cmdResolveAddr, 0, 0, resolveBody(id, from, to, wait)))
}

func resolveBody(id uint32, from, to netip.AddrPort, wait time.Duration) []byte {
	src, n := sockaddr(from)
	dst, k := sockaddr(to)
	body := native.AppendUint16(native.AppendUint16(two(id, uint32(wait.Milliseconds())), n), k)
	return append(append(append(body, 0, 0, 0, 0), src...), dst...)
}

func (m *manager) route(id uint32, wait time.Duration) error {
	return m.write(m.command(cmdResolveRoute, 0, 0, two(id, uint32(wait.Milliseconds()))))
}

// param says which queue pair is to be joined; there are no reads.
func param(qp uint32, private []byte) []byte {
	b := make([]byte, connParamLen)
	native.PutUint32(b, qp)
	b[8+privateLen] = byte(copy(b[8:8+privateLen], private))
	b[connParamLen-1] = 1 // valid
	return b
}

// tail is what ends a connect and an accept: whose, and 12 bytes of no use here.
func tail(id uint32) []byte { return append(native.AppendUint32(nil, id), make([]byte, 12)...) }

func (m *manager) connect(id, qp uint32, private []byte) error {
	return m.write(m.command(cmdConnect, 0, 0, connectBody(id, qp, private)))
}

func connectBody(id, qp uint32, private []byte) []byte {
	return append(param(qp, private), tail(id)...)
}

func (m *manager) accept(id, qp uint32) error {
	return m.write(m.command(cmdAccept, 0, 0, acceptBody(id, qp)))
}

func acceptBody(id, qp uint32) []byte {
	return append(native.AppendUint64(nil, 1), connectBody(id, qp, nil)...)
}

func (m *manager) reject(id uint32) error { return m.write(m.command(cmdReject, 0, 0, rejectBody(id))) }

func rejectBody(id uint32) []byte {
	return append(native.AppendUint32(nil, id), make([]byte, 4+privateLen)...)
}

// device returns which device an identifier is bound to, by its GUID, and its own address.
func (m *manager) device(id uint32) (guid [8]byte, local netip.AddrPort, err error) {
	if err := m.write(m.command(cmdQuery, queryAnswer, 0, two(id, 0))); err != nil { // 0: ask for addresses
		return guid, local, err
	}
	return [8]byte(m.answer[:]), addrPort(m.answer[querySrcOffset:]), nil
}

// A managerEvent is news of an identifier.
type managerEvent struct {
	id, event uint32
	status    int32
	private   []byte
}

func (e managerEvent) err() error {
	err := errors.New(eventText[e.event])
	if eventText[e.event] == "" {
		err = fmt.Errorf("event %d of the connection manager", e.event)
	}
	if e.status < 0 {
		err = fmt.Errorf("%w: %w", err, syscall.Errno(-e.status))
	}
	return err
}

// next waits for an event.
func (m *manager) next(ctx context.Context) (managerEvent, error) {
	stop := context.AfterFunc(ctx, func() { m.file.SetReadDeadline(past) })
	defer stop()
	var pin runtime.Pinner
	pin.Pin(&m.answer)
	defer pin.Unpin()
	ask := m.command(cmdEvent, eventAnswer, 0, nil)
	var e error
	err := m.raw.Read(func(fd uintptr) bool {
		e = writeAll(fd, ask)
		return e != syscall.EAGAIN
	})
	if ctx.Err() != nil {
		return managerEvent{}, ctx.Err()
	}
	if err = errors.Join(err, e); err != nil {
		return managerEvent{}, err
	}
	n := min(int(m.answer[privateAtLen]), privateLen)
	return managerEvent{
		id: native.Uint32(m.answer[eventIDOffset:]), event: native.Uint32(m.answer[eventOffset:]), status: int32(native.Uint32(m.answer[statusOffset:])),
		private: m.answer[privateOffset : privateOffset+n],
	}, nil
}

// expect waits for an event that must be of a kind.
func (m *manager) expect(ctx context.Context, event uint32) error {
	e, err := m.next(ctx)
	if err == nil && e.event != event {
		err = e.err()
	}
	return err
}

// sockaddr is an address as the kernel wants it, and how much of it counts.
func sockaddr(a netip.AddrPort) ([]byte, uint16) {
	b := make([]byte, 0, sockaddrLen)
	ip := a.Addr().Unmap()
	n := 16
	if ip.Is4() {
		b = binary.BigEndian.AppendUint16(native.AppendUint16(b, syscall.AF_INET), a.Port())
	} else {
		b = binary.BigEndian.AppendUint16(native.AppendUint16(b, syscall.AF_INET6), a.Port())
		b = append(b, 0, 0, 0, 0)
		n = 28
	}
	b = append(b, ip.AsSlice()...)
	return b[:sockaddrLen], uint16(n)
}

func addrPort(b []byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(b[2:])
	switch native.Uint16(b) {
	case syscall.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), port)
	case syscall.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])), port)
	}
	return netip.AddrPort{}
}

// check makes sure that the connection manager means the device of the queue pair: it takes numbers of queue pairs on trust.
func (m *manager) check(id uint32, device string) (local netip.AddrPort, err error) {
	guid, local, err := m.device(id)
	if err != nil {
		return local, err
	}
	want, err := hex.DecodeString(strings.ReplaceAll(readLine(sysfs(), path.Join(device, "node_guid")), ":", ""))
	if err != nil || string(want) != string(guid[:]) {
		return local, fmt.Errorf("%w: %v leads to the device with GUID %x", verbs.ErrNoDevice, local.Addr(), guid)
	}
	return local, nil
}
