package sockemu_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sockemu/sockemu/sockemu"
)

// childEnv makes the test binary be the new process of an upgrade: its value says how the process behaves.
const childEnv = "SOCKEMU_TEST_CHILD"

// childSubstrates is what the new process's Config.Substrates says.
const childSubstrates = "SOCKEMU_TEST_CHILD_SUBSTRATES"

// child serves what it inherits until its standard input ends.
func child(mode string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	if mode == "exit at once" {
		return 3
	}
	if addr, ok := strings.CutPrefix(mode, "serve "); ok {
		return serveAt(addr)
	}
	if addr, ok := strings.CutPrefix(mode, "dial "); ok {
		return dialFrom(addr)
	}
	if args, ok := strings.CutPrefix(mode, "choose "); ok {
		return chooseOften(args)
	}
	if mode == "misconfigured" {
		return misconfigured()
	}
	ctx := context.Background()
	cfg := quick(withKey, substrates(os.Getenv(childSubstrates)))
	if mode == "another key" {
		cfg.ClusterKey = []byte("not the one that the states are sealed with")
	}
	e, err := sockemu.NewEndpoint(cfg)
	if err != nil {
		return fail(err)
	}
	if mode == "never inherit" {
		io.Copy(io.Discard, os.Stdin)
		return 0
	}
	inh, err := e.Inherit(ctx)
	if mode == "another key" && err != nil {
		io.Copy(io.Discard, os.Stdin) // it does something else now
		return 0
	}
	if err != nil || inh == nil {
		return fail(fmt.Errorf("inherited nothing: %w", err))
	}
	if mode == "exit before ready" {
		// Long enough for the peers to find it.
		deadline := time.Now().Add(time.Second)
		for _, c := range inh.Conns {
			for c.Conn.Stats().State != "up" && time.Now().Before(deadline) {
				<-time.After(time.Millisecond)
			}
		}
		return 3
	}
	serve := func(c *sockemu.Conn) { echo(c); c.Close() }
	for i, c := range inh.Conns {
		if want := fmt.Sprintf("tag %d", i); string(c.Tag) != want {
			return fail(fmt.Errorf("tag %q, not %q", c.Tag, want))
		}
		go serve(c.Conn)
	}
	for _, l := range inh.Listeners {
		go func() {
			for {
				c, err := l.AcceptConn()
				if err != nil {
					return
				}
				go serve(c)
			}
		}()
	}
	if err := inh.Ready(); err != nil {
		return fail(err)
	}
	io.Copy(io.Discard, os.Stdin)
	if err := e.Close(); err != nil {
		return fail(err)
	}
	return 0
}

// childProcess returns the command that Upgrade starts, and a function that ends the process in good order.
func childProcess(t testing.TB, mode string) (cmd *exec.Cmd, end func()) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+mode)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	return cmd, func() {
		in.Close()
		require.NoError(t, cmd.Wait())
	}
}

// An echoServer echoes until it is told to stop between two messages, as a server that is about to be replaced does.
type echoServer struct {
	c    *sockemu.Conn
	done chan struct{}
}

func serveEcho(c *sockemu.Conn) *echoServer {
	s := &echoServer{c: c, done: make(chan struct{})}
	go func() { defer close(s.done); echo(c) }()
	return s
}

// stop makes the Read in progress return; what has been read has been written when it is over.
func (s *echoServer) stop() {
	s.c.SetReadDeadline(time.Unix(1, 0))
	<-s.done
	s.c.SetReadDeadline(time.Time{})
}

// upgrading is a server with connections in the middle of a transfer.
type upgrading struct {
	*rig
	servers []*echoServer
	passed  []sockemu.Passed
	clients sync.WaitGroup
	results []error
	half    []chan struct{}
	goOn    chan struct{}
}

const upgradeConns, upgradeBytes = 5, 4 << 20

