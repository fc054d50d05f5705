package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sockemu/sockemu/internal/control"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/substrate"
)

// probeCmd measures every path to a peer, or says what this host has, or why a live connection is where it is.
type probeCmd struct {
	Peer    string        `arg:"" optional:"" help:"HOST:PORT where a program with sockemu listens; or \"why\"."`
	GID     string        `arg:"" optional:"" name:"gid" help:"After \"why\": the connection, as ls shows it. The beginning is enough."`
	Self    bool          `help:"Print what this host has: interfaces, routes, RDMA devices."`
	JSON    bool          `name:"json" help:"Print one JSON object (with --watch, one per line)."`
	Watch   bool          `short:"w" help:"Measure again and again, until interrupted."`
	Every   time.Duration `default:"2s" help:"How often --watch measures (default ${default})."`
	Count   int           `placeholder:"N" help:"With --watch: so many times."`
	Size    []int         `placeholder:"BYTES" help:"Sizes of the messages to choose for (default: a mix)."`
	Policy  string        `placeholder:"POLICY" help:"Which substrates to admit, as SOCKEMU_SUBSTRATE: auto, pin:shm, prefer:udp,tcp, !shm."`
	KeyFile string        `type:"existingfile" placeholder:"FILE" help:"File with the key that both ends share."`
	Timeout time.Duration `default:"5s" help:"Bounds one measurement of everything (default ${default})."`
}

// why is the word that asks for the decisions about a connection.
const why = "why"

// Validate finds arguments that contradict each other.
func (c *probeCmd) Validate() error {
	switch {
	case c.Self && (c.Peer != "" || c.Watch):
		return errors.New("--self stands alone")
	case !c.Self && c.Peer == "":
		return errors.New("say which peer (HOST:PORT), or \"why GID\", or --self")
	case c.Peer == why && c.GID == "":
		return errors.New("say which connection: sockemu ls shows their GIDs")
	case c.Peer != why && c.GID != "":
		return fmt.Errorf("%q: one peer at a time", c.GID)
	case c.Every < 10*time.Millisecond, c.Timeout <= 0, c.Count < 0:
		return errors.New("--every must be at least 10ms, --timeout positive")
	}
	for _, n := range c.Size {
		if n <= 0 {
			return errors.New("--size must be positive")
		}
	}
	return nil
}

// Run does what was asked for.
func (c *probeCmd) Run(ctx context.Context, std *stdio) error {
	switch {
	case c.Self:
		return printSelf(std.out, c.JSON)
	case c.Peer == why:
		return c.explain(ctx, std)
	}
	cfg := sockemu.Config{Substrates: c.Policy, Private: true, HandshakeTimeout: c.Timeout}
	if c.KeyFile != "" {
		key, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return err
		}
		cfg.ClusterKey = bytes.TrimSpace(key)
	}
	e, err := sockemu.NewEndpoint(cfg)
	if err != nil {
		return usageError{err}
	}
	defer e.Close()
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	var p *sockemu.Prober
	for i := 1; ; i++ {
		r, err := c.measure(ctx, e, &p)
		if ctx.Err() != nil {
			return errInterrupted
		}
		if perr := c.print(std, r, err); perr != nil {
			return perr
		}
		if !c.Watch || i == c.Count {
			if err == nil && r.Choice.Substrate == "" {
				err = errors.New(r.Choice.Why)
			}
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *probeCmd) measure(ctx context.Context, e *sockemu.Endpoint, p **sockemu.Prober) (selector.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if *p == nil {
		var err error
		if *p, err = e.NewProber(ctx, c.Peer); err != nil {
			return selector.Report{}, explainFailure(c.Peer, err)
		}
	}
	if err := (*p).Probe(ctx); err != nil {
		return selector.Report{}, explainFailure(c.Peer, err)
	}
	w := selector.StartWeights
	if len(c.Size) > 0 {
		var s selector.Sizes
		for range 1000 {
			for _, n := range c.Size {
				s.Add(n)
			}
		}
		w = selector.WeightsOf(&s)
	}
	return (*p).Report(w, c.Size), nil
}

// explainFailure says what a failed probe means and what to look at.
func explainFailure(peer string, err error) error {
	advice := ""
	var refused *sockemu.RefusedError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		advice = "the name can't be resolved: check it, or use an address"
	case errors.As(err, &refused):
		advice = "a sockemu process answers there, but refuses: both ends need the same cluster key (--key-file)"
	case errors.Is(err, sockemu.ErrNotSockemu):
		advice = "something listens there that is no program with sockemu: check the port; such a peer gets plain TCP"
	case errors.Is(err, substrate.ErrRefused):
		advice = "the host answers, but nobody listens on that port: is the program running, is the port right?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		advice = "no answer in time: the host is down, or a firewall drops the packets; --timeout waits longer"
	case errors.Is(err, substrate.ErrPathDown):
		advice = "the host can't be reached: check the address, the route (sockemu probe --self) and firewalls"
	case errors.Is(err, substrate.ErrProtocol):
		advice = "both ends need the same cluster key (--key-file) and version"
	case errors.Is(err, substrate.ErrConfig):
		advice = "this can't work as it is asked for"
	}
	if advice == "" {
		return err
	}
	return fmt.Errorf("%s: %s (%w)", peer, advice, err)
}

