// Package wire encodes and decodes everything sockemu puts on a network besides the application's bytes: the set-up
// messages that begin every link, the frames of a link in record mode, and the records of the control channel. The
// formats are described to the bit in docs/protocol.md. All integers are big-endian.
//
// The package is pure: it does no I/O, reads no clock, and bounds every length before it is used. Decoders never panic and
// never allocate in proportion to a length they read; each has a fuzzer.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the protocol version this code speaks, MinVersion the oldest one it accepts.
const (
	Version    = 1
	MinVersion = 1
)

// Magic begins every set-up message. Its first byte is no text and no TLS, and it ends with a newline so that a plain
// line-oriented server (HTTP, SMTP, redis) answers at once with an error: that is how a peer that doesn't speak sockemu is
// told apart quickly.
const Magic = "\xf5SOCKMU\n"

// Errors that decoders return, wrapped with what was wrong.
var (
	// ErrMagic: the other side doesn't speak sockemu.
	ErrMagic = errors.New("not a sockemu message")
	// ErrVersion: no common protocol version.
	ErrVersion = errors.New("no common protocol version")
	// ErrFormat: the message breaks the format.
	ErrFormat = errors.New("malformed message")
)

func formatError(format string, args ...any) error {
	return fmt.Errorf("wire: %w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

var be = binary.BigEndian
