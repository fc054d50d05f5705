package substrate

import (
	"errors"
	"fmt"
)

// A Class says what an error means for the session: whether to replay elsewhere, to give up, or to blame the caller.
// Other runtimes can't tell "the path broke" from "the peer is gone"; the difference decides between an invisible
// delay and a connection reset (design, section 3).
type Class uint8

// The classes of errors.
const (
	// PathSuspect: no proof of death, but the path makes no progress. The session may try another one.
	PathSuspect Class = iota + 1
	// PathDown: this path is dead. The session replays elsewhere; the application sees only delay.
	PathDown
	// PeerGone: the peer's process or its end of the connection no longer exists. The application gets a reset.
	PeerGone
	// Refused: the peer's host answered that nobody listens there. It may be back in a moment.
	Refused
	// Config: the caller asked for something that can't work here (a bad address, a missing device).
	Config
	// Protocol: the peer broke the protocol. The link is closed; it is never retried as it was.
	Protocol
)

// String names the class as it is shown to users.
func (c Class) String() string {
	switch c {
	case PathSuspect:
		return "path suspect"
	case PathDown:
		return "path down"
	case PeerGone:
		return "peer gone"
	case Refused:
		return "refused"
	case Config:
		return "configuration"
	case Protocol:
		return "protocol violation"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Sentinels to compare with errors.Is: an *Error matches the one of its class.
var (
	ErrPathSuspect = errors.New("path suspect")
	ErrPathDown    = errors.New("path down")
	ErrPeerGone    = errors.New("peer gone")
	ErrRefused     = errors.New("refused")
	ErrConfig      = errors.New("configuration error")
	ErrProtocol    = errors.New("protocol violation")

	// ErrInterrupted is returned by Send and Recv after Interrupt.
	ErrInterrupted = errors.New("link interrupted by its session")
)

// Error is what substrates return: what was tried, over which substrate, with which peer, and what it means.
type Error struct {
	Op        string // "dial", "listen", "accept", "send", "recv"
	Substrate string // "" for what no substrate has tried
	Peer      string // the peer's physical address, if known; what is listened at
	Class     Class
	Err       error
}

// Error says what was tried, with whom, what it means and why.
func (e *Error) Error() string {
	s := e.Op
	if e.Substrate != "" {
		s += " over " + e.Substrate
	}
	switch {
	case e.Peer == "":
	case e.Op == "listen" || e.Op == "accept":
		s += " at " + e.Peer
	default:
		s += " with " + e.Peer
	}
	s += ": " + e.Class.String()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the sentinel of e's class.
func (e *Error) Is(target error) bool {
	switch e.Class {
	case PathSuspect:
		return target == ErrPathSuspect
	case PathDown:
		return target == ErrPathDown
	case PeerGone:
		return target == ErrPeerGone
	case Refused:
		return target == ErrRefused
	case Config:
		return target == ErrConfig
	case Protocol:
		return target == ErrProtocol
	}
	return false
}

// ClassOf returns the class of err, or PathDown for an error that isn't classified: a link that fails for an unknown
// reason is replaced, not trusted.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return PathDown
}
