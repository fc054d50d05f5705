package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/sockemu/sockemu/internal/netem"
)

// netemCmd puts programs at the ends of a bad network.
type netemCmd struct {
	UDP netemUDPCmd `cmd:"" name:"udp" help:"Forward datagrams to a target over an emulated path."`
	NS  netemNSCmd  `cmd:"" name:"ns" help:"Run a program, and a server for it, in two network namespaces joined by an emulated path (needs root)."`
}

// netemFlags are what the commands share. A direction that isn't named has what --both says.
type netemFlags struct {
	Both netem.Impairment  `placeholder:"SPEC" default:"none" help:"What both directions do, like rate=20mbit,delay=25ms,loss=1% (docs/netem.md)."`
	Up   *netem.Impairment `placeholder:"SPEC" help:"What the direction from the client does, instead of --both."`
	Down *netem.Impairment `placeholder:"SPEC" help:"What the direction to the client does, instead of --both."`
	Seed uint64            `default:"1" help:"Of the dice: the same seed has the same mishaps for the same packets."`
}

// impairments returns what each direction does.
func (f *netemFlags) impairments() (up, down netem.Impairment) {
	up, down = f.Both, f.Both
	if f.Up != nil {
		up = *f.Up
	}
	if f.Down != nil {
		down = *f.Down
	}
	return up, down
}

// netemUDPCmd is a forwarder until it is interrupted.
type netemUDPCmd struct {
	netemFlags
	Listen  string        `default:"127.0.0.1:0" placeholder:"HOST:PORT" help:"Where clients send to (default ${default}, a free port)."`
	To      string        `required:"" placeholder:"HOST:PORT" help:"Where their datagrams go."`
	Idle    time.Duration `default:"1m" placeholder:"D" help:"Forget a client that has been idle for so long (default ${default})."`
	Clients int           `default:"1024" placeholder:"N" help:"How many clients there may be at once (default ${default})."`
	Rebind  time.Duration `placeholder:"D" help:"Change the clients' source ports so often, as a NAT may. Default: never."`
	Time    time.Duration `placeholder:"D" help:"End after so long. Default: when interrupted."`
}

// Validate checks what the parser can't.
func (c *netemUDPCmd) Validate() error {
	if err := checkHostPort("udp", c.To, false); err != nil {
		return fmt.Errorf("--to=%s: %w", c.To, err)
	}
	if err := checkHostPort("udp", c.Listen, true); err != nil {
		return fmt.Errorf("--listen=%s: %w", c.Listen, err)
	}
	if c.Idle <= 0 || c.Clients <= 0 || c.Rebind < 0 || c.Time < 0 {
		return errors.New("--idle and --clients must be positive, --rebind and --time not negative")
	}
	return nil
}

// Run forwards until it is interrupted, which is no failure, or the time is up; then it prints what happened.
func (c *netemUDPCmd) Run(ctx context.Context, std *stdio) error {
	up, down := c.impairments()
	f, err := netem.ForwardUDP(ctx, netem.UDPConfig{
		Listen: c.Listen, To: c.To, Up: up, Down: down, Seed: c.Seed, Idle: c.Idle, Clients: c.Clients, Rebind: c.Rebind,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(std.err, "forwarding %s to %s; up: %v; down: %v\n", f.Addr(), c.To, up, down)
	if c.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Time)
		defer cancel()
	}
	<-ctx.Done()
	if err := f.Close(); err != nil {
		return err
	}
	if _, refused := f.Clients(); refused > 0 {
		std.log.Warn("datagrams of further clients were ignored", "datagrams", refused, "clients", c.Clients)
	}
	upStats, downStats := f.Stats()
	return writeNetemStats(std.out, &upStats, &downStats)
}

// writeNetemStats prints the counters of both directions side by side.
func writeNetemStats(out io.Writer, up, down *netem.Stats) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tup\tdown\t")
	row := func(name string, value func(*netem.Stats) uint64) {
		fmt.Fprintf(w, "%s\t%d\t%d\t\n", name, value(up), value(down))
	}
	row("packets", func(s *netem.Stats) uint64 { return s.Admitted })
	row("bytes", func(s *netem.Stats) uint64 { return s.Bytes })
	row("delivered", func(s *netem.Stats) uint64 { return s.Delivered })
	row("copies among them", func(s *netem.Stats) uint64 { return s.Duplicated })
	row("corrupted", func(s *netem.Stats) uint64 { return s.Corrupted })
	row("held back", func(s *netem.Stats) uint64 { return s.Reordered })
	row("dropped: loss", func(s *netem.Stats) uint64 { return s.Lost })
	row("full queue", func(s *netem.Stats) uint64 { return s.QueueFull })
	row("too large", func(s *netem.Stats) uint64 { return s.TooLarge })
	row("black hole", func(s *netem.Stats) uint64 { return s.Blackholed })
	row("overflow", func(s *netem.Stats) uint64 { return s.Overflow })
	row("marked CE", func(s *netem.Stats) uint64 { return s.Marked })
	row("longest queue, bytes", func(s *netem.Stats) uint64 { return uint64(s.MaxQueue) })
	row("mean wait in it, µs", func(s *netem.Stats) uint64 { return uint64(s.MeanWait().Microseconds()) })
	return w.Flush()
}
