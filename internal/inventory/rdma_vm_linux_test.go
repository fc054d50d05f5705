package inventory

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What these tests are told, and by whom: docs/verbs.md.

// rdmaDevice skips a test that needs an RDMA device.
func rdmaDevice(t *testing.T) (device string) {
	device = os.Getenv("SOCKEMU_TEST_RDMA_DEVICE")
	if device == "" {
		t.Skip("needs an RDMA device: make test-verbs")
	}
	return device
}

// rdmaVM skips a test that needs the VM of tools/verbsvm: a machine of its own, whose network it may change.
func rdmaVM(t *testing.T) (device string) {
	if os.Getenv("SOCKEMU_TEST_VM") == "" {
		t.Skip("needs a machine of its own: make test-verbs")
	}
	return rdmaDevice(t)
}

// setting returns a variable that the VM sets.
func setting(t *testing.T, name string) string {
	v := os.Getenv("SOCKEMU_TEST_" + name)
	require.NotEmpty(t, v, name)
	return v
}

func ip(t *testing.T, name string) netip.Addr {
	a, err := netip.ParseAddr(setting(t, name))
	require.NoError(t, err)
	return a
}

// TestRDMAHere: the VM's own device, as its sysfs and its routes show it.
func TestRDMAHere(t *testing.T) {
	device := rdmaVM(t)
	own, other := ip(t, "RDMA_ADDR"), ip(t, "TCP_ADDR")
	began := time.Now()
	m, err := MapLocal(own)
	require.NoError(t, err)
	t.Logf("%v, found in %v", m, time.Since(began))
	transport, kind := "roce", rocev2
	if driverOf(device) == "siw" {
		transport, kind = "iwarp", iwarp
	}
	require.Equal(t, []string{device, setting(t, "RDMA_NETDEV"), transport}, []string{m.Device, m.NetDevice, m.Transport})
	require.Equal(t, setting(t, "RDMA_GID"), itoa(m.GIDIndex))
	six, err := MapLocal(ip(t, "RDMA_ADDR6"))
	require.NoError(t, err)
	require.Equal(t, transport == "iwarp", m.GIDIndex == six.GIDIndex)
	_, err = MapLocal(other)
	require.ErrorIs(t, err, ErrNoRDMA)
	t.Log(err)

	v := Host()
	require.Empty(t, v.Problems)
	var text strings.Builder
	require.NoError(t, v.WriteText(&text))
	require.Regexp(t, `(?m)^RDMA addresses$`, text.String())
	require.Regexp(t, fmt.Sprintf(`(?m)^%v +%s +%s +1 +%d +%s$`, own, m.NetDevice, device, m.GIDIndex, kind), text.String())
	require.Regexp(t, fmt.Sprintf(`(?m)^%v +\S+ +none: no RDMA device for the interface`, other), text.String())
}

// TestRDMAScenarios builds each of the networks that scenarios describes.
func TestRDMAScenarios(t *testing.T) {
	driver := driverOf(rdmaVM(t))
	if os.Getenv("SOCKEMU_TEST_ROLE") != "" {
		t.Skip("alters rdma0; one VM is enough")
	}
	for _, s := range scenarios {
		if cmp.Or(s.driver, "rxe") != driver {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			if os.Getenv("SOCKEMU_TEST_INSIDE") != "" {
				look(t, s)
				return
			}
			t.Cleanup(func() {
				for _, c := range s.remove {
					command(t, c)
				}
			})
			for _, c := range s.make {
				command(t, c)
			}
			if s.inside == "" {
				look(t, s)
				return
			}
			command(t, "ip netns exec "+s.inside+" env SOCKEMU_TEST_INSIDE=1 "+os.Args[0]+" -test.v -test.run=^TestRDMAScenarios$/^"+s.name+"$")
		})
	}
}

// driverOf is the driver of the VM's device: rxe or siw.
func driverOf(device string) string { return strings.TrimRight(device, "0123456789") }

// look tests a network that has been made.
func look(t *testing.T, s scenario) {
	// The kernel enters addresses into the tables of GIDs a while after.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		r := ReadRDMA(os.DirFS("/"))
		for addr, want := range s.maps {
			addr, netdevice, _ := strings.Cut(addr, "%")
			m, err := r.Map(netdevice, netip.MustParseAddr(addr))
			checkLive(c, addr, want, m, err)
		}
	}, 30*time.Second, 200*time.Millisecond)
	for peer, want := range s.routes {
		m, err := MapTo(netip.MustParseAddr(peer))
		checkLive(t, peer, want, m, err)
	}
	record(t, s)
}

// checkLive is check on the kernel itself, which gives indexes in the order in which it hears of addresses: there the index must be that under
// which its own table has the address.
func checkLive(t require.TestingT, addr, want string, m Mapping, err error) {
	if where, _, ok := strings.Cut(want, " "); ok && where != "none:" {
		want = where + " *"
	}
	check(t, addr, want, m, err)
	if err == nil {
		b, err := os.ReadFile(fmt.Sprintf("/sys/class/infiniband/%s/ports/%d/gids/%d", m.Device, m.Port, m.GIDIndex))
		require.NoError(t, err)
		raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), ":", ""))
		require.NoError(t, err)
		require.Equal(t, m.GID.As16(), [16]byte(raw), addr)
	}
}

