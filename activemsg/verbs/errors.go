package verbs

import (
	"errors"
	"fmt"
)

// Errors of providers match these with errors.Is.
var (
	// ErrUnavailable: there are no verbs on this system or in this build, the text says why.
	ErrUnavailable error = unavailable{}
	// ErrNoDevice: no device has that name, or it has no such port or address.
	ErrNoDevice = errors.New("no such RDMA device")
	// ErrGone: the device has been removed or has broken.
	ErrGone = errors.New("RDMA device gone")
	// ErrFull: more requests than the queue can hold.
	ErrFull = errors.New("queue full")
	// ErrLimit: the device or the system grants no more of that (memory, queue pairs, locked pages).
	ErrLimit = errors.New("limit reached")
	// ErrClosed: Close was called before.
	ErrClosed = errors.New("closed")
	// ErrInvalid: a request that can't be right.
	ErrInvalid = errors.New("invalid request")
)

type unavailable struct{}

func (unavailable) Error() string { return "verbs unavailable" }
func (unavailable) Unwrap() error { return errors.ErrUnsupported }

// An Error says which operation failed, on what device.
type Error struct {
	Op     string // "open", "register", "create QP", "connect", "post", "poll"...
	Device string
	Err    error // wraps one of the errors above, where it is known
}

// Error says what was tried, on what device, and why it failed.
func (e *Error) Error() string {
	if e.Device == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " on " + e.Device + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A StatusError is a request that failed.
type StatusError struct {
	Status Status
	Op     Op
	Vendor uint32
}

// Error says what failed and what it means.
func (e *StatusError) Error() string {
	s := e.Op.String() + ": " + e.Status.String()
	if e.Vendor != 0 {
		s += fmt.Sprintf(" (vendor code %#x)", e.Vendor)
	}
	return s
}
