package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sockemu/sockemu/internal/control"
	"github.com/sockemu/sockemu/selector"
)

// isGIDPrefix reports whether s can be the beginning of a GID.
func isGIDPrefix(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "0123456789abcdefABCDEF") == "" // of the digits nothing remains
}

// explain asks the processes of this host why a connection is carried as it is.
func (c *probeCmd) explain(ctx context.Context, std *stdio) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	a, err := findWhy(ctx, "", strings.ToLower(c.GID))
	if c.JSON {
		var v any = a.Why
		if err != nil {
			v = struct {
				GID   string `json:"gid"`
				Error string `json:"error"`
			}{c.GID, err.Error()}
		}
		return errors.Join(json.NewEncoder(std.out).Encode(v), err)
	}
	if err != nil {
		return err
	}
	for _, e := range a.silent {
		std.log.Warn("the answer may be incomplete", "err", e)
	}
	var b bytes.Buffer
	a.write(&b, termWidth(std.out))
	_, err = std.out.Write(b.Bytes())
	return err
}

// An answer is what a process says about a connection.
type answer struct {
	control.Why
	pid    int
	silent []error // the processes that could not be asked
}

// findWhy asks all processes in dir for the connection whose GID begins with prefix. Both of its ends may be here: then the one
// that decides has the word.
func findWhy(ctx context.Context, dir, prefix string) (answer, error) {
	found, silent := control.Processes(ctx, dir)
	for _, err := range silent {
		if _, one := errors.AsType[*control.SilentError](err); !one {
			return answer{}, fmt.Errorf("%s: the processes of this user can't be asked: %w", prefix, err)
		}
	}
	var best *answer
	for _, p := range found {
		w, err := p.Why(ctx, prefix)
		switch {
		case errors.Is(err, control.ErrNoConnection), control.Gone(err):
		case errors.Is(err, control.ErrAmbiguous), err == nil && best != nil && best.Connection.GID != w.Connection.GID:
			return answer{}, fmt.Errorf("%s: %w: give more of them (sockemu ls --json shows all 32)", prefix, control.ErrAmbiguous)
		case err != nil:
			silent = append(silent, &control.SilentError{PID: p.Process.PID, Path: p.Path, Err: err})
		case best == nil || len(w.Decisions) > 0:
			best = &answer{Why: w, pid: p.Process.PID}
		}
	}
	switch {
	case best != nil:
		best.silent = silent
		return *best, nil
	case len(silent) == 0:
		return answer{}, fmt.Errorf("%s: no process of this user on this host has such a connection (sockemu ls shows those there are)", prefix)
	}
	var words []string
	for _, err := range silent {
		words = append(words, err.Error())
	}
	return answer{}, fmt.Errorf("%s: no process that could be asked has such a connection, but not all could: %s", prefix, strings.Join(words, "; "))
}

// write writes the answer for people: the connection, a line for each decision, and what was measured last.
func (a answer) write(b *bytes.Buffer, width int) {
	n := a.Connection
	fmt.Fprintf(b, "connection %s, %s in process %d, to %s: %s", printable(n.GID), printable(n.Role), a.pid, printable(n.Peer), printable(n.State))
	if n.Substrate != "" {
		fmt.Fprintf(b, " on %s (%s)", printable(n.Substrate), printable(n.Path))
	}
	fmt.Fprintf(b, "; %d link%s, %d move%s\n", n.Links, plural(int(n.Links)), n.Switches, plural(int(n.Switches)))
	for _, line := range a.Text {
		fmt.Fprintln(b, printable(line))
	}
	var r selector.Report
	if err := json.Unmarshal(a.Candidates, &r); err == nil && len(r.Candidates) > 0 {
		fmt.Fprintln(b, "\nas measured last:")
		writeReport(b, r, width)
	}
}
