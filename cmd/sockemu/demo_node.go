package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/sockemu"
)

// demoNodeCmd is one end of the demo's connection, in a process of its own. It writes nodeEvents to stdout and reads commands from
// stdin, one a line; when stdin ends, whoever started it is gone, and it goes too.
type demoNodeCmd struct {
	Role string `arg:"" enum:"client,server" help:"Which end to be."`
	Addr string `required:"" help:"Where to connect to or to listen."`
	Seed uint64 `required:"" help:"Seed of the two streams."`
	Size int    `default:"32768" help:"Bytes per write."`
}

// The commands a node takes.
const (
	nodeStop    = "stop"    // finish the stream: half-close, read to the end, report
	nodeUpgrade = "upgrade" // hand everything to a new process of the same program and exit
	nodeAny     = "any"     // admit every substrate
	nodeNoSHM   = "no-shm"  // admit shared memory no more
	nodeMark    = "mark"    // measure the longest gap from now on
	nodePace    = "pace"    // pause between writes: leave the processors some time
	nodeFull    = "full"    // don't
)

// What a node tells.
const (
	evReady  = "ready"  // a server listens at Addr
	evJoined = "joined" // the stream flows, or goes on after an upgrade
	evStats  = "stats"  // every statEvery
	evHanded = "handed" // an upgrade is complete; this process exits
	evDone   = "done"   // the stream is complete in both directions, verified and acknowledged
	evFailed = "failed" // it isn't, and never will be
)

const (
	statEvery = 100 * time.Millisecond
	// paceTime is the pause of a paced stream, per write.
	paceTime = 500 * time.Microsecond
	// handOverTime bounds an upgrade: the new process starts, takes everything over and says so.
	handOverTime = 20 * time.Second
)

// A nodeEvent is one line of a node's stdout.
type nodeEvent struct {
	Ev   string `json:"ev"`
	PID  int    `json:"pid"`
	Addr string `json:"addr,omitempty"`
	GID  string `json:"gid,omitempty"`
	Err  string `json:"err,omitempty"`
	nodeCounts
}

// nodeCounts is how far a node has come. They go on through an upgrade.
type nodeCounts struct {
	Sent        uint64        `json:"sent"`
	Received    uint64        `json:"received"`
	SentSum     string        `json:"sent_sum,omitempty"` // SHA-256, only when done
	ReceivedSum string        `json:"received_sum,omitempty"`
	Gap         time.Duration `json:"gap"` // the longest time without a received byte
	Lost        uint64        `json:"lost"`
	Replayed    uint64        `json:"replayed"`
	State       string        `json:"state,omitempty"`
	Substrate   string        `json:"substrate,omitempty"`
	Moves       uint64        `json:"moves"`            // to better paths
	MarkedGap   time.Duration `json:"marked_gap"`       // as Gap, since nodeMark
	Choice      string        `json:"choice,omitempty"` // why it is carried by what carries it
}

// nodeState is what an upgrade carries beside the connection itself.
type nodeState struct {
	Out, In  tallyState
	LastRecv int64
	Gap      int64
	Lost     uint64
	Replayed uint64
}

// A node is the running end. Two goroutines move the stream, one each way; the one of run owns everything else.
type node struct {
	cmd  *demoNodeCmd
	log  *slog.Logger
	e    *sockemu.Endpoint
	conn *sockemu.Conn
	ln   *sockemu.Listener // nil in the client

	out *tally // of the goroutine that sends
	in  *tally // of the one that receives

	sent, received atomic.Uint64 // out.pos and in.pos, for the others
	lastRecv       atomic.Int64  // UnixNano
	gap            atomic.Int64  // nanoseconds
	markedGap      atomic.Int64  // nanoseconds
	stopping       atomic.Bool   // there is no more to send
	paced          atomic.Bool   // see nodePace
	pausing        atomic.Bool   // an upgrade is on: leave the loops where they are

	before nodeCounts // Lost and Replayed in the processes before this one
}

// errPaused is how the loops end when they are to go on in another process.
var errPaused = errors.New("paused")

// Run streams until it is told to stop.
func (c *demoNodeCmd) Run(ctx context.Context, std *stdio) error {
	signal.Ignore(os.Interrupt) // a ^C reaches every process of the terminal; the parent decides
	n := &node{cmd: c, log: std.log}
	err := n.run(ctx)
	if err != nil {
		n.tell(nodeEvent{Ev: evFailed, Err: err.Error()})
	}
	return err
}

