package sockemu

import (
	"fmt"
	"strings"
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
)

// Stats are the figures of one connection at one moment. Bytes count the application's bytes.
type Stats struct {
	State         string        // "up", "parked", "closing", "ended", "exported" or "plain"
	Substrate     string        // of the current link, "" without one
	Mode          string        // of the current link: "bare", "record", "sealed"
	Control       string        // where acknowledgements travel: "channel", "in-band", "none"
	Links         uint64        // links used so far
	Cuts          uint64        // links lost so far
	Moves         uint64        // links given up for better ones
	FailedDials   uint64        // attempts that brought no new link
	Sent          uint64        // bytes written
	Acked         uint64        // of them, the peer's end has
	Received      uint64        // bytes arrived
	Unread        uint64        // of them, not read yet
	Unacked       int           // Sent - Acked: what would be replayed now, at most
	Replayed      uint64        // bytes sent again
	DownFor       time.Duration // how long there has been no path now
	LongestOutage time.Duration
	Epoch         uint64 // how often this end has moved, plus one
	PeerEpoch     uint64 // how often the other end has moved, plus one
}

// Stats returns the connection's figures. It takes locks: don't call it per message.
func (c *Conn) Stats() Stats {
	if c.s == nil {
		return Stats{State: "plain", Substrate: "tcp", Mode: "bare", Control: "none"}
	}
	return statsOf(c.s.Snapshot())
}

func statsOf(n session.Snapshot) Stats {
	return Stats{
		State: n.State, Substrate: n.Substrate, Mode: n.Mode, Control: n.Control, Links: n.Links, Cuts: n.Lost, Moves: n.Moved,
		FailedDials: n.FailedDial, Sent: n.Sent, Acked: n.Acked, Received: n.Received, Unread: n.Unread,
		Unacked: int(n.Sent - n.Acked), Replayed: n.Replayed, DownFor: n.DownFor, LongestOutage: n.MaxOutage,
		Epoch: n.Epoch, PeerEpoch: n.PeerEpoch,
	}
}

// Explanation says how a connection is carried and why, and what has happened to it lately.
type Explanation struct {
	GID   string
	Stats Stats
	Why   string // in plain words
	Path  string // physical addresses of the current link
	RTT   time.Duration
	Peer  string // identity of the process at the other end
	// Choice says why this path carries the connection and none of the others, with the figures; "" at the end that doesn't decide
	// (it was dialled) and if there is nothing to choose from.
	Choice string
	Events []string
	Err    error
}

// carriers says in words what carries a connection.
var carriers = map[string]string{"tcp": "kernel TCP", "shm": "shared memory", "udp": "reliable UDP", "verbs": "RDMA"}

// Explain says how the connection is carried and why, from the same state that the data path uses.
func (c *Conn) Explain() Explanation {
	if c.s == nil {
		return Explanation{Stats: c.Stats(), Why: "plain TCP without any of the layer's promises: " + c.why,
			Path: c.plain.LocalAddr().String() + " - " + c.plain.RemoteAddr().String()}
	}
	n := c.s.Snapshot()
	x := Explanation{GID: n.GID.String(), Stats: statsOf(n), RTT: n.Cost.RTT, Peer: n.Peer.String(), Err: n.Err}
	if n.Local != "" {
		x.Path = n.Local + " - " + n.Remote
	}
	for _, e := range n.Events {
		x.Events = append(x.Events, e.At.Format("15:04:05.000")+" "+e.What)
	}
	if why, ok := c.e.e.Why(c.s); ok {
		switch n := len(why.Decisions); {
		case why.Err != nil:
			x.Choice = why.Err.Error()
		case n > 0:
			x.Choice = why.Decisions[n-1].String()
			for i := n - 1; i >= 0; i-- {
				if d := why.Decisions[i]; d.Action == selector.Switch && i < n-1 {
					x.Choice = d.String() + "; now " + x.Choice
					break
				}
			}
		}
	}
	by := carriers[n.Substrate]
	if by == "" {
		by = n.Substrate
	}
	switch {
	case n.State == "parked":
		x.Why = fmt.Sprintf("no link for %v; %d bytes are kept for replay", n.DownFor.Round(time.Millisecond), n.Sent-n.Acked)
		if !n.Initiator {
			x.Why += "; waiting for the peer, which had dialled, to dial again"
		}
	case n.State == "ended" || n.State == "exported":
		x.Why = n.State
	case n.Mode == "sealed":
		x.Why = by + ", encrypted; acknowledgements travel in the link"
	case n.Control == "in-band":
		x.Why = by + ", framed: there is no second path to the peer's process (yet), so acknowledgements travel in the link. " +
			"If this lasts, a load balancer or relay leads other connections to another process"
	case n.Control == "none":
		x.Why = by + ", bare, but the control channel is lost and being re-established"
	default:
		x.Why = by + ", bare application bytes; acknowledgements travel on the control channel"
	}
	return x
}

// String renders the explanation for people.
func (x Explanation) String() string {
	var b strings.Builder
	if x.GID != "" {
		fmt.Fprintf(&b, "connection %s\n", x.GID)
	}
	fmt.Fprintf(&b, "  state   %s: %s\n", x.Stats.State, x.Why)
	if x.Path != "" {
		fmt.Fprintf(&b, "  path    %s", x.Path)
		if x.RTT > 0 {
			fmt.Fprintf(&b, ", RTT %v", x.RTT)
		}
		b.WriteByte('\n')
	}
	if x.Choice != "" {
		fmt.Fprintf(&b, "  choice  %s\n", x.Choice)
	}
	if x.GID != "" {
		s := x.Stats
		fmt.Fprintf(&b, "  bytes   %d sent (%d unacknowledged), %d received (%d unread), %d replayed\n", s.Sent, s.Unacked, s.Received, s.Unread, s.Replayed)
		fmt.Fprintf(&b, "  links   %d used, %d lost, %d given up for better ones, longest outage %v\n", s.Links, s.Cuts, s.Moves, s.LongestOutage.Round(time.Millisecond))
		fmt.Fprintf(&b, "  moves   this end %d, other end %d (process %s)\n", s.Epoch-1, s.PeerEpoch-1, x.Peer)
	}
	if x.Err != nil {
		fmt.Fprintf(&b, "  ended   %v\n", x.Err)
	}
	for _, e := range x.Events {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	return b.String()
}
