package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// An optionError is a socket option that the caller asked for and the system refused.
type optionError struct {
	option string
	err    error
}

func (e *optionError) Error() string { return "can't set " + e.option + ": " + e.err.Error() }

func (e *optionError) Unwrap() error { return e.err }

// dialError classifies why a dial failed.
func dialError(ctx context.Context, address string, err error) error {
	e := &substrate.Error{Op: "dial", Substrate: name, Peer: address, Class: dialClass(err), Err: substrate.Cause(err)}
	if address == "" {
		e.Class = substrate.Config // net has an error of its own for it, which can't be told from others
	}
	// net watches the deadline of ctx with a timer of its own and can be a moment faster than ctx itself.
	ended := ctx.Err()
	if d, ok := ctx.Deadline(); ok && ended == nil && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(d) {
		ended = context.DeadlineExceeded
	}
	if ended != nil && !errors.Is(err, ended) {
		e.Err = fmt.Errorf("%w (%w)", ended, e.Err)
	}
	return e
}

func dialClass(err error) substrate.Class {
	switch {
	case isErrno(err, refusals):
		return substrate.Refused
	case isConfig(err) || isErrno(err, senseless):
		return substrate.Config
	}
	return substrate.PathDown
}

// listenClass: what can't be listened on won't become right by itself, but for a name that couldn't be looked up just now.
func listenClass(err error) substrate.Class {
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && !isConfig(err) {
		return substrate.PathDown
	}
	return substrate.Config
}

// isConfig reports an error in what the caller said, also of an option that the system doesn't have.
func isConfig(err error) bool {
	var option *optionError
	return substrate.IsBadAddress(err) || errors.As(err, &option)
}

// senseless are the errors with which a kernel rejects an address before it sends anything: another family than the local
// address has, a broadcast address, a network that local policy forbids.
var senseless = []syscall.Errno{syscall.EINVAL, syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT, syscall.EACCES, syscall.EPERM}

func isErrno(err error, set []syscall.Errno) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains(set, errno)
}

// deadlineError is for errors of Set*Deadline, which can fail only on a closed connection.
func deadlineError(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return err
}
