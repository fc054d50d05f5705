//go:build linux && cgo

package libibverbs

/*
#cgo LDFLAGS: -ldl
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// New returns the provider. It is the same all the time.
func New() verbs.Provider { return provider{} }

type provider struct{}

func (provider) Name() string { return "libibverbs" }

// load finds the library, once.
var load = sync.OnceValue(func() error {
	var text [256]C.char
	if C.sk_load(&text[0], C.size_t(len(text))) != 0 {
		return fmt.Errorf("%w: %s", verbs.ErrUnavailable, C.GoString(&text[0]))
	}
	return nil
})

func sysfs() fs.FS { return os.DirFS(sysfsRoot) }

func (provider) Devices() ([]verbs.DeviceInfo, error) {
	if err := load(); err != nil {
		return nil, &verbs.Error{Op: "list devices", Err: err}
	}
	var n C.int
	list, err := C.sk_list(&n)
	if list == nil {
		// ENOSYS: the kernel has no RDMA at all.
		return nil, &verbs.Error{Op: "list devices", Err: fmt.Errorf("%w: the kernel has no RDMA devices: %w", verbs.ErrUnavailable, err)}
	}
	defer C.sk_list_done(list)
	var found []verbs.DeviceInfo
	for _, d := range unsafe.Slice(list, int(n)) {
		name := C.GoString(C.sk_name(d))
		found = append(found, verbs.DeviceInfo{Name: name, Transport: transport(sysfs(), name)})
	}
	return found, nil
}

func (provider) Open(name string) (verbs.Device, error) {
	if err := load(); err != nil {
		return nil, &verbs.Error{Op: "open", Device: name, Err: err}
	}
	d := &device{name: name, transport: transport(sysfs(), name)}
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	if e := C.sk_open(c, &d.ctx); e != 0 {
		if syscall.Errno(e) == syscall.ENODEV || syscall.Errno(e) == syscall.ENOSYS {
			return nil, &verbs.Error{Op: "open", Device: name, Err: fmt.Errorf("%w: %w", verbs.ErrNoDevice, syscall.Errno(e))}
		}
		return nil, d.error("open", e)
	}
	var err error
	if d.events, d.eventsRaw, err = watch(d.ctx.async_fd, name+" events"); err != nil {
		C.sk_close(d.ctx)
		return nil, &verbs.Error{Op: "open", Device: name, Err: err}
	}
	return d, nil
}

// watch makes a file for Go's poller that stands for a descriptor of the library.
func watch(fd C.int, name string) (*os.File, syscall.RawConn, error) {
	n := C.sk_watch(fd)
	if n < 0 {
		return nil, nil, syscall.Errno(-n)
	}
	f := os.NewFile(uintptr(n), name)
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, raw, nil
}

// error makes an error of an errno.
func (d *device) error(op string, e C.int) error {
	errno := syscall.Errno(e)
	var err error = errno
	switch errno {
	case syscall.ENODEV, syscall.EIO, syscall.ENXIO:
		err = fmt.Errorf("%w: %w", verbs.ErrGone, errno)
	case syscall.ENOMEM, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC:
		if op == "post" {
			err = fmt.Errorf("%w: %w", verbs.ErrFull, errno)
		} else {
			err = fmt.Errorf("%w: %w", verbs.ErrLimit, errno)
		}
		if op == "register" {
			err = fmt.Errorf("%w (see ulimit -l, the limit of locked memory)", err)
		}
	case syscall.EINVAL:
		err = fmt.Errorf("%w: %w", verbs.ErrInvalid, errno)
	}
	return &verbs.Error{Op: op, Device: d.name, Err: err}
}
