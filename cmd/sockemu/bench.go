package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/sockemu/sockemu/bench"
)

// placementAll as --placement stands for every placement.
const placementAll = "all"

type benchCmd struct {
	Op         []string      `default:"rtt,bw" help:"What to measure: rtt (ping-pong), bw (one-way stream)."`
	Mode       []string      `help:"Ways to connect, beside raw TCP. Default: all there are."`
	Substrate  []string      `default:"tcp" help:"What carries the bytes: tcp, udp, shm, verbs, auto."`
	Size       []messageSize `help:"Message sizes in bytes; 32K and 1M can be written. Default: the paper's nine, 128 to 32768."`
	Placement  []string      `default:"all" help:"Where the two processes run: same (on one CPU), two (on two), free (where the scheduler likes), all."`
	Reps       int           `default:"40" help:"Rounds of each case; 30 at least for figures to trust."`
	Block      time.Duration `default:"4ms" help:"How long a block lasts, about: one round of one connection. Emulated machines need more."`
	Conns      int           `default:"8" help:"Connections of each mode, used in turn."`
	Time       time.Duration `default:"55s" help:"Time for the whole run, about: cases make fewer rounds if it gets short. 0: no limit."`
	JSON       string        `name:"json" placeholder:"FILE" help:"Write the report there as JSON; -: to standard output, instead of the table."`
	Host       string        `placeholder:"IP" help:"Listen at this address of the machine instead of the loopback: that of an RDMA device's interface for verbs."`
	NetNS      bool          `name:"netns" help:"Run the two processes in two network namespaces joined by a veth pair (needs root)."`
	Congestion string        `placeholder:"NAME" help:"Congestion control of TCP; default: leave the system's. Default: cubic where it can be had, else reno."`
	Cold       bool          `help:"Bandwidth: send from 64 MiB instead of from one message that stays in the CPU's cache."`
	Seed       uint64        `default:"1" help:"Of the random order of blocks."`
	Profile    string        `placeholder:"DIR" type:"existingdir" help:"Write a CPU profile of each worker process there: ROLE-PID.prof, for go tool pprof."`
}

// messageSize lets the parser read a bench.Size.
type messageSize bench.Size

// UnmarshalText reads 128, 32K or 1M.
func (s *messageSize) UnmarshalText(b []byte) error {
	n, err := bench.ParseSize(string(b))
	*s = messageSize(n)
	return err
}

// Validate checks what the parser can't.
func (c *benchCmd) Validate() error {
	if c.Conns == 0 || c.Block <= 0 { // in a bench.Config 0 is the default
		return errors.New("--conns and --block must be positive")
	}
	cfg := c.config()
	return cfg.Validate()
}

func (c *benchCmd) config() bench.Config {
	cfg := bench.Config{
		Registry: transports(), Modes: c.Mode, Substrates: c.Substrate,
		Rounds: c.Reps, Block: c.Block, Connections: c.Conns, Budget: c.Time, Congestion: c.Congestion, NetNS: c.NetNS, Host: c.Host, Cold: c.Cold, Seed: c.Seed,
	}
	for _, n := range c.Size {
		cfg.Sizes = append(cfg.Sizes, bench.Size(n))
	}
	if len(cfg.Sizes) == 0 {
		cfg.Sizes = bench.PaperSizes
	}
	for _, op := range c.Op {
		cfg.Ops = append(cfg.Ops, bench.Op(op))
	}
	for _, p := range c.Placement {
		cfg.Placements = append(cfg.Placements, bench.Placement(p))
	}
	if slices.Contains(c.Placement, placementAll) {
		cfg.Placements = bench.Placements
	}
	return cfg
}

// Run measures and reports.
func (c *benchCmd) Run(ctx context.Context, std *stdio, top *cli) error {
	toFile := c.JSON != "" && c.JSON != "-"
	if toFile { // better to fail now than after the run
		f, err := os.OpenFile(c.JSON, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	cfg := c.config()
	cfg.Log = std.log
	cfg.Command = func(role string) *exec.Cmd {
		return self(std.err, "--log-level="+top.LogLevel, "bench-"+role, "--profile="+c.Profile)
	}
	report, err := bench.Run(ctx, cfg)
	if report == nil {
		return err
	}
	// What was measured before an error is worth something, too.
	if werr := c.write(std, report, toFile); err == nil {
		err = werr
	}
	return err
}

// write writes the report where it was asked for.
func (c *benchCmd) write(std *stdio, report *bench.Report, toFile bool) error {
	if c.JSON == "-" {
		return report.WriteJSON(std.out)
	}
	if toFile {
		f, err := os.Create(c.JSON)
		if err != nil {
			return err
		}
		if err := report.WriteJSON(f); err != nil {
			f.Close()
			return fmt.Errorf("write %s: %w", c.JSON, err)
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return report.WriteTable(std.out)
}

// benchServerCmd and benchClientCmd are the two processes between which `sockemu bench` measures. It starts them itself.
type (
	benchServerCmd struct{ benchWorker }
	benchClientCmd struct{ benchWorker }
)

// Run serves until standard input ends.
func (c benchServerCmd) Run(ctx context.Context, std *stdio) error {
	return c.work(ctx, std, bench.RoleServer)
}

// Run measures as it is told until standard input ends.
func (c benchClientCmd) Run(ctx context.Context, std *stdio) error {
	return c.work(ctx, std, bench.RoleClient)
}

type benchWorker struct {
	Profile string `placeholder:"DIR" help:"Write a CPU profile there."`
}

func (w benchWorker) work(ctx context.Context, std *stdio, role string) error {
	if w.Profile != "" {
		f, err := os.Create(filepath.Join(w.Profile, fmt.Sprintf("%s-%d.prof", role, os.Getpid())))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return bench.Work(ctx, role, std.in, std.out, transports(), std.log)
}
