package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/sockemu/sockemu/sockemu"
)

// demoCmd shows on one machine what the layer is for: a connection between two processes goes through a relay that cuts it every few
// hundred milliseconds, one of the processes is replaced halfway, and every byte arrives once and in order.
type demoCmd struct {
	Time     time.Duration `default:"10s" placeholder:"D" help:"How long the stream runs (default ${default})."`
	JSON     bool          `name:"json" help:"End with one JSON object on stdout; progress goes to stderr."`
	CutEvery time.Duration `default:"300ms" placeholder:"D" help:"Mean time between two cuts (default ${default})."`
	Seed     uint64        `help:"Seed of the streams and of the cuts' times (default: random)."`
	Size     int           `default:"32768" placeholder:"BYTES" help:"Bytes per write (default ${default})."`

	logLevel string // of the two processes
}

// Validate is called by kong; what it refuses is a usage error.
func (c *demoCmd) Validate() error {
	switch {
	case c.Time < time.Second || c.Time > 24*time.Hour:
		return errors.New("--time must be between 1s and 24h")
	case c.CutEvery < 10*time.Millisecond:
		return errors.New("--cut-every must be at least 10ms")
	case c.Size < 1 || c.Size > 16<<20:
		return errors.New("--size must be between 1 and 16777216")
	}
	return nil
}

// errNotVerified makes the process exit with 1. The verdict, already printed, says why.
var errNotVerified = errors.New("not everything that the demo promises has happened")

// Run runs the demo and prints its verdict.
func (c *demoCmd) Run(ctx context.Context, std *stdio, top *cli) error {
	if err := checkEnvironment(); err != nil {
		return usageError{err}
	}
	if c.Seed == 0 {
		c.Seed = uint64(rand.Uint32()) // short enough to be typed, and exact in every reader of JSON
	}
	// The lines that a link's loss and return are worth to an operator are the very thing that the demo shows in its own way.
	if c.logLevel = top.LogLevel; c.logLevel == "info" {
		c.logLevel = "error"
	}
	v, err := c.run(ctx, std)
	if err != nil && c.JSON {
		v = &verdict{Verdict: verdictFailed, Reason: err.Error(), Seed: c.Seed}
	} else if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			return err
		}
	} else {
		v.print(std.out)
	}
	if v.Verdict != verdictOK {
		return fmt.Errorf("%w: %s", errNotVerified, v.Reason)
	}
	return nil
}

// checkEnvironment finds what no program with the library can be configured by.
func checkEnvironment() error {
	e, err := sockemu.NewEndpoint(sockemu.Config{Rules: os.DevNull, Private: true})
	if err != nil {
		return err
	}
	return e.Close()
}

// run runs the demo under the view that suits where the output goes.
func (c *demoCmd) run(ctx context.Context, std *stdio) (*verdict, error) {
	if c.JSON || !canWatch(std) {
		r, err := newDemoRun(c, std.err)
		if err != nil {
			return nil, err
		}
		if c.JSON {
			return follow(ctx, r, std.err), nil
		}
		return follow(ctx, r, std.out), nil
	}
	// What the processes log would spoil the live view: it is kept until that is over.
	logs, err := os.CreateTemp("", "sockemu-demo-*.log")
	if err != nil {
		return nil, err
	}
	os.Remove(logs.Name()) // the open file is enough, and nothing is left over however this ends
	defer func() {
		if _, err := logs.Seek(0, io.SeekStart); err == nil {
			io.Copy(std.err, logs)
		}
		logs.Close()
	}()
	r, err := newDemoRun(c, logs)
	if err != nil {
		return nil, err
	}
	return watch(ctx, r)
}

// canWatch reports whether there is a terminal for the live view.
func canWatch(std *stdio) bool {
	in, ok := std.in.(*os.File)
	return ok && isTTY(in) && isTTY(std.out) && os.Getenv("TERM") != "dumb"
}
