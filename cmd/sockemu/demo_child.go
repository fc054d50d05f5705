package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// A child is a node of the demo seen from its parent: one process, or the one that has replaced it since. All of them share the pipes.
type child struct {
	role   string
	stdin  *os.File
	stdout *os.File
	first  *exec.Cmd
	exited chan error    // gets the exit of the first process
	ended  chan struct{} // closed when stdout has ended: every process of this role is gone
	next   *os.Process   // the replacement, which is no child of ours
}

// A childEvent is an event with the role of the child that told it. The last one of a child has an empty Ev.
type childEvent struct {
	role string
	nodeEvent
}

// startChild starts a node and passes its events on, until quit is closed. What it logs goes to errs.
func startChild(role, addr string, c *demoCmd, errs io.Writer, events chan<- childEvent, quit <-chan struct{}) (*child, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		inW.Close()
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	cmd := self(errs, "--log-level="+c.logLevel, "demo-node", role, "--addr="+addr,
		"--seed="+strconv.FormatUint(c.Seed, 10), "--size="+strconv.Itoa(c.Size))
	cmd.Stdin, cmd.Stdout = inR, outW
	err = cmd.Start()
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	ch := &child{
		role: role, stdin: inW, stdout: outR, first: cmd,
		exited: make(chan error, 1), ended: make(chan struct{}),
	}
	go func() { ch.exited <- cmd.Wait() }()
	go func() {
		defer close(ch.ended)
		send := func(ev nodeEvent) bool {
			select {
			case events <- childEvent{role, ev}:
				return true
			case <-quit:
				return false
			}
		}
		for r := newNodeReader(outR); ; {
			ev, ok := r.next()
			if !ok {
				send(nodeEvent{})
				return
			}
			send(ev) // read on even when nobody wants it: the child must not block
		}
	}()
	return ch, nil
}

// command writes one command. A child that is gone is noticed on its stdout.
func (c *child) command(s string) { c.stdin.WriteString(s + "\n") }

// replaced notes that the process pid has taken over.
func (c *child) replaced(pid int) error {
	p, err := os.FindProcess(pid) // on Linux a handle: it can't come to mean another process
	if err != nil {
		return err
	}
	c.next = p
	return nil
}

// stop ends every process of the child: those that are well leave when stdin ends, the others are killed.
func (c *child) stop() {
	c.stdin.Close()
	select {
	case <-c.ended:
	case <-time.After(2 * time.Second):
	}
	c.first.Process.Kill()
	if c.next != nil {
		c.next.Kill()
		c.next.Release()
	}
	select {
	case <-c.ended:
	case <-time.After(5 * time.Second):
	}
	c.stdout.Close()
	<-c.exited
}
