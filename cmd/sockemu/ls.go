package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/sockemu/sockemu/internal/control"
)

// lsCmd lists the connections of this user's processes on this host. Its exit status is 1 if a process did not answer: then
// the list isn't complete.
type lsCmd struct {
	JSON  bool          `help:"Print one JSON object (with --watch, one per line)." name:"json"`
	Watch bool          `short:"w" help:"Print the list again and again, until interrupted."`
	Every time.Duration `default:"1s" help:"How often --watch looks (default ${default})."`
	Dir   string        `type:"existingdir" placeholder:"DIR" help:"Directory of the processes' sockets (default: this user's own)."`
	connFilter
}

// A connFilter says which connections are listed. Empty fields admit all.
type connFilter struct {
	PID       int    `name:"pid" placeholder:"PID" help:"Only this process."`
	Peer      string `placeholder:"TEXT" help:"Only connections with this in the peer's address."`
	Substrate string `placeholder:"NAME" help:"Only connections on this substrate; none: those without a path."`
	State     string `placeholder:"STATE" help:"Only connections in this state: up, parked, closing, plain."`
	Role      string `placeholder:"ROLE" help:"Only the ends that dialled (dialer), or were dialled (acceptor)."`
}

// substrateNames are those that connections may use.
var substrateNames = []string{"tcp", "shm", "udp", "verbs"}

// admits reports whether a connection is listed.
func (f connFilter) admits(c listedConnection) bool {
	return (f.PID == 0 || c.PID == f.PID) && strings.Contains(c.Peer, f.Peer) && (f.State == "" || c.State == f.State) &&
		(f.Role == "" || c.Role == f.Role) && (f.Substrate == "" || cmp.Or(c.Substrate, "none") == f.Substrate)
}

// apply leaves of a list what the filter admits.
func (f connFilter) apply(l *listing) {
	l.total = len(l.Connections)
	l.Connections = slices.DeleteFunc(l.Connections, func(c listedConnection) bool { return !f.admits(c) })
	if f.PID != 0 {
		l.Processes = slices.DeleteFunc(l.Processes, func(p control.Process) bool { return p.PID != f.PID })
		l.Silent = slices.DeleteFunc(l.Silent, func(s silentProcess) bool { return s.PID != f.PID })
	}
}

// check finds words that no connection matches, ever.
func (f connFilter) check() error {
	for _, x := range []struct {
		flag, word string
		known      []string
	}{
		{"substrate", f.Substrate, append(append([]string{""}, substrateNames...), "none")},
		{"state", f.State, []string{"", "up", "parked", "closing", "plain"}},
		{"role", f.Role, []string{"", "dialer", "acceptor"}},
	} {
		if !slices.Contains(x.known, x.word) {
			return fmt.Errorf("--%s: %q is none; there are %s", x.flag, x.word, strings.Join(x.known[1:], ", "))
		}
	}
	if f.PID < 0 {
		return errors.New("--pid must be positive")
	}
	return nil
}

// Validate finds flags that make no sense.
func (c *lsCmd) Validate() error {
	if c.Every < 10*time.Millisecond {
		return errors.New("--every must be at least 10ms")
	}
	return c.check()
}

// A listing is what the processes of a host said at one moment.
type listing struct {
	Processes   []control.Process  `json:"processes"`
	Connections []listedConnection `json:"connections"`
	Silent      []silentProcess    `json:"silent"`          // processes that are there but don't answer
	Error       string             `json:"error,omitempty"` // why the list isn't complete, or couldn't be made

	total int // connections before any were left out
}

// A listedConnection is a connection, and whose it is.
type listedConnection struct {
	PID  int    `json:"pid"`
	Proc string `json:"proc"`
	control.Connection
}

// A silentProcess is one that doesn't answer, and why.
type silentProcess struct {
	PID   int    `json:"pid"`
	Error string `json:"error"`
}

