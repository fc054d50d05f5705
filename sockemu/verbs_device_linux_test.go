package sockemu_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/sockemu"
	verbs "github.com/sockemu/sockemu/substrate_verbs"
)

// device skips the test where the environment names no RDMA device; see docs/verbs.md for what it says.
func device(t *testing.T) {
	if os.Getenv("SOCKEMU_TEST_RDMA_DEVICE") == "" {
		t.Skipf("SOCKEMU_TEST_RDMA_DEVICE names no device (here: %v)", verbs.Devices().Check())
	}
}

// patient is a configuration for machines whose processors are emulated.
func patient(policy string) sockemu.Config {
	return sockemu.Config{
		Linger: 20 * time.Second, HandshakeTimeout: 15 * time.Second, Fallback: sockemu.FallbackForbid, Substrates: policy, RetryMin: 2 * time.Millisecond,
		Verbs: verbs.Options{Death: 10 * time.Second}, // such processors stand still now and then
	}
}

// setLink takes the RDMA interface down or up. Down takes its IPv6 addresses, too.
func setLink(t *testing.T, to string) {
	t.Helper()
	netdev := os.Getenv("SOCKEMU_TEST_RDMA_NETDEV")
	out, err := exec.Command("ip", "link", "set", netdev, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	if v6 := os.Getenv("SOCKEMU_TEST_RDMA_ADDR6"); to == "up" && v6 != "" {
		out, err = exec.Command("ip", "addr", "replace", v6+"/64", "dev", netdev, "nodad").CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// TestDeviceProbe: the probe of a peer lists verbs with what it measured, and the reason of the choice.
func TestDeviceProbe(t *testing.T) {
	device(t)
	l, err := newEndpoint(t, patient("!shm")).Listen(t.Context(), "tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_TCP_ADDR"), "0"))
	require.NoError(t, err)
	p, err := newEndpoint(t, patient("!shm")).NewProber(t.Context(), l.Addr().String())
	require.NoError(t, err)
	for range 20 { // where the processor is emulated, the first may take longer than a probe may
		require.NoError(t, p.Probe(t.Context()))
		r := p.Report(selector.Weights{}, nil)
		for _, c := range r.Candidates {
			t.Logf("%s %s ok=%v %s %+v", c.Substrate, c.Addr, c.OK, c.Reason, c.Cost)
		}
		t.Logf("choice: %+v", r.Choice)
		for _, c := range r.Candidates {
			if c.Substrate == "verbs" && c.OK && net.ParseIP(os.Getenv("SOCKEMU_TEST_RDMA_ADDR")).Equal(hostOf(c.Addr)) {
				require.Positive(t, c.Cost.RTT)
				require.Positive(t, c.Cost.MBPerSecond)
				require.NotEmpty(t, r.Choice.Why)
				require.Contains(t, c.About, os.Getenv("SOCKEMU_TEST_RDMA_DEVICE")+" port ")
				t.Log(c.About)
				return
			}
		}
	}
	t.Fatal("verbs was never found to work")
}

func hostOf(addr string) net.IP {
	host, _, _ := net.SplitHostPort(addr)
	return net.ParseIP(host)
}

// TestDeviceLinkDown: in the middle of a transfer both ways the RDMA interface goes down: the connection goes on over TCP on the other
// interface, comes back when the link is up again, and no byte is lost or comes twice.
func TestDeviceLinkDown(t *testing.T) {
	device(t)
	cfg := patient("prefer:verbs !shm")
	l, err := newEndpoint(t, cfg).Listen(t.Context(), "tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_TCP_ADDR"), "0"))
	require.NoError(t, err)
	a, b := pair(t, newEndpoint(t, cfg), l.Addr().String(), l)
	end := stream(t, a, b)
	awaitSubstrate(t, "verbs", a, b)
	t.Cleanup(func() { setLink(t, "up") })
	t.Log(time.Now().Format("15:04:05.000"), "link down")
	setLink(t, "down")
	began := time.Now()
	awaitSubstrate(t, "tcp", a, b)
	t.Logf("on TCP %v after the link went down", time.Since(began))
	setLink(t, "up")
	began = time.Now()
	awaitSubstrate(t, "verbs", a, b)
	t.Logf("back %v after the link came up", time.Since(began))
	end()
	for _, e := range a.Explain().Events {
		t.Log(e)
	}
}

// TestDeviceTwoHosts does that between two machines, each being told its part by the environment: the client's link goes down while the server
// sends back what it gets.
func TestDeviceTwoHosts(t *testing.T) {
	e := newEndpoint(t, patient("prefer:verbs !shm")) // two network namespaces share memory
	c := twoHosts(t, e, "7472")
	if c == nil {
		return
	}
	gap, end := echoes(t, c)
	awaitSubstrate(t, "verbs", c)
	gap()
	t.Cleanup(func() { setLink(t, "up") })
	t.Log(time.Now().Format("15:04:05.000"), "link down")
	setLink(t, "down")
	began := time.Now()
	awaitSubstrate(t, "tcp", c)
	t.Logf("on TCP %v after the link went down", time.Since(began))
	<-time.After(2 * time.Second)
	t.Logf("nothing came back for %v", gap())
	setLink(t, "up")
	began = time.Now()
	awaitSubstrate(t, "verbs", c)
	t.Logf("back %v after the link came up", time.Since(began))
	end()
	for _, e := range c.Explain().Events {
		t.Log(e)
	}
}

