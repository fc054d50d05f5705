package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/sockemu"
)

// probeCmd measures every path to a peer, or says what this host has, or why a live connection is where it is.
type probeCmd struct {
	Peer   string        `arg:"" optional:"" help:"HOST:PORT where a program with sockemu listens; or the word why."`
	GID    string        `arg:"" optional:"" name:"gid" help:"After why: the connection, as ls shows it. The first digits are enough."`
	Self   bool          `help:"Print what this host has: interfaces, routes, RDMA devices."`
	JSON   bool          `name:"json" help:"Print one JSON object (with --watch, one per line)."`
	Watch  bool          `short:"w" help:"Measure again and again, until interrupted."`
	Every  time.Duration `default:"2s" help:"How often --watch measures (default ${default})."`
	Count  int           `placeholder:"N" help:"With --watch: so many times."`
	Size   []probeSize   `placeholder:"SIZE" help:"Sizes of the messages to choose for, in bytes; 32K and 1M can be written (default: a mix)."`
	Policy string        `placeholder:"POLICY" help:"Which substrates to admit, instead of SOCKEMU_SUBSTRATE and SOCKEMU_RULES: auto, pin:shm, prefer:udp,tcp, !shm."`
	keyFile
	Timeout time.Duration `default:"5s" help:"Bounds one measurement of everything (default ${default})."`
}

// why is the word that asks for the decisions about a connection.
const why = "why"

// Help says how the arguments go together.
func (c *probeCmd) Help() string {
	return `sockemu probe HOST:PORT: measure every path to the program that listens there.

sockemu probe why GID: the decisions that a running process of this user took for a connection.

sockemu probe --self: what this host has to connect with.`
}

// Validate finds arguments that are wrong or contradict each other.
func (c *probeCmd) Validate() error {
	switch {
	case c.Self && c.Peer != "":
		return errors.New("--self stands alone")
	case !c.Self && c.Peer == "":
		return errors.New("say which peer (HOST:PORT), or \"why GID\", or --self")
	case c.Peer == why && c.GID == "":
		return errors.New("say which connection: sockemu ls shows their GIDs")
	case c.Peer == why && !isGIDPrefix(c.GID):
		return fmt.Errorf("%q is no GID: 1 to 32 hexadecimal digits, as sockemu ls shows them", c.GID)
	case c.Peer != why && c.GID != "":
		return fmt.Errorf("%q: one peer at a time", c.GID)
	case (c.Self || c.Peer == why) && (c.Watch || c.Size != nil || c.Policy != "" || c.KeyFile != ""):
		return errors.New("--watch, --size, --policy and --key-file are for measuring a peer")
	case c.Count != 0 && !c.Watch:
		return errors.New("--count needs --watch")
	case c.Every < 10*time.Millisecond:
		return errors.New("--every must be at least 10ms")
	case c.Timeout <= 0, c.Count < 0:
		return errors.New("--timeout and --count must be positive")
	}
	if p, err := selector.ParsePolicy(c.Policy); err != nil {
		return fmt.Errorf("--policy: %w", err)
	} else if err := p.Check(substrateNames...); err != nil {
		return fmt.Errorf("--policy: %w", err)
	}
	if c.Self || c.Peer == why {
		return nil
	}
	return checkPeer(c.Peer)
}

// A probeSize is the length of a message.
type probeSize int

// maxProbeSize is far above what is written at a time, and far below what can't be calculated with.
const maxProbeSize = 1 << 30

