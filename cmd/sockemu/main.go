// Command sockemu is the front door of the layer: it parses, calls a package, and prints.
//
// Exit status: 0 success, 1 failure, 2 usage error. What a command is asked for goes to standard output, logs to standard
// error.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli has a field for each command. A command's own file declares its struct, with the flags as fields and a method
//
//	Run(ctx context.Context, std *stdio) error
//
// and, if flags can contradict each other, Validate() error, whose error is a usage error.
type cli struct {
	LogLevel string `default:"info" enum:"debug,info,warn,error" help:"Least severe log lines to show: ${enum}."`

	Demo    demoCmd    `cmd:"" help:"See a connection survive cuts, outages and the replacement of one of its processes."`
	Pipe    pipeCmd    `cmd:"" help:"Copy standard input to a peer and back over a connection that doesn't break."`
	Probe   probeCmd   `cmd:"" help:"Measure every path to a peer and say which is chosen and why; why GID: for a live connection."`
	Ls      lsCmd      `cmd:"" help:"List the live connections of this user's processes on this host."`
	Bench   benchCmd   `cmd:"" help:"Measure ways to make a connection beside plain TCP."`
	Netem   netemCmd   `cmd:"" help:"Put programs at the ends of a bad network: delay, loss, reordering, limits."`
	Version versionCmd `cmd:"" help:"Print what this binary was built from."`

	BenchServer benchServerCmd `cmd:"" hidden:""`
	BenchClient benchClientCmd `cmd:"" hidden:""`
	DemoNode    demoNodeCmd    `cmd:"" hidden:""`
}

const description = "A connectivity layer under sockets: connections that survive outages, moves and changes of transport.\n\n" +
	"Exit status: 0 success, 1 failure, 2 wrong usage."

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	var c cli
	parser, err := kong.New(&c, kong.Name("sockemu"), kong.Description(description), kong.Writers(out, errs),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		panic(err) // a mistake in the struct tags: no input brings it about
	}
	if len(args) == 0 { // nobody knows yet what there is
		return usage(parser, errs)
	}
	k, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(errs, "sockemu: %v (--help shows the usage)\n", err)
		return exitUsage
	}
	std := &stdio{in: in, out: out, err: errs, log: newLogger(errs, c.LogLevel)}
	if err := k.Run(std); err != nil {
		fmt.Fprintf(errs, "sockemu %s: %s\n", commandName(k.Selected()), errorText(err))
		return exitStatus(err)
	}
	return exitOK
}

// errorText is what err says, in lines that are harmless to a terminal: part of it may be a peer's words.
func errorText(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// usage writes what --help does, for somebody who hasn't asked for it.
func usage(parser *kong.Kong, errs io.Writer) int {
	parser.Stdout = errs
	if k, err := kong.Trace(parser, nil); err == nil {
		_ = k.PrintUsage(false)
	}
	return exitUsage
}

// commandName is the command as it was typed: "netem ns".
func commandName(n *kong.Node) string {
	if n.Parent != nil && n.Parent.Type == kong.CommandNode {
		return commandName(n.Parent) + " " + n.Name
	}
	return n.Name
}
