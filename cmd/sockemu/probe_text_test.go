package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/control"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// us is so many microseconds.
func us(n float64) selector.Micros { return selector.Micros(n * float64(time.Microsecond)) }

// The paths of the reports below.
var (
	shmPath = selector.Path{Substrate: "shm", Addr: "host:/run/x.shm"}
	tcpPath = selector.Path{Substrate: "tcp", Addr: "127.0.0.1:7000"}
	udpPath = selector.Path{Substrate: "udp"}
)

func measured(p selector.Path, rtt, mbps float64) selector.Candidate {
	return selector.Candidate{Path: p, Tier: selector.Healthy, OK: true, Cost: selector.Figures{
		RTT: us(rtt), RTTMin: us(rtt / 2), RTTP99: us(3 * rtt), MBPerSecond: mbps, Samples: 40,
	}}
}

func TestReportText(t *testing.T) {
	curve := func(p selector.Path, times ...float64) selector.PathCurve {
		c := selector.PathCurve{Path: p}
		for i, x := range times {
			c.Points = append(c.Points, selector.Point{Size: []int{64, 4 << 10, 1500, 1 << 20}[i], Time: us(x)})
		}
		return c
	}
	for name, c := range map[string]struct {
		r    selector.Report
		want string
	}{
		"two work, each for its sizes": {
			selector.Report{
				Peer: "db:7000", Policy: "auto", Mean: 63520,
				Candidates: []selector.Candidate{
					measured(shmPath, 1.5, 35300), measured(tcpPath, 21, 999),
					{Path: udpPath, Reason: "the peer does not offer it"},
				},
				Curves: []selector.PathCurve{curve(shmPath, .75, 5, 10.5, 250), curve(tcpPath, 10.5, 99.9, 9999, 20000)},
				Best:   []selector.Stretch{{From: 0, Path: shmPath}, {From: 454059, Path: tcpPath}},
				Choice: selector.Choice{Path: shmPath, Why: "14.6x faster than tcp"},
			}, `
paths to db:7000 for messages of 62K on average, policy auto
SUBSTRATE  WORKS  RTT MIN  P50      P99      BANDWIDTH  T(64)    T(4K)    T(1500)  T(1M)   ADDRESS
shm        yes    0.75 us  1.50 us  4.50 us  35.3 GB/s  0.75 us  5.00 us  10.5 us  250 us  host:/run/x.shm
tcp        yes    10.5 us  21.0 us  63.0 us  999 MB/s   10.5 us  99.9 us  9999 us  20 ms   127.0.0.1:7000
udp        no     -        -        -        -          -        -        -        -       -
udp: the peer does not offer it
fastest: shm; from about 443K on: tcp
choice: shm: 14.6x faster than tcp
`,
		},
		"the only one": {
			selector.Report{
				Peer: "db:7000", Policy: "!shm", Mean: 64,
				Candidates: []selector.Candidate{measured(tcpPath, 21, 4200), {Path: shmPath, Reason: "denied by policy"}},
				Curves:     []selector.PathCurve{curve(tcpPath, 10.5)},
				Best:       []selector.Stretch{{From: 0, Path: tcpPath}},
				Choice:     selector.Choice{Path: tcpPath, Why: "the only path that works"},
			}, `
paths to db:7000 for messages of 64 on average, policy !shm
SUBSTRATE  WORKS  RTT MIN  P50      P99      BANDWIDTH  T(64)    ADDRESS
tcp        yes    10.5 us  21.0 us  63.0 us  4.2 GB/s   10.5 us  127.0.0.1:7000
shm        no     -        -        -        -          -        host:/run/x.shm
shm: denied by policy
choice: tcp: the only path that works
`,
		},
		"one that tells more": {
			selector.Report{
				Peer: "db:7000", Policy: "auto", Mean: 64,
				Candidates: []selector.Candidate{func() selector.Candidate {
					c := measured(tcpPath, 21, 4200)
					c.About = "rxe0 port 1\x1b[2J"
					return c
				}()},
				Choice: selector.Choice{Path: tcpPath, Why: "the only path that works"},
			}, `
paths to db:7000 for messages of 64 on average, policy auto
SUBSTRATE  WORKS  RTT MIN  P50      P99      BANDWIDTH  ADDRESS
tcp        yes    10.5 us  21.0 us  63.0 us  4.2 GB/s   127.0.0.1:7000
tcp 127.0.0.1:7000: rxe0 port 1?[2J
choice: tcp: the only path that works
`,
		},
		"none, and one that tries to steer the terminal": {
			selector.Report{
				Peer: "db:7000", Policy: "pin:udp", Mean: 2 << 20,
				Candidates: []selector.Candidate{{Path: udpPath, Reason: "probe failed:\x1b[2J\nchoice: udp"}},
				Choice:     selector.Choice{Why: "what is pinned can't be had"},
			}, `
paths to db:7000 for messages of 2M on average, policy pin:udp
SUBSTRATE  WORKS  RTT MIN  P50  P99  BANDWIDTH  ADDRESS
udp        no     -        -    -    -          -
udp: probe failed:?[2J?choice: udp
choice: none: what is pinned can't be had
`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			writeReport(&b, c.r, 0)
			require.Equal(t, strings.TrimPrefix(c.want, "\n"), b.String())
		})
	}
}