// UnmarshalText reads a size as people write it: 128, 32K (KiB), 1M (MiB).
func (s *probeSize) UnmarshalText(b []byte) error {
	digits, unit := string(b), 1
	if d, ok := strings.CutSuffix(digits, "K"); ok {
		digits, unit = d, 1<<10
	} else if d, ok := strings.CutSuffix(digits, "M"); ok {
		digits, unit = d, 1<<20
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > maxProbeSize/unit {
		return fmt.Errorf("%q is no size: give bytes from 1 to %s, such as 128, 32K or 1M", b, byteSize(maxProbeSize))
	}
	*s = probeSize(n * unit)
	return nil
}

// sizes are those of --size.
func (c *probeCmd) sizes() []int {
	var list []int
	for _, n := range c.Size {
		list = append(list, int(n))
	}
	return list
}

// checkPeer finds what can't be the address of a peer, whatever the network says.
func checkPeer(peer string) error {
	if err := checkHostPort("tcp", peer, false); err != nil {
		return fmt.Errorf("%q is no peer: %w", peer, err)
	}
	return nil
}

// checkHostPort says what is wrong with an address that should be HOST:PORT; free says that port 0, a free one, will do.
func checkHostPort(network, addr string, free bool) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		var n int
		if n, err = net.LookupPort(network, port); err == nil && n == 0 && !free {
			err = errors.New("nothing listens on port 0")
		}
	}
	if err != nil {
		return fmt.Errorf("want HOST:PORT: %w", err)
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
	e, err := c.endpoint(std.log)
	if err != nil {
		return err
	}
	defer e.Close()
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	var p *sockemu.Prober
	for i := 1; ; i++ {
		r, err := c.measure(ctx, e, &p)
		switch {
		case ctx.Err() != nil && c.Watch:
			return nil
		case ctx.Err() != nil:
			return errInterrupted
		}
		if perr := c.print(std, i, r, err); perr != nil {
			return perr
		}
		if !c.Watch || i == c.Count {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// endpoint is configured by the flags.
func (c *probeCmd) endpoint(log *slog.Logger) (*sockemu.Endpoint, error) {
	cfg := sockemu.Config{Substrates: c.Policy, Private: true, HandshakeTimeout: c.Timeout}
	if c.Policy != "" {
		cfg.Rules = os.DevNull // a rule would go before the policy that was asked for
	}
	var err error
	if cfg.ClusterKey, err = c.key(log); err != nil {
		return nil, err
	}
	e, err := sockemu.NewEndpoint(cfg)
	if err != nil {
		return nil, usageError{err}
	}
	return e, nil
}

// measure does one round, making the prober if there is none yet. Its error says what is wrong with the peer, or that no path can be
// chosen; there is a report in that case.
func (c *probeCmd) measure(ctx context.Context, e *sockemu.Endpoint, p **sockemu.Prober) (selector.Report, error) {
	none := selector.Report{
		Peer: c.Peer, Policy: c.Policy, Candidates: []selector.Candidate{}, Best: []selector.Stretch{}, Curves: []selector.PathCurve{},
		Choice: selector.Choice{Why: "the peer can't be probed"},
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if *p == nil {
		var err error
		if *p, err = e.NewProber(ctx, c.Peer); err != nil {
			return none, explainFailure(c.Peer, "--timeout", err)
		}
	}
	if err := (*p).Probe(ctx); err != nil {
		return none, explainFailure(c.Peer, "--timeout", err)
	}
	r := (*p).Report(c.weights(), c.sizes())
	r.Peer = c.Peer // as the user knows it
	if r.Choice.Substrate == "" {
		return r, fmt.Errorf("%s: a program with sockemu answers there, but no path can be chosen: %s", c.Peer, r.Choice.Why)
	}
	return r, nil
}

// weights are those of a connection that has written nothing but messages of --size, all equally often.
func (c *probeCmd) weights() selector.Weights {
	if len(c.Size) == 0 {
		return selector.StartWeights
	}
	var s selector.Sizes
	for range 1<<20/len(c.Size) + 1 { // against which what is assumed of a new connection doesn't count
		for _, n := range c.Size {
			s.Add(int(n))
		}
	}
	return selector.WeightsOf(&s)
}

// A probeResult is what --json prints. Scripts depend on it.
type probeResult struct {
	selector.Report
	Error string `json:"error,omitempty"`
}

// print shows what a round has found. An error without a report needs no words here unless the next round hides it.
func (c *probeCmd) print(std *stdio, round int, r selector.Report, failed error) error {
	if c.JSON {
		result := probeResult{Report: r}
		if failed != nil {
			result.Error = failed.Error()
		}
		return json.NewEncoder(std.out).Encode(result)
	}
	var b bytes.Buffer
	if c.Watch {
		if isTTY(std.out) {
			b.WriteString("\x1b[H\x1b[2J") // home, and clear: ECMA-48
		}
		fmt.Fprintf(&b, "%s, round %d\n", time.Now().Format(time.TimeOnly), round)
	}
	switch {
	case len(r.Candidates) > 0:
		writeReport(&b, r, termWidth(std.out))
	case c.Watch:
		fmt.Fprintln(&b, printable(failed.Error()))
	}
	if c.Watch && !isTTY(std.out) {
		b.WriteByte('\n')
	}
	_, err := std.out.Write(b.Bytes())
	return err
}
