package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/sockemu/sockemu/bench/internal/host"
)

// endTime is how long a worker may take to end by itself when it is told to.
const endTime = 3 * time.Second

// A process is a worker as the coordinator sees it.
type process struct {
	role   string
	cmd    *exec.Cmd
	in     io.WriteCloser // its end is the worker's sign to end, also when this process dies
	out    io.Reader
	header [frameHeader]byte
	stop   func() bool // undoes that the end of the context kills the process
}

// start starts a worker in its place. It is killed when ctx ends.
func start(ctx context.Context, role string, cmd *exec.Cmd, place host.Place) (*process, error) {
	p := &process{role: role, cmd: cmd}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	cmd.WaitDelay = endTime
	if err := place.In(cmd.Start); err != nil {
		return nil, fmt.Errorf("start the benchmark %s: %w", role, err)
	}
	p.stop = context.AfterFunc(ctx, p.kill)
	return p, nil
}

func (p *process) kill() { _ = p.cmd.Process.Kill() } // the only error is that it has ended

// call sends a command and waits for its answer, for limit at most: then the worker is killed.
func (p *process) call(ctx context.Context, limit time.Duration, k kind, in, out any) error {
	body, err := p.exchange(ctx, limit, k, in)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("benchmark %s: answer to %q: %w", p.role, k, err)
	}
	return nil
}

// counters asks the worker what it has allocated so far.
func (p *process) counters(ctx context.Context) (counters, error) {
	body, err := p.exchange(ctx, countTime, kindCounters, nil)
	if err != nil {
		return counters{}, err
	}
	return parseCounters(body)
}

func (p *process) exchange(ctx context.Context, limit time.Duration, k kind, in any) ([]byte, error) {
	late := time.AfterFunc(limit, p.kill)
	f, err := func() (frame, error) {
		if err := writeFrame(p.in, k, in); err != nil {
			return frame{}, err
		}
		return readFrame(p.out, &p.header)
	}()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case !late.Stop():
		return nil, fmt.Errorf("benchmark %s: no answer to %q within %v", p.role, k, limit)
	case err != nil:
		return nil, fmt.Errorf("benchmark %s ended too early: %w", p.role, err)
	case f.kind == kindError:
		var text string
		if err := json.Unmarshal(f.body, &text); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("benchmark %s: %s", p.role, text)
	case f.kind != k:
		return nil, fmt.Errorf("benchmark %s: answered %q with %q", p.role, k, f.kind)
	}
	return f.body, nil
}

// end tells the worker to end and waits for that, with a limit.
func (p *process) end() error {
	defer p.stop()
	late := time.AfterFunc(endTime, p.kill)
	defer late.Stop()
	err := p.in.Close()
	if werr := p.cmd.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("benchmark %s: %w", p.role, werr))
	}
	return err
}
