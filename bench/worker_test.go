package bench

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/bench/internal/host"
)

// started starts a worker and ends it with the test.
func started(t *testing.T, role string) *process {
	t.Helper()
	p, err := start(t.Context(), role, workerCommand(role), host.Place{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.end() }) // for tests that don't
	return p
}

// TestWorkerEndsWithItsInput: that is what happens when the coordinator dies, however it does.
func TestWorkerEndsWithItsInput(t *testing.T) {
	for _, role := range []string{RoleServer, RoleClient} {
		t.Run(role, func(t *testing.T) {
			p := started(t, role)
			c, err := p.counters(t.Context())
			require.NoError(t, err)
			require.Positive(t, c.Objects)
			require.Positive(t, c.CPU)
			require.NoError(t, p.end(), "it ends by itself, with status 0")
		})
	}
}

func TestCountersDontCountThemselves(t *testing.T) {
	p := started(t, RoleServer)
	var before, after counters
	var err error
	for range 3 { // the first ones meet a runtime that is still starting
		before, err = p.counters(t.Context())
		require.NoError(t, err)
		after, err = p.counters(t.Context())
		require.NoError(t, err)
	}
	assert.Less(t, after.sub(before).Objects, uint64(10))
}

func TestWorkerRefuses(t *testing.T) {
	good := setup{Op: RTT, Size: 128, Lanes: []laneID{{"raw", "tcp"}}, Conns: 1, Listen: "127.0.0.1:0"}
	for _, c := range []struct {
		name, role string
		kind       kind
		body       any
		want       string
	}{
		{"unknown command", RoleServer, 'z', nil, `unknown command 'z'`},
		{"no JSON", RoleServer, kindSetup, nil, "unexpected end of JSON"},
		{"unknown operation", RoleServer, kindSetup, setup{Op: "x"}, `unknown operation "x"`},
		{"unknown mode", RoleServer, kindSetup, setup{Op: RTT, Lanes: []laneID{{"x", "tcp"}}}, "this worker has no x over tcp"},
		{"a run by the server", RoleServer, kindRun, run{}, "only a client"},
		{"a count by the server", RoleServer, kindAllocs, allocs{}, "only a client"},
		{"no addresses", RoleClient, kindSetup, good, "0 addresses for 1 lanes"},
		{"no such lane", RoleClient, kindAllocs, allocs{Lane: 1}, "there is no lane 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := started(t, c.role)
			var out any
			err := p.call(t.Context(), time.Minute, c.kind, c.body, &out)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "benchmark "+c.role, "it says who")
		})
	}
}

func TestWorkUnknownRole(t *testing.T) {
	err := Work(t.Context(), "referee", nil, io.Discard, testRegistry, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, `unknown role "referee"`)
}

// slowListener takes its time to close.
type slowListener struct{ done chan struct{} }

const slowness = closeTime / 2

func (l slowListener) Accept() (net.Conn, error) { <-l.done; return nil, net.ErrClosed }
func (l slowListener) Addr() net.Addr            { return &net.TCPAddr{} }
func (l slowListener) Close() error              { time.Sleep(slowness); close(l.done); return nil }

// TestWorkClosesBeforeItEnds: a process that ends too early leaves its peer, which is yet to close, without a last word.
func TestWorkClosesBeforeItEnds(t *testing.T) {
	registry := Registry{Raw(), Via("slow", "tcp", dialRaw, func(context.Context, string, string) (slowListener, error) {
		return slowListener{make(chan struct{})}, nil
	})}
	for range 20 { // the end of the input and that of the context race
		synctest.Test(t, func(t *testing.T) {
			in, coordinator := io.Pipe()
			answers, out := io.Pipe()
			ended := make(chan time.Time, 1)
			go func() {
				assert.NoError(t, Work(t.Context(), RoleServer, in, out, registry, slog.New(slog.DiscardHandler)))
				ended <- time.Now()
			}()
			require.NoError(t, writeFrame(coordinator, kindSetup, setup{Op: RTT, Size: 128, Lanes: []laneID{{"slow", "tcp"}}, Conns: 1}))
			_, err := readFrame(answers, new([frameHeader]byte))
			require.NoError(t, err)
			told := time.Now()
			require.NoError(t, coordinator.Close())
			require.Equal(t, slowness, (<-ended).Sub(told))
		})
	}
}

// TestCallIsBounded: a worker that doesn't answer is killed.
func TestCallIsBounded(t *testing.T) {
	server := started(t, RoleServer)
	s := setup{Op: RTT, Size: 128, Lanes: []laneID{{"raw", "tcp"}, {"raw", "tcp"}}, Conns: 1, Listen: "127.0.0.1:0", Block: int64(time.Hour)}
	var r ready
	require.NoError(t, server.call(t.Context(), time.Minute, kindSetup, s, &r))
	s.Addresses = r.Addresses
	client := started(t, RoleClient)
	// A block of an hour: the warm-up's own limit is 10 s, so this one is first.
	err := client.call(t.Context(), 200*time.Millisecond, kindSetup, s, &r)
	require.ErrorContains(t, err, "no answer to 's' within 200ms")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = server.exchange(ctx, time.Minute, kindPin, nil)
	require.ErrorIs(t, err, context.Canceled)
}