func command(t *testing.T, line string) {
	words := strings.Fields(line)
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), words[0], words[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", line, out)
}

// record writes what sysfs shows to SOCKEMU_TEST_RECORD, a folder, in the form that recorded reads.
func record(t *testing.T, s scenario) {
	dir := os.Getenv("SOCKEMU_TEST_RECORD")
	if dir == "" {
		return
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	driver := "rdma_rxe"
	if s.driver != "" {
		driver = s.driver
	}
	b := []byte(fmt.Sprintf("Linux %s, %s. %s\n", strings.TrimSpace(string(release)), driver, strings.Join(s.make, "; ")))
	for _, class := range []string{"infiniband", "infiniband_verbs", "net"} {
		b = recordTree(t, b, "/sys/class/"+class)
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, s.name+".txt"), b, 0o644))
}

// notRecorded are counters, settings that say nothing here, and ways out of the tree.
var notRecorded = regexp.MustCompile(`/(statistics|queues|power|hw_counters|cm_.*|carrier.*|device|subsystem|master|dev|net/lo|bridge|brport|brif|` +
	`ad_.*|arp_.*|.*_timeout|.*_irqs|.*_group|.*_assign_type|flags|dormant|testing|threaded|tx_queue_len|proto_down|link_mode|broadcast|bonding_slave|` +
	`bonding/(all_slaves_active|downdelay|fail_over_mac|lacp_.*|lp_interval|mii.*|min_links|num_.*|packets_per_slave|peer_notif_delay|primary.*|queue_id|resend_igmp|tlb.*|updelay|use_carrier|xmit.*))$`)

func recordTree(t *testing.T, b []byte, name string) []byte {
	info, err := os.Stat(name)
	if err != nil || notRecorded.MatchString(name) {
		return b
	}
	if !info.IsDir() {
		content, err := os.ReadFile(name)
		text := strings.TrimSpace(string(content))
		// Most entries of a table are free, and it is long. Some files of some interfaces can't be read.
		if err == nil && text != "" && text != "0000:0000:0000:0000:0000:0000:0000:0000" {
			b = append(b, name[1:]+": "+strings.ReplaceAll(text, "\n", `\n`)+"\n"...)
		}
		return b
	}
	if base := filepath.Base(name); strings.HasPrefix(base, "lower_") || strings.HasPrefix(base, "upper_") {
		return append(b, name[1:]+"/\n"...)
	}
	entries, err := os.ReadDir(name)
	require.NoError(t, err)
	for _, e := range entries {
		b = recordTree(t, b, filepath.Join(name, e.Name()))
	}
	return b
}

// TestRDMATwoHosts runs in both of two VMs that are joined by a network: each tells the other what it knows of itself.
func TestRDMATwoHosts(t *testing.T) {
	device := rdmaDevice(t)
	role := os.Getenv("SOCKEMU_TEST_ROLE")
	if role == "" {
		t.Skip("needs two hosts: tools/verbsvm/packages")
	}
	own, peer := ip(t, "RDMA_ADDR"), ip(t, "PEER")
	require.NotEqual(t, own, peer)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := meet(ctx, t, role, own, peer)
	defer c.Close()
	deadline, _ := ctx.Deadline()
	require.NoError(t, c.SetDeadline(deadline))
	_, err := fmt.Fprintf(c, "%s %s %s\n", role, own, device)
	require.NoError(t, err)
	line, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	other := map[string]string{"server": "client", "client": "server"}[role]
	require.Equal(t, fmt.Sprintf("%s %s %s\n", other, peer, device), line)
	t.Logf("the other host: %s", line)
	m, err := MapTo(peer)
	require.NoError(t, err)
	require.Equal(t, []any{device, own}, []any{m.Device, m.Address})
	t.Logf("the way to it: %v", m)
	if os.Getenv("SOCKEMU_TEST_PEER_TCP") != "" {
		_, err = MapTo(ip(t, "PEER_TCP"))
		require.ErrorIs(t, err, ErrNoRDMA)
	}
}

// meet returns a connection between the two hosts. The client may be there first: it tries until the server listens.
func meet(ctx context.Context, t *testing.T, role string, own, peer netip.Addr) net.Conn {
	const port = 7471
	if role == "server" {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, port)))
		require.NoError(t, err)
		defer l.Close()
		deadline, _ := ctx.Deadline()
		require.NoError(t, l.SetDeadline(deadline))
		c, err := l.Accept()
		require.NoError(t, err)
		return c
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(peer, port).String())
		if err == nil {
			return c
		}
		select {
		case <-ctx.Done():
			require.NoError(t, err)
		case <-tick.C:
		}
	}
}