// TestDeviceTwoHostsSilence: the network between the RDMA interfaces drops everything, and neither device says so.
func TestDeviceTwoHostsSilence(t *testing.T) {
	cfg := patient("prefer:verbs !shm")
	cfg.Verbs.Death = 3 * time.Second
	if d := os.Getenv("SOCKEMU_TEST_DEATH"); d != "" { // 0s: the default
		var err error
		cfg.Verbs.Death, err = time.ParseDuration(d)
		require.NoError(t, err)
	}
	const port, switchPort = "7473", "7474"
	if os.Getenv("SOCKEMU_TEST_ROLE") == "server" {
		l, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_TCP_ADDR"), switchPort))
		require.NoError(t, err)
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				silence(t, true)
				c.Write([]byte{0})
				io.Copy(io.Discard, c) // until the client has seen enough
				silence(t, false)
				c.Close()
			}
		}()
	}
	c := twoHosts(t, newEndpoint(t, cfg), port)
	if c == nil {
		return
	}
	gap, end := echoes(t, c)
	awaitSubstrate(t, "verbs", c)
	peer, err := net.Dial("tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_PEER_TCP"), switchPort))
	require.NoError(t, err)
	defer peer.Close()
	gap()
	t.Log(time.Now().Format("15:04:05.000"), "silence")
	began := time.Now()
	silence(t, true)
	defer silence(t, false)
	_, err = io.ReadFull(peer, make([]byte, 1))
	require.NoError(t, err)
	both := time.Since(began)
	awaitSubstrate(t, "tcp", c)
	t.Logf("on TCP %v after the silence began at this end, that of the other end %v after", time.Since(began), both)
	<-time.After(200 * time.Millisecond)
	t.Logf("nothing came back for %v", gap())
	end()
	for _, e := range c.Explain().Events {
		t.Log(e)
	}
}

// silence has the RDMA interface drop what it should send, or not any more.
func silence(t *testing.T, on bool) {
	args := []string{"qdisc", "del", "dev", os.Getenv("SOCKEMU_TEST_RDMA_NETDEV"), "root"}
	if on {
		args = append([]string{"qdisc", "add"}, append(args[2:], "netem", "loss", "100%")...)
	}
	if out, err := exec.Command("tc", args...).CombinedOutput(); err != nil {
		t.Errorf("tc %v: %v: %s", args, err, out)
	}
}

// twoHosts plays one of two hosts: the server sends back what it gets until the client has ended, and has no connection then; the client has one.
func twoHosts(t *testing.T, e *sockemu.Endpoint, port string) *sockemu.Conn {
	role := os.Getenv("SOCKEMU_TEST_ROLE")
	if role == "" {
		t.Skip("SOCKEMU_TEST_ROLE doesn't say which of two hosts this is")
	}
	device(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if role == "server" {
		l, err := e.Listen(ctx, "tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_TCP_ADDR"), port))
		require.NoError(t, err)
		c, err := l.AcceptConn()
		require.NoError(t, err)
		_, err = io.Copy(c, c)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		return nil
	}
	for {
		c, err := e.Dial(ctx, "tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_PEER_TCP"), port))
		if err == nil {
			return c
		}
		require.NoError(t, ctx.Err(), err)
		<-time.After(200 * time.Millisecond)
	}
}

// period is prime: no block of any usual size can be missing without being missed.
const period = 251

// echoes sends numbered bytes and checks what comes back. gap returns the longest time in which nothing did, since it was last asked.
func echoes(t *testing.T, c *sockemu.Conn) (gap func() time.Duration, end func()) {
	quit := make(chan struct{})
	failed := make(chan error, 2)
	gaps := make(chan time.Duration)
	go func() {
		buf := make([]byte, 4096)
		for n := byte(0); ; {
			for i := range buf {
				buf[i] = n
				n = (n + 1) % period
			}
			if _, err := c.Write(buf); err != nil {
				failed <- err
				return
			}
			select {
			case <-quit:
				failed <- c.CloseWrite()
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	go func() {
		buf, n, last, longest := make([]byte, 64<<10), byte(0), time.Now(), time.Duration(0)
		for {
			k, err := c.Read(buf)
			longest = max(longest, time.Since(last))
			last = time.Now()
			for _, b := range buf[:k] {
				if b != n {
					t.Errorf("byte %d where %d was due", b, n)
				}
				n = (b + 1) % period
			}
			select {
			case gaps <- longest:
				longest = 0
			default:
			}
			if err != nil {
				if err == io.EOF {
					err = nil
				}
				failed <- err
				close(gaps)
				return
			}
		}
	}()
	return func() time.Duration { return <-gaps }, func() {
		close(quit)
		require.NoError(t, <-failed)
		require.NoError(t, <-failed)
	}
}