func newUpgrading(t *testing.T) *upgrading {
	u := &upgrading{rig: newRig(t, withKey), results: make([]error, upgradeConns), goOn: make(chan struct{})}
	for i := range upgradeConns {
		c, s := u.pair()
		u.servers = append(u.servers, serveEcho(s))
		half := make(chan struct{})
		u.half = append(u.half, half)
		u.clients.Go(func() {
			want := random(uint64(i), upgradeBytes)
			var g errgroup.Group
			g.Go(func() error {
				if _, err := c.Write(want[:upgradeBytes/2]); err != nil {
					return err
				}
				close(half)
				if _, err := c.Write(want[upgradeBytes/2:]); err != nil {
					return err
				}
				<-u.goOn
				return c.CloseWrite()
			})
			g.Go(func() error {
				got, err := io.ReadAll(c)
				if err == nil && !bytes.Equal(want, got) {
					err = fmt.Errorf("%d bytes came back changed", len(got))
				}
				return err
			})
			u.results[i] = g.Wait()
			c.Close()
		})
	}
	for _, h := range u.half {
		<-h
	}
	for i, s := range u.servers {
		s.stop()
		u.passed = append(u.passed, sockemu.Passed{Conn: s.c, Tag: fmt.Appendf(nil, "tag %d", i)})
	}
	return u
}

// finish expects that every client gets all of its bytes back.
func (u *upgrading) finish() {
	u.Helper()
	close(u.goOn)
	within(u, patience, "the transfers", u.clients.Wait)
	for _, err := range u.results {
		require.NoError(u, err)
	}
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		t.Run(map[bool]string{false: "whole links", true: "cut links"}[cut], func(t *testing.T) {
			u := newUpgrading(t)
			if cut {
				defer u.cutting()()
			}
			cmd, end := childProcess(t, "serve")
			require.NoError(t, sockemu.Upgrade(testContext(t), cmd, []*sockemu.Listener{u.l}, u.passed))
			_, err := u.servers[0].c.Write([]byte("x"))
			require.ErrorIs(t, err, sockemu.ErrExported)
			require.NoError(t, u.server.Close()) // the old process exits
			u.finish()
			// New connections reach the new process.
			c, err := u.DialContext(testContext(t), "", "")
			require.NoError(t, err)
			c.SetDeadline(time.Now().Add(patience))
			_, err = c.Write([]byte("hello"))
			require.NoError(t, err)
			b := make([]byte, 5)
			_, err = io.ReadFull(c, b)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b))
			require.NoError(t, c.Close())
			end()
		})
	}
}

// TestFailedUpgrade: whatever becomes of the new process, the old one goes on as if nothing had happened.
func TestFailedUpgrade(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exit at once", "never inherit", "exit before ready", "no such program"} {
		t.Run(mode, func(t *testing.T) {
			u := newUpgrading(t)
			cmd, _ := childProcess(t, mode)
			if mode == "no such program" {
				cmd = exec.Command("/no/such/program")
			}
			ctx := testContext(t)
			if mode == "never inherit" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
			}
			old := u.servers[0].c
			require.Error(t, sockemu.Upgrade(ctx, cmd, []*sockemu.Listener{u.l}, u.passed))
			require.NotSame(t, old, u.passed[0].Conn)
			for _, p := range u.passed {
				serveEcho(p.Conn)
			}
			u.finish()
			c, s := u.pair()
			roundTrip(t, c, s, "new connections come here")
		})
	}
}

// TestInheritFails: the old process is told at once, although the new one lives on.
func TestInheritFails(t *testing.T) {
	r := newRig(t, withKey)
	c, s := r.pair()
	roundTrip(t, c, s, "before")
	cmd, _ := childProcess(t, "another key")
	passed := []sockemu.Passed{{Conn: s}}
	ctx := testContext(t)
	require.ErrorContains(t, sockemu.Upgrade(ctx, cmd, []*sockemu.Listener{r.l}, passed), "did not become ready")
	require.NoError(t, ctx.Err())
	t.Cleanup(func() { passed[0].Conn.SetLinger(0); passed[0].Conn.Close() })
	roundTrip(t, c, passed[0].Conn, "after")
}

func TestUpgradeErrors(t *testing.T) {
	srv := newPlainServer(t, "127.0.0.1:0", plainServers["silent"])
	e := newEndpoint(t, sockemu.Config{FallbackTimeout: 20 * time.Millisecond})
	c, err := e.Dial(testContext(t), "tcp", srv.addr())
	require.NoError(t, err)
	defer c.Close()
	cmd, _ := childProcess(t, "exit at once")
	require.ErrorIs(t, sockemu.Upgrade(t.Context(), cmd, nil, []sockemu.Passed{{Conn: c}}), sockemu.ErrPlain)
	require.Nil(t, cmd.Process)
	inh, err := e.Inherit(t.Context())
	require.NoError(t, err)
	require.Nil(t, inh, "this process was started in the usual way")
}
