package bench

import (
	"encoding/binary"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// connected returns a client's connection to a server of load, and what the server returns in the end.
func connected(t *testing.T, load workload) (net.Conn, <-chan error) {
	t.Helper()
	l, err := listenRaw(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() }) // not sooner: that resets who wasn't accepted yet
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		served <- load.serve(c)
	}()
	c, err := dialRaw(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c, served
}

func TestWorkloads(t *testing.T) {
	for _, c := range []struct {
		name string
		op   Op
		size Size
		cold bool
	}{
		{"rtt small", RTT, MinSize, false}, {"rtt", RTT, 32768, false}, {"rtt large", RTT, 3 << 20, false},
		{"bw small", BW, MinSize, false}, {"bw odd", BW, 1001, false}, {"bw", BW, 32768, false}, {"bw large", BW, 3 << 20, false},
		{"bw cold", BW, 1 << 20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			load, err := newWorkload(c.op, c.size, c.cold)
			require.NoError(t, err)
			conn, served := connected(t, load)
			const d = time.Millisecond
			n, err := load.warmUp(conn, d)
			require.NoError(t, err)
			for range 3 {
				ops, took, err := load.block(conn, d, n)
				require.NoError(t, err)
				require.Positive(t, ops)
				require.Positive(t, took)
				if c.op == RTT {
					require.GreaterOrEqual(t, took, d)
					require.Len(t, load.samples(), ops)
					var sum time.Duration
					for _, s := range load.samples() {
						sum += time.Duration(s)
					}
					require.Equal(t, took, sum, "the samples are all of the time")
				} else {
					require.Equal(t, n, ops)
				}
			}
			ops, _, err := load.block(conn, 0, 5)
			require.NoError(t, err)
			require.Equal(t, 5, ops, "a number of operations can be asked for")
			require.NoError(t, conn.Close())
			require.NoError(t, <-served, "the end between two operations is no error")
		})
	}
}

// TestHarnessAllocatesNothing: else every mode would be charged with it, and the collector would run in somebody's block.
func TestHarnessAllocatesNothing(t *testing.T) {
	for _, op := range []Op{RTT, BW} {
		t.Run(string(op), func(t *testing.T) {
			load, err := newWorkload(op, 1024, false)
			require.NoError(t, err)
			conn, served := connected(t, load)
			n, err := load.warmUp(conn, time.Millisecond)
			require.NoError(t, err)
			allocs := testing.AllocsPerRun(20, func() { _, _, err = load.block(conn, time.Millisecond, n) })
			require.NoError(t, err)
			assert.Less(t, allocs, 1.0)
			require.NoError(t, conn.Close())
			require.NoError(t, <-served)
		})
	}
}

func TestStreamServerChecksTotals(t *testing.T) {
	for _, c := range []struct {
		name         string
		total, bytes int // what the client says, and what it sends
		want         string
	}{
		{"more than said", 100, 128, "128 bytes of a block of 100"},
		{"less than said", 200, 128, "after 128 bytes of a block of 200: EOF"},
		{"a broken header", 0, 5, "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, served := connected(t, newStream(128, false))
			message := make([]byte, 128)
			binary.BigEndian.PutUint64(message, uint64(c.total))
			_, err := conn.Write(message[:c.bytes])
			require.NoError(t, err)
			require.NoError(t, conn.(*net.TCPConn).CloseWrite())
			require.ErrorContains(t, <-served, c.want)
		})
	}
}

func TestPingPongChecksTheEcho(t *testing.T) {
	p := newPingPong(128)
	client, server := net.Pipe()
	defer client.Close()
	served := make(chan error, 1)
	go func() {
		defer server.Close()
		buf := make([]byte, 128)
		_, err := io.ReadFull(server, buf)
		if err == nil {
			buf[127]++
			_, err = server.Write(buf)
		}
		served <- err
	}()
	_, err := p.warmUp(client, time.Millisecond)
	require.ErrorContains(t, err, "the echo differs")
	require.NoError(t, <-served)
}

func TestFit(t *testing.T) {
	const d = 4 * time.Millisecond
	assert.Equal(t, 8, fit(1, time.Microsecond, d, 8), "not more than the limit")
	assert.Equal(t, 100, fit(50, 2*time.Millisecond, d, maxWrites))
	assert.Equal(t, 1, fit(1, time.Second, d, maxWrites), "at least one")
	assert.Equal(t, maxWrites, fit(maxWrites, 1, d, math.MaxInt), "at most what a block may have")
	assert.Equal(t, 8, fit(1, 0, d, 8), "a clock that stands still")
}

// TestSettle: lanes that are about as fast have blocks of the very same length, the control always has.
func TestSettle(t *testing.T) {
	const us = 1e3
	c := client{block: 4 * time.Millisecond, lanes: []lane{{n: 1}, {n: 1}, {n: 1}, {n: 1}, {n: 1}}}
	c.settle([][]float64{{10 * us, 10 * us}, {13 * us}, {2.4 * us}, {81 * us}, {10 * us, 30 * us, 10 * us}})
	var n []int
	for _, l := range c.lanes {
		n = append(n, l.n)
	}
	assert.Equal(t, []int{400, 400, 1600, 50, 400}, n)

	byClock := client{block: c.block, lanes: []lane{{}, {}}}
	byClock.settle([][]float64{{1}, {2}})
	assert.Equal(t, []lane{{}, {}}, byClock.lanes)
}
