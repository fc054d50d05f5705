package session

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/gid"
)

// The definite ends of a connection. They are wrapped in an *EndError that says which connection and what was going on.
var (
	// ErrPatience: no path to the peer for longer than the configured patience. It is a time-out.
	ErrPatience = errors.New("no path to the peer for longer than the configured patience")
	// ErrReset: the peer ended the connection abnormally. It matches syscall.ECONNRESET.
	ErrReset = fmt.Errorf("reset by the peer (%w)", syscall.ECONNRESET)
	// ErrPeerGone: the peer's address answers, but no process there knows the connection any more. It matches ECONNRESET.
	ErrPeerGone = fmt.Errorf("the peer's end of the connection no longer exists (%w)", syscall.ECONNRESET)
	// ErrFenced: another holder continues this connection (it was exported and imported elsewhere).
	ErrFenced = errors.New("fenced: a newer holder continues this connection")
	// ErrDesync: the two ends don't fit together: one of them has lost state that it had acknowledged.
	ErrDesync = errors.New("the two ends disagree about the stream: one has lost state")
	// ErrProtocol: the peer broke the protocol.
	ErrProtocol = errors.New("the peer broke the protocol")
	// ErrExported: this process has given the connection away with Export.
	ErrExported = errors.New("the connection was exported from this process")
	// ErrUndelivered: Close gave up before the peer's session had every byte.
	ErrUndelivered = errors.New("closed before everything was delivered")
	// ErrPeerClosed: the peer's application has closed the connection and will read no more. It matches EPIPE.
	ErrPeerClosed = fmt.Errorf("the peer has closed the connection (%w)", syscall.EPIPE)
	// ErrWriteClosed: CloseWrite was called before. It matches EPIPE.
	ErrWriteClosed = fmt.Errorf("this side has been shut down for writing (%w)", syscall.EPIPE)
)

// EndError is the error of a connection that has ended, or of a Close that could not deliver everything.
type EndError struct {
	GID     gid.GID
	Reason  error         // one of the errors above
	Detail  string        // what was going on, and what to do
	Unacked uint64        // bytes the application wrote that the peer's session is not known to have
	Outage  time.Duration // how long there had been no path; 0 if there was one
}

// Error says which connection ended, why, and what is known to be lost.
func (e *EndError) Error() string {
	s := "sockemu: connection " + e.GID.Short() + ": " + e.Reason.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Outage > 0 {
		s += fmt.Sprintf("; no path for %v", e.Outage.Round(time.Millisecond))
	}
	if e.Unacked > 0 {
		s += fmt.Sprintf("; %d bytes unacknowledged", e.Unacked)
	}
	return s
}

// Unwrap returns the reason.
func (e *EndError) Unwrap() error { return e.Reason }

// Timeout reports whether the connection ended because time ran out. A deadline is not an EndError.
func (e *EndError) Timeout() bool { return errors.Is(e.Reason, ErrPatience) }

// Temporary reports false: an ended connection stays ended.
func (e *EndError) Temporary() bool { return false }