// Run prints the list once, or until ctx ends.
func (c *lsCmd) Run(ctx context.Context, std *stdio) error {
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		l, err := listAll(ctx, c.Dir)
		c.apply(&l)
		if c.Watch && ctx.Err() != nil {
			return nil
		}
		if err != nil { // there is nowhere to look: no list
			if c.JSON {
				return errors.Join(err, c.print(std, l, err))
			}
			return err
		}
		err = l.complete()
		if perr := c.print(std, l, err); perr != nil {
			return perr
		}
		if !c.Watch {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// complete says which processes are missing.
func (l listing) complete() error {
	var pids []string
	for _, s := range l.Silent {
		pids = append(pids, fmt.Sprint(s.PID))
	}
	if len(pids) == 0 {
		return nil
	}
	return fmt.Errorf("no answer from %d of %d processes: %s", len(pids), len(pids)+len(l.Processes), strings.Join(pids, ", "))
}

// listAll asks all processes. Its error is that there is no place to look for them.
func listAll(ctx context.Context, dir string) (listing, error) {
	found, failed := control.Processes(ctx, dir)
	l := listing{Processes: []control.Process{}, Connections: []listedConnection{}, Silent: []silentProcess{}}
	for _, err := range failed {
		e, ok := errors.AsType[*control.SilentError](err)
		if !ok {
			return l, err
		}
		l.Silent = append(l.Silent, silentProcess{e.PID, e.Err.Error()})
	}
	lists, errs := make([][]control.Connection, len(found)), make([]error, len(found))
	var asking sync.WaitGroup
	for i, p := range found {
		asking.Go(func() { lists[i], errs[i] = p.Connections(ctx) })
	}
	asking.Wait()
	for i, p := range found {
		if control.Gone(errs[i]) {
			continue // it has ended since it was found
		}
		if errs[i] != nil {
			l.Silent = append(l.Silent, silentProcess{p.Process.PID, errs[i].Error()})
			continue
		}
		l.Processes = append(l.Processes, p.Process)
		for _, conn := range lists[i] {
			l.Connections = append(l.Connections, listedConnection{p.Process.PID, p.Process.Proc, conn})
		}
	}
	return l, nil
}

// print shows the list. Why it isn't complete is no part of it for people: that is the command's error.
func (c *lsCmd) print(std *stdio, l listing, failed error) error {
	if c.JSON {
		if failed != nil {
			l.Error = failed.Error()
		}
		return json.NewEncoder(std.out).Encode(l)
	}
	var b bytes.Buffer
	if c.Watch && isTTY(std.out) {
		b.WriteString("\x1b[H\x1b[2J") // home, and clear: ECMA-48
	}
	l.table(&b, time.Now())
	if c.Watch && !isTTY(std.out) {
		b.WriteByte('\n')
	}
	_, err := std.out.Write(b.Bytes())
	return err
}

// table writes a line for each connection, and one for each process that doesn't answer.
func (l listing) table(b *bytes.Buffer, now time.Time) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, printable(cmp.Or(fmt.Sprint(c), "-")))
		}
		fmt.Fprintln(t)
	}
	programs := make(map[string]string)
	for _, p := range l.Processes {
		programs[p.Proc] = programName(p)
	}
	row("PID", "PROGRAM", "GID", "ROLE", "PEER", "SUBSTRATE", "STATE", "RTT", "SENT", "RECEIVED", "UNACKED", "LAST EVENT")
	for _, c := range l.Connections {
		row(c.PID, programs[c.Proc], c.GID[:min(8, len(c.GID))], c.Role, c.Peer, c.Substrate, c.State, rttText(c.RTT), bytesText(c.BytesOut),
			bytesText(c.BytesIn), bytesText(c.Unacked), c.lastEvent(now))
	}
	for _, s := range l.Silent {
		row(s.PID, "", "", "", "", "", "no answer", "", "", "", "", s.Error)
	}
	t.Flush()
	if len(l.Connections) > 0 {
		return
	}
	if l.total > 0 {
		fmt.Fprintf(b, "none of %d connection%s matches\n", l.total, plural(l.total))
		return
	}
	for _, p := range l.Processes {
		fmt.Fprintf(b, "no connection in process %d (%s)\n", p.PID, printable(programName(p)))
	}
}

// programName is what a process was started as, without its directory.
func programName(p control.Process) string {
	if p.Arg0 == "" {
		return ""
	}
	name := []rune(filepath.Base(p.Arg0))
	return string(name[:min(len(name), maxProgramName)])
}

// maxProgramName keeps the table narrow; the kernel shows as much of a program's name.
const maxProgramName = 15

// lastEvent is the last thing that happened to the connection, and how long ago.
func (c listedConnection) lastEvent(now time.Time) string {
	if c.LastEvent == "" || c.LastEventAt.IsZero() {
		return c.LastEvent
	}
	return fmt.Sprintf("%s, %s ago", c.LastEvent, ageText(now.Sub(c.LastEventAt)))
}

// ageText writes an age in its largest unit.
func ageText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, d)/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// rttText writes a round-trip time with three digits, "" if it is unknown.
func rttText(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g us", float64(d)/float64(time.Microsecond))
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

// printable keeps what a process or its peer says from steering the terminal or breaking the columns.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return r
		}
		return '?'
	}, s)
}