// run joins the connection, in whichever way this process comes to it, and moves the stream until a command ends it.
func (n *node) run(ctx context.Context) error {
	commands := readCommands()
	if err := n.join(ctx); err != nil {
		return err
	}
	n.tell(nodeEvent{Ev: evJoined, GID: n.conn.GID().String()})
	ended := make(chan error, 2)
	go func() { ended <- n.send() }()
	go func() { ended <- n.receive() }()
	stats := time.NewTicker(statEvery)
	defer stats.Stop()
	for left := 2; left > 0; {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			left--
		case command := <-commands:
			switch command {
			case nodeStop:
				n.stopping.Store(true)
			case nodeUpgrade:
				return n.handOver(ctx, ended)
			case nodeAny, nodeNoSHM:
				if err := n.e.SetSubstrates(map[string]string{nodeAny: cmp.Or(os.Getenv(substrateVar), "auto"), nodeNoSHM: "!shm"}[command]); err != nil {
					return err
				}
			case nodePace, nodeFull:
				n.paced.Store(command == nodePace)
			case nodeMark:
				n.markedGap.Store(0)
			default:
				return fmt.Errorf("unknown command %q", command)
			}
		case <-stats.C:
			n.tell(nodeEvent{Ev: evStats})
		}
	}
	// Only now is it sure that the peer has everything: Close waits for its acknowledgement and tells if there is none.
	counts := n.counts()
	if err := n.conn.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	counts.SentSum, counts.ReceivedSum = n.out.digest(), n.in.digest()
	n.print(nodeEvent{Ev: evDone, nodeCounts: counts})
	if n.ln != nil {
		return n.ln.Close()
	}
	return nil
}

// join gets the connection: by dialing, by accepting, or from the process before this one.
func (n *node) join(ctx context.Context) error {
	e, err := n.endpoint()
	if err != nil {
		return err
	}
	n.e = e
	inherited, err := e.Inherit(ctx)
	if err != nil {
		return fmt.Errorf("inherit: %w", err)
	}
	if inherited != nil {
		return n.takeOver(inherited)
	}
	up, down := newTally(n.cmd.Seed), newTally(^n.cmd.Seed)
	n.lastRecv.Store(time.Now().UnixNano())
	if n.cmd.Role == "client" {
		n.out, n.in = up, down
		n.conn, err = e.Dial(ctx, "tcp", n.cmd.Addr)
		return err
	}
	n.out, n.in = down, up
	if n.ln, err = e.Listen(ctx, "tcp", n.cmd.Addr); err != nil {
		return err
	}
	n.tell(nodeEvent{Ev: evReady, Addr: n.ln.Addr().String()})
	n.conn, err = n.ln.AcceptConn()
	return err
}

// endpoint makes the process's endpoint. A server tells its own address too, and a client that can't get through the relay would use
// it: only here, where the relay is to be the one way, it must not.
func (n *node) endpoint() (*sockemu.Endpoint, error) {
	// What the relay does to TCP is to be seen first; shared memory would go around it.
	cfg := sockemu.Config{Fallback: sockemu.FallbackForbid, Substrates: "tcp", Rules: os.DevNull, Logger: n.log.With("demo", n.cmd.Role, "pid", os.Getpid())}
	if n.cmd.Role == "client" {
		cfg.TCP.Dialer = &net.Dialer{Control: func(_, addr string, _ syscall.RawConn) error {
			if addr != n.cmd.Addr {
				return fmt.Errorf("the demo allows no way around its relay: %s", addr)
			}
			return nil
		}}
	}
	return sockemu.NewEndpoint(cfg)
}

// handOver stops both loops at exact positions and starts the next process with the connection, the listener and the tallies.
func (n *node) handOver(ctx context.Context, ended <-chan error) error {
	n.pausing.Store(true)
	if err := n.conn.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, errPaused) {
			return fmt.Errorf("the stream ended before the upgrade: %w", err)
		}
	}
	counts := n.counts()
	state := nodeState{LastRecv: n.lastRecv.Load(), Gap: n.gap.Load(), Lost: counts.Lost, Replayed: counts.Replayed}
	var errs [3]error
	state.Out, errs[0] = n.out.export()
	state.In, errs[1] = n.in.export()
	tag, err := json.Marshal(state)
	errs[2] = err
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	next := self(os.Stderr, os.Args[1:]...)
	next.Stdin, next.Stdout = os.Stdin, os.Stdout
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	if err := sockemu.Upgrade(ctx, next, []*sockemu.Listener{n.ln}, []sockemu.Passed{{Conn: n.conn, Tag: tag}}); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	n.print(nodeEvent{Ev: evHanded, nodeCounts: counts})
	return nil
}

