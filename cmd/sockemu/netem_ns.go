package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/netem"
)

// netemNSCmd runs programs at the two ends of an emulated path.
type netemNSCmd struct {
	netemFlags
	Server  string   `placeholder:"COMMAND" help:"Shell command to run at the other end meanwhile; its output goes to stderr."`
	Wait    uint16   `placeholder:"PORT" help:"Start the program when the server listens on this TCP port or has bound this UDP port."`
	MTU     int      `default:"1500" help:"Of both interfaces, in bytes (default ${default})."`
	Program []string `arg:"" help:"Program and its arguments, behind --. It has 10.77.0.1 and reaches 10.77.0.2 ($$NETEM_ADDR, $$NETEM_PEER)."`
}

// The times that processes are given.
const (
	serverWait  = 10 * time.Second // to bind the port of --wait
	serverPoll  = 10 * time.Millisecond
	programStop = 2 * time.Second // to end when told to, before they are killed
)

// Validate finds flags that contradict each other.
func (c *netemNSCmd) Validate() error {
	if c.Wait != 0 && c.Server == "" {
		return errors.New("--wait needs --server")
	}
	return nil
}

// Run returns when the program has ended; the server is ended then.
func (c *netemNSCmd) Run(ctx context.Context, std *stdio) error {
	up, down := c.impairments()
	path, err := netem.NewPath(netem.PathConfig{Up: up, Down: down, Seed: c.Seed, MTU: c.MTU})
	if err != nil {
		return err
	}
	err = c.runPrograms(ctx, std, path)
	upStats, downStats := path.Stats()
	return errors.Join(err, path.Close(), writeNetemStats(std.err, &upStats, &downStats))
}

func (c *netemNSCmd) runPrograms(ctx context.Context, std *stdio, path *netem.Path) error {
	if c.Server != "" {
		stop, err := c.startServer(ctx, std, path)
		if err != nil {
			return err
		}
		defer stop()
	}
	program := at(ctx, path.A, path.B, c.Program[0], c.Program[1:]...)
	program.Stdin, program.Stdout, program.Stderr = std.in, std.out, std.err
	program.Cancel = func() error { return program.Process.Signal(syscall.SIGTERM) }
	if err := path.A.Start(program); err != nil {
		return err
	}
	err := program.Wait()
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Program[0], err)
	}
	return nil
}

// startServer starts the server and waits until it has its port, if one is named. stop ends it.
func (c *netemNSCmd) startServer(ctx context.Context, std *stdio, path *netem.Path) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	server := at(ctx, path.B, path.A, "/bin/sh", "-c", c.Server)
	server.Stdout, server.Stderr = std.err, std.err
	server.SysProcAttr.Setpgid = true // what the shell starts ends with it
	server.Cancel = func() error { return syscall.Kill(-server.Process.Pid, syscall.SIGTERM) }
	if err := path.B.Start(server); err != nil {
		cancel()
		return nil, fmt.Errorf("server: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	stop = func() {
		select {
		case err := <-ended:
			if err != nil {
				std.log.Warn("the server failed before the program ended", "err", err)
			}
			ended <- err
		default:
		}
		cancel()
		<-ended
		_ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL) // who is left of the group, if anybody
	}
	if c.Wait == 0 {
		return stop, nil
	}
	limit := time.After(serverWait)
	poll := time.NewTicker(serverPoll)
	defer poll.Stop()
	for {
		select {
		case <-poll.C:
			if bound(server.Process.Pid, c.Wait) {
				return stop, nil
			}
			continue
		case err = <-ended:
			ended <- err
			err = fmt.Errorf("the server ended before it had port %d: %v", c.Wait, server.ProcessState)
		case <-limit:
			err = fmt.Errorf("the server doesn't have port %d after %v", c.Wait, serverWait)
		case <-ctx.Done():
			err = errInterrupted
		}
		stop()
		return nil, err
	}
}

// at returns a command for a program in one host, which learns its address and the other's.
func at(ctx context.Context, here, there *netem.Host, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "NETEM_ADDR="+here.Addr.String(), "NETEM_PEER="+there.Addr.String())
	cmd.WaitDelay = programStop
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it doesn't outlive this process, even if that is killed
	return cmd
}

// bound reports whether somebody in the process's network listens on the TCP port or has the UDP port (proc_net(5)).
func bound(pid int, port uint16) bool {
	local := fmt.Appendf(nil, ":%04X", port)
	for file, state := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			continue // no IPv6 here, or the process has just ended
		}
		for line := range bytes.Lines(table) {
			if f := bytes.Fields(line); len(f) > 3 && bytes.HasSuffix(f[1], local) && string(f[3]) == state {
				return true
			}
		}
	}
	return false
}
