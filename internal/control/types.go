package control

import (
	"encoding/json"
	"errors"
	"time"
)

// A Process is one endpoint of one running program.
type Process struct {
	PID         int       `json:"pid"`
	Executable  string    `json:"executable"`
	Arg0        string    `json:"arg0"`
	Started     time.Time `json:"started"`
	Version     string    `json:"version"`
	Proc        string    `json:"proc"` // the process identity of package gid
	Connections int       `json:"connections"`
}

// A Connection is one end of one connection at one moment. Bytes are the application's.
type Connection struct {
	GID         string        `json:"gid"`
	Role        string        `json:"role"`          // "dialer" or "acceptor"
	Local       string        `json:"local"`         // the addresses that the application sees
	Peer        string        `json:"peer"`          //
	PeerProcess string        `json:"peer_process"`  // identity of the process at the other end
	Substrate   string        `json:"substrate"`     // of the current link, "" without one
	Path        string        `json:"path"`          // physical addresses of the current link, "" without one
	State       string        `json:"state"`         // "up", "parked", "closing", "ended", "exported" or "plain"
	RTT         time.Duration `json:"rtt_ns"`        // as the link knows it, else as measured last by the end that dialled; 0: unknown
	BytesIn     uint64        `json:"bytes_in"`      // arrived
	BytesOut    uint64        `json:"bytes_out"`     // written
	Unacked     uint64        `json:"unacked"`       // of them, the peer's end does not have yet, as far as is known
	Links       uint64        `json:"links"`         // used so far
	Switches    uint64        `json:"switches"`      // from one substrate or path to another while the old one worked
	LastEvent   string        `json:"last_event"`    // in words
	LastEventAt time.Time     `json:"last_event_at"` // zero: nothing has happened yet
	Since       time.Time     `json:"since"`         // when the connection was made, or came into this process
}

// Why is how one connection came to be carried as it is.
type Why struct {
	Connection Connection        `json:"connection"`
	Decisions  []json.RawMessage `json:"decisions"`            // the selector's, oldest first
	Text       []string          `json:"text"`                 // the same for people, a line each
	Candidates json.RawMessage   `json:"candidates,omitempty"` // the selector's table of what could carry it
}

// A Source knows what the server is asked for. Its methods are safe for concurrent use and don't wait for the network: Close
// waits for them.
type Source interface {
	// Process describes the process; the server fills in PID, Executable, Arg0, Proc and, if it is zero, Started.
	Process() Process

	// Connections returns the connections that have not ended.
	Connections() []Connection

	// Why explains the one connection whose GID, as 32 lower-case hexadecimal digits, begins with gidPrefix, which is 1 to 32 of
	// them. Its errors wrap ErrNoConnection or ErrAmbiguous when there isn't exactly one.
	Why(gidPrefix string) (Why, error)
}

// Errors of Source.Why and Client.Why.
var (
	ErrNoConnection = errors.New("no such connection")
	ErrAmbiguous    = errors.New("several connections begin with these digits")
)