// takeOver is the other half of handOver, in the new process.
func (n *node) takeOver(inherited *sockemu.Inheritance) error {
	if len(inherited.Listeners) != 1 || len(inherited.Conns) != 1 {
		return fmt.Errorf("inherited %d listeners and %d connections, want one of each", len(inherited.Listeners), len(inherited.Conns))
	}
	var state nodeState
	if err := json.Unmarshal(inherited.Conns[0].Tag, &state); err != nil {
		return fmt.Errorf("the tag of the inherited connection: %w", err)
	}
	var err error
	if n.out, err = state.Out.restore(); err != nil {
		return err
	}
	if n.in, err = state.In.restore(); err != nil {
		return err
	}
	n.ln, n.conn = inherited.Listeners[0], inherited.Conns[0].Conn
	n.sent.Store(n.out.pos)
	n.received.Store(n.in.pos)
	n.lastRecv.Store(state.LastRecv)
	n.gap.Store(state.Gap)
	n.before = nodeCounts{Lost: state.Lost, Replayed: state.Replayed}
	if err := n.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return inherited.Ready()
}

// send writes the stream until it is told to stop, and then half-closes.
func (n *node) send() error {
	buf := make([]byte, n.cmd.Size)
	for !n.stopping.Load() {
		if n.pausing.Load() {
			return errPaused
		}
		if n.paced.Load() {
			time.Sleep(paceTime)
		}
		n.out.produce(buf)
		w, err := n.conn.Write(buf)
		n.out.count(buf[:w])
		n.sent.Store(n.out.pos)
		if err != nil {
			if n.pausing.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				return errPaused
			}
			return fmt.Errorf("write at byte %d: %w", n.out.pos, err)
		}
	}
	return n.conn.CloseWrite()
}

// receive reads and verifies the peer's stream to its end.
func (n *node) receive() error {
	buf := make([]byte, max(n.cmd.Size, 64<<10))
	for {
		if n.pausing.Load() {
			return errPaused
		}
		r, err := n.conn.Read(buf)
		if r > 0 {
			if verr := n.in.verify(buf[:r]); verr != nil {
				return fmt.Errorf("received stream: %w", verr)
			}
			n.received.Store(n.in.pos)
			now := time.Now().UnixNano()
			gap := now - n.lastRecv.Swap(now)
			n.gap.Store(max(gap, n.gap.Load()))
			if gap > n.markedGap.Load() {
				n.markedGap.Store(gap)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case n.pausing.Load() && errors.Is(err, os.ErrDeadlineExceeded):
			return errPaused
		default:
			return fmt.Errorf("read at byte %d: %w", n.in.pos, err)
		}
	}
}

// counts returns how far the node is now. Only run's goroutine calls it.
func (n *node) counts() nodeCounts {
	c := n.before
	c.Sent, c.Received, c.Gap = n.sent.Load(), n.received.Load(), time.Duration(n.gap.Load())
	if n.conn != nil {
		s := n.conn.Stats()
		c.Lost += s.Cuts
		c.Replayed += s.Replayed
		c.State, c.Substrate, c.Moves = s.State, s.Substrate, s.Moves
		c.MarkedGap = time.Duration(n.markedGap.Load())
		if s.Substrate == "shm" {
			c.Choice = n.conn.Explain().Choice
		}
	}
	return c
}

// tell writes an event with the counts of now.
func (n *node) tell(ev nodeEvent) {
	ev.nodeCounts = n.counts()
	n.print(ev)
}

// print writes an event. A parent that is gone is noticed on stdin.
func (n *node) print(ev nodeEvent) {
	ev.PID = os.Getpid()
	line, err := json.Marshal(ev)
	if err != nil {
		panic(err) // only plain fields
	}
	os.Stdout.Write(append(line, '\n'))
}

// readCommands reads stdin until it ends, and then ends the process.
func readCommands() <-chan string {
	commands := make(chan string)
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			commands <- lines.Text()
		}
		os.Exit(1)
	}()
	return commands
}

// nodeReader decodes the events of a node's stdout.
type nodeReader struct{ lines *bufio.Scanner }

func newNodeReader(r io.Reader) nodeReader { return nodeReader{bufio.NewScanner(r)} }

// next returns the next event, or false at the end, when every process that wrote to the pipe is gone.
func (r nodeReader) next() (nodeEvent, bool) {
	for r.lines.Scan() {
		var ev nodeEvent
		if json.Unmarshal(r.lines.Bytes(), &ev) == nil && ev.Ev != "" {
			return ev, true
		}
	}
	return nodeEvent{}, false
}
