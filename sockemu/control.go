package sockemu

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/sockemu/sockemu/internal/control"
	"github.com/sockemu/sockemu/internal/session"
)

// control opens the control socket, through which `sockemu ls` and `sockemu probe why` look at this process, when the endpoint
// is first used. The layer works the same without it.
func (e *Endpoint) control() {
	if e.cfg.Private {
		return
	}
	e.open.Do(func() {
		s, err := control.Serve(e.e.Proc(), source{e})
		if err != nil {
			e.logger().Debug("no control socket", "err", err)
			return
		}
		e.ctl = s
	})
}

// source answers the control socket's questions.
type source struct{ e *Endpoint }

func (s source) Process() control.Process {
	p := control.Process{Connections: len(s.e.e.Sessions())}
	if info, ok := debug.ReadBuildInfo(); ok {
		p.Version = info.Main.Version
	}
	return p
}

func (s source) Connections() []control.Connection {
	var list []control.Connection
	for _, c := range s.e.e.Sessions() {
		list = append(list, s.describe(c.Snapshot(), c))
	}
	return list
}

// describe is describe, with the round trip as it was measured last where the link itself doesn't know it.
func (s source) describe(n session.Snapshot, c *session.Session) control.Connection {
	x := describe(n, c)
	if x.RTT == 0 && x.Substrate != "" {
		x.RTT = s.e.e.MeasuredRTT(c)
	}
	return x
}

func describe(n session.Snapshot, s *session.Session) control.Connection {
	c := control.Connection{
		GID: n.GID.String(), Role: "acceptor", PeerProcess: n.Peer.String(), Substrate: n.Substrate, State: n.State, RTT: n.Cost.RTT,
		BytesIn: n.Received, BytesOut: n.Sent, Unacked: n.Sent - n.Acked, Links: n.Links, Switches: n.Moved, Since: n.Opened,
	}
	if n.Initiator {
		c.Role = "dialer"
	}
	if a := s.LocalAddr(); a != nil {
		c.Local = a.String()
	}
	if a := s.RemoteAddr(); a != nil {
		c.Peer = a.String()
	}
	if n.Local != "" {
		c.Path = n.Local + " - " + n.Remote
	}
	if len(n.Events) > 0 {
		last := n.Events[len(n.Events)-1]
		c.LastEvent, c.LastEventAt = last.What, last.At
	}
	return c
}

func (s source) Why(prefix string) (control.Why, error) {
	var found *session.Session
	for _, c := range s.e.e.Sessions() {
		if !strings.HasPrefix(c.GID().String(), prefix) {
			continue
		}
		if found != nil && found.GID() != c.GID() {
			return control.Why{}, control.ErrAmbiguous
		}
		if found == nil || c.Initiator() { // of a connection to itself, the end that decides
			found = c
		}
	}
	if found == nil {
		return control.Why{}, control.ErrNoConnection
	}
	w := control.Why{Connection: s.describe(found.Snapshot(), found)}
	why, decides := s.e.e.Why(found)
	if !decides {
		w.Text = []string{"the other end, which has dialled the connection, decides: ask there"}
		return w, nil
	}
	for _, d := range why.Decisions {
		b, err := json.Marshal(d)
		if err != nil {
			return control.Why{}, fmt.Errorf("decision at %v: %w", d.At, err)
		}
		w.Decisions = append(w.Decisions, b)
		line := d.At.Format("15:04:05.000") + " " + d.String()
		if d.Repeats > 0 {
			line += fmt.Sprintf(" (%d times)", d.Repeats+1)
		}
		w.Text = append(w.Text, line)
	}
	var err error
	w.Candidates, err = json.Marshal(why.Report)
	return w, err
}