func TestWhyText(t *testing.T) {
	a := answer{pid: 42, Why: control.Why{
		Connection: control.Connection{
			GID: "befc2599", Role: "dialer", Peer: "db:7000", State: "up", Substrate: "shm", Path: "a - b", Links: 2, Switches: 1,
		},
		Text: []string{"10:00:00.000 tcp -> shm: faster", "10:00:01.000 stays\x1b[2J"},
	}}
	text := func() string {
		var b bytes.Buffer
		a.write(&b, 0)
		return b.String()
	}
	require.Equal(t, `connection befc2599, dialer in process 42, to db:7000: up on shm (a - b); 2 links, 1 move
10:00:00.000 tcp -> shm: faster
10:00:01.000 stays?[2J
`, text())
	a.Connection.Substrate, a.Connection.State, a.Text = "", "parked", nil
	a.Candidates = []byte(`{"peer":"db:7000","policy":"auto","mean_size":64,"candidates":[{"substrate":"udp","reason":"not offered"}]}`)
	require.Equal(t, `connection befc2599, dialer in process 42, to db:7000: parked; 2 links, 1 move

as measured last:
paths to db:7000 for messages of 64 on average, policy auto
SUBSTRATE  WORKS  RTT MIN  P50  P99  BANDWIDTH  ADDRESS
udp        no     -        -    -    -          -
udp: not offered
choice: none: `+"\n", text())
}

func TestSizeText(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 64: "64", 999: "999", 1000: "1000", 1500: "1.46K", 63520: "62K", 454059: "443K", 1 << 20: "1M", 5e9: "4.66G"} {
		require.Equal(t, want, roughSize(n))
	}
	for n, want := range map[int]string{1: "1", 1000: "1000", 1024: "1K", 1500: "1500", 1 << 20: "1M", 1<<20 + 1024: "1025K"} {
		require.Equal(t, want, byteSize(n))
	}
}

func TestUnits(t *testing.T) {
	for mbs, want := range map[float64]string{12345: "12.3 GB/s", 999: "999 MB/s", 1.25: "1.2 MB/s", .0071: "7 kB/s"} {
		require.Equal(t, want, rateText(mbs))
	}
	for d, want := range map[time.Duration]string{950: "0.95 us", 9 * time.Millisecond: "9000 us", 9 * time.Second: "9000 ms", 112 * time.Second: "112 s"} {
		require.Equal(t, want, shortTime(selector.Micros(d)))
	}
}

// TestNarrowTerminal: a table that is wider than the terminal becomes several that are not.
func TestNarrowTerminal(t *testing.T) {
	rows := func() [][]string {
		return [][]string{{"NAME", "A", "BB", "CCC"}, {"x\x1b", "1", "22", "333 with much behind it"}}
	}
	for width, want := range map[int]string{
		0: `
NAME  A  BB  CCC
x?    1  22  333 with much behind it
`,
		12: `
NAME  A  BB
x?    1  22
NAME  CCC
x?    333 with much behind it
`,
		1: `
NAME  A
x?    1
NAME  BB
x?    22
NAME  CCC
x?    333 with much behind it
`,
	} {
		var b bytes.Buffer
		writeTable(&b, rows(), width)
		require.Equal(t, want, "\n"+b.String())
	}
}

// TestFailureText: what is said of each kind of error; that the errors come about is TestProbeNoPeer's.
func TestFailureText(t *testing.T) {
	refused := func(st wire.Status) error { return &sockemu.RefusedError{Status: st, Addr: "db:7000"} }
	failed := func(op string, class substrate.Class, err error) error {
		return &substrate.Error{Op: op, Substrate: "tcp", Peer: "db:7000", Class: class, Err: err}
	}
	for want, err := range map[string]error{
		"another cluster key":                    refused(wire.StatusKey),
		"is busy":                                refused(wire.StatusBusy),
		"no version of the protocol in common":   refused(wire.StatusVersion),
		"takes no new connections":               refused(wire.StatusNoListener),
		"only one end demands encryption":        refused(wire.StatusPolicy),
		"its log may say more":                   refused(wire.StatusFormat),
		"there is no host of that name":          &net.DNSError{IsNotFound: true},
		"can't be looked up now":                 failed("dial", substrate.Config, &net.DNSError{IsTimeout: true}),
		"does not speak sockemu":                 fmt.Errorf("%w: it echoes", sockemu.ErrNotSockemu),
		"nobody listens on that port":            failed("dial", substrate.Refused, errors.New("refused")),
		"a firewall drops the packets":           failed("dial", substrate.PathDown, os.ErrDeadlineExceeded),
		"the host can't be reached":              failed("dial", substrate.PathDown, errors.New("no route")),
		"or wait longer: --patience":             fmt.Errorf("handshake: %w", os.ErrDeadlineExceeded),
		"does not answer in time":                fmt.Errorf("handshake: %w", os.ErrDeadlineExceeded),
		"breaks the protocol":                    fmt.Errorf("%w: nonsense", substrate.ErrProtocol),
		"this host itself sends nothing there":   failed("dial", substrate.Config, os.NewSyscallError("connect", syscall.EINVAL)),
		"can't work as it is asked for":          failed("dial", substrate.Config, errors.New("bad address")),
		"db:7000: something nobody thought of (": errors.New("something nobody thought of ("),
	} {
		text := explainFailure("db:7000", "--patience", err)
		require.ErrorContains(t, text, want)
		require.ErrorContains(t, text, "db:7000: ")
		require.ErrorContains(t, text, err.Error(), "the cause is kept")
		require.ErrorIs(t, text, err)
	}
}