func (c *probeCmd) print(std *stdio, r selector.Report, failed error) error {
	if c.JSON {
		if failed != nil {
			return json.NewEncoder(std.out).Encode(struct {
				Peer       string               `json:"peer"`
				Candidates []selector.Candidate `json:"candidates"`
				Choice     selector.Choice      `json:"choice"`
				Error      string               `json:"error"`
			}{c.Peer, []selector.Candidate{}, selector.Choice{Why: "the peer can't be probed"}, failed.Error()})
		}
		return json.NewEncoder(std.out).Encode(r)
	}
	var b bytes.Buffer
	switch {
	case c.Watch && isTTY(std.out):
		b.WriteString("\x1b[H\x1b[2J")
	case failed != nil && !c.Watch:
		return nil // the error says it all
	}
	if failed != nil {
		fmt.Fprintln(&b, failed)
	} else {
		writeReport(&b, r)
	}
	if c.Watch && !isTTY(std.out) {
		b.WriteByte('\n')
	}
	_, err := std.out.Write(b.Bytes())
	return err
}

// explain asks the processes of this host why a connection is carried as it is. The end that has dialled it knows.
func (c *probeCmd) explain(ctx context.Context, std *stdio) error {
	found, errs := control.Processes(ctx, "")
	var best *control.Why
	for _, p := range found {
		w, err := p.Why(ctx, strings.ToLower(c.GID))
		switch {
		case errors.Is(err, control.ErrNoConnection):
			continue
		case err != nil:
			errs = append(errs, fmt.Errorf("process %d: %w", p.Process.PID, err))
			continue
		case best != nil && best.Connection.GID != w.Connection.GID:
			return fmt.Errorf("%s: %w", c.GID, control.ErrAmbiguous)
		case best == nil || len(w.Decisions) > 0:
			best = &w
		}
	}
	if best == nil {
		return errors.Join(append([]error{fmt.Errorf("%s: no process of this user on this host has such a connection (see sockemu ls)", c.GID)}, errs...)...)
	}
	if c.JSON {
		return json.NewEncoder(std.out).Encode(best)
	}
	var b bytes.Buffer
	n := best.Connection
	fmt.Fprintf(&b, "connection %s, %s, to %s: %s", n.GID, n.Role, n.Peer, n.State)
	if n.Substrate != "" {
		fmt.Fprintf(&b, " on %s (%s)", n.Substrate, n.Path)
	}
	fmt.Fprintf(&b, "; %d links, %d moves\n", n.Links, n.Switches)
	for _, line := range best.Text {
		fmt.Fprintln(&b, printable(line))
	}
	if len(best.Candidates) > 0 && string(best.Candidates) != "null" {
		var r selector.Report
		if err := json.Unmarshal(best.Candidates, &r); err == nil && len(r.Candidates) > 0 {
			fmt.Fprintln(&b, "\nas measured last:")
			writeReport(&b, r)
		}
	}
	_, err := std.out.Write(b.Bytes())
	return err
}
