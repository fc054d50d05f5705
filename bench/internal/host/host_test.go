//go:build linux

package host

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFacts(t *testing.T) {
	assert.NotEmpty(t, CPUModel())
	assert.Regexp(t, `^\d+\.\d+`, Kernel())
	assert.GreaterOrEqual(t, LoadAverage(), 0.0)
}

func TestPlace(t *testing.T) {
	all, err := CPUs()
	require.NoError(t, err)
	require.NotEmpty(t, all)
	last := all[len(all)-1:]
	var inside []int
	require.NoError(t, Place{CPUs: last}.In(func() (err error) {
		inside, err = CPUs()
		return err
	}))
	assert.Equal(t, last, inside)

	var count string
	require.NoError(t, Place{CPUs: last}.In(func() error {
		out, err := exec.Command("nproc").Output()
		count = string(out)
		return err
	}))
	assert.Equal(t, "1\n", count, "a child process inherits the place")

	for range 2 * runtime.GOMAXPROCS(0) { // whichever threads these run on
		require.NoError(t, Place{}.In(func() error {
			got, err := CPUs()
			assert.Equal(t, all, got, "the thread is as it was")
			return err
		}))
	}
	require.Error(t, Place{CPUs: []int{maxCPU - 1}}.In(func() error { return nil }), "no such CPU")
}

func TestCoreDistance(t *testing.T) {
	cpus, err := CPUs()
	require.NoError(t, err)
	if len(cpus) < 2 || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one CPU has no distance")
	}
	d, err := CoreDistance(cpus[0], cpus[1])
	if err != nil {
		require.ErrorIs(t, err, errNotScheduled)
		t.Skip(err)
	}
	assert.Positive(t, d)
	assert.Less(t, d, 100*time.Millisecond)
}

func TestCongestion(t *testing.T) {
	name, err := PickCongestion("")
	require.NoError(t, err)
	assert.Contains(t, []string{"cubic", "reno"}, name)
	got, err := PickCongestion(name)
	require.NoError(t, err)
	assert.Equal(t, name, got)
	_, err = PickCongestion("nonesuch")
	require.ErrorContains(t, err, "nonesuch")
}

func TestEnforceCongestion(t *testing.T) {
	_, err := EnforceCongestion("reno") // whatever else this process has open
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := (&net.Dialer{Control: ControlCongestion("reno")}).DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	n, err := EnforceCongestion("reno")
	require.NoError(t, err)
	assert.Zero(t, n, "the connection was made under it, and a listener is no connection")
	c2, err := (&net.Dialer{Control: ControlCongestion("reno")}).DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer c2.Close()
	if system, err := DefaultCongestion(); err != nil || system == "reno" {
		return
	}
	if name, _ := PickCongestion(""); name == "cubic" {
		n, err = EnforceCongestion("cubic")
		require.NoError(t, err)
		assert.Equal(t, 2, n, "both were under reno")
	}
}

func TestCable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces takes root")
	}
	home, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	c, err := NewCable()
	require.NoError(t, err)
	var l net.Listener
	require.NoError(t, Place{Namespace: c.B}.In(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(c.B.Addr().String(), "0"))
		return err
	}))
	defer l.Close()
	dial := func() error {
		conn, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	}
	require.NoError(t, Place{Namespace: c.A}.In(dial), "the cable connects")
	require.NoError(t, c.Close())
	for range 2 * runtime.GOMAXPROCS(0) {
		require.NoError(t, Place{}.In(func() error {
			now, err := os.Readlink("/proc/thread-self/ns/net")
			assert.Equal(t, home, now, "the thread is as it was")
			return err
		}))
	}
}
