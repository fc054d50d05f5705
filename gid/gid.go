// Package gid holds the identities of the layer: the GID of a connection and the identity of a process.
//
// A GID names one connection for its whole life, wherever its two ends run and whatever substrate carries it (paper,
// section 3: "a global identity per connection, independent of where its end-point processes are"). It is random and
// carries no meaning and no authority: knowing one lets nobody resume, reset or read the connection.
package gid

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// Size is the length of a GID and of a ProcessID, in bytes.
const Size = 16

// GID is the 128-bit global identity of one connection. The zero GID names no connection.
type GID [Size]byte

// New returns a fresh random GID.
func New() GID {
	var g GID
	rand.Read(g[:]) // never fails: see crypto/rand.Read
	return g
}

// Parse reads the text form that String prints: 32 hexadecimal digits.
func Parse(s string) (GID, error) {
	var g GID
	if len(s) != 2*Size {
		return GID{}, fmt.Errorf("gid: %q has %d characters, want %d hexadecimal digits", s, len(s), 2*Size)
	}
	if _, err := hex.Decode(g[:], []byte(s)); err != nil {
		return GID{}, fmt.Errorf("gid: %q: %w", s, err)
	}
	return g, nil
}

// String returns the GID as 32 hexadecimal digits.
func (g GID) String() string { return hex.EncodeToString(g[:]) }

// Short returns the first 8 hexadecimal digits, for logs that print many.
func (g GID) Short() string { return hex.EncodeToString(g[:4]) }

// IsZero reports whether g names no connection.
func (g GID) IsZero() bool { return g == GID{} }

// MarshalText and UnmarshalText make a GID readable in JSON and in flags.
func (g GID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (g *GID) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err == nil {
		*g = v
	}
	return err
}

// ProcessID is the random identity of one running process (of one Endpoint in it). A process that is replaced by another
// one, even on the same host and port, has another ProcessID: that is how a load balancer, which sends a second
// connection to another process, is noticed.
type ProcessID [Size]byte

// NewProcessID returns a fresh random process identity.
func NewProcessID() ProcessID { return ProcessID(New()) }

// String returns the first 8 hexadecimal digits: enough to tell processes apart in a log.
func (p ProcessID) String() string { return hex.EncodeToString(p[:4]) }

// IsZero reports whether p names no process.
func (p ProcessID) IsZero() bool { return p == ProcessID{} }
