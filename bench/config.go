package bench

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An Op is what is measured.
type Op string

// The operations.
const (
	RTT Op = "rtt" // ping-pong: a message there, the same message back
	BW  Op = "bw"  // one-way stream of messages
)

// A Placement says where the two processes run.
type Placement string

// The placements. They decide more than most of what is measured: a sleeping CPU has to be woken by an interrupt.
const (
	Same Placement = "same" // both on one CPU
	Two  Placement = "two"  // each on its own CPU
	Free Placement = "free" // where the scheduler likes, and it changes its mind
)

// Placements are all of them, in the order in which they are measured.
var Placements = []Placement{Same, Two, Free}

// A Size is the length of a message in bytes.
type Size int

// The bounds of a size: a bandwidth block keeps its length in its first 8 bytes.
const (
	MinSize Size = 8
	MaxSize Size = 64 << 20
)

// PaperSizes are those of the paper's tables.
var PaperSizes = []Size{128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}

// ParseSize reads a size as people write it: 128, 32K (KiB), 1M (MiB).
func ParseSize(s string) (Size, error) {
	digits, unit := s, Size(1)
	if d, ok := strings.CutSuffix(s, "K"); ok {
		digits, unit = d, 1<<10
	} else if d, ok := strings.CutSuffix(s, "M"); ok {
		digits, unit = d, 1<<20
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || Size(n) < (MinSize+unit-1)/unit || Size(n) > MaxSize/unit {
		return 0, fmt.Errorf("%q is no size: give bytes from %v to %v, such as 128, 32K or 1M", s, MinSize, MaxSize)
	}
	return Size(n) * unit, nil
}

// String is the size as a reader would write it.
func (s Size) String() string {
	switch {
	case s >= 1<<20 && s%(1<<20) == 0:
		return strconv.Itoa(int(s>>20)) + "M"
	case s >= 1<<16 && s%(1<<10) == 0: // the paper writes 32768
		return strconv.Itoa(int(s>>10)) + "K"
	}
	return strconv.Itoa(int(s))
}

// Config is one run. Registry, Ops, Sizes, Placements, Rounds and Command must be set.
type Config struct {
	Registry   Registry
	Modes      []string // empty: all of the registry; raw is always measured, as the reference
	Substrates []string // empty: all of the registry
	Ops        []Op
	Sizes      []Size
	Placements []Placement

	// Rounds per case. A round is one block of each connection. Below 30 the interval of a ratio means little.
	Rounds int
	// Budget bounds the whole run: when it gets short, cases make fewer rounds than Rounds, but at least minRounds. 0: no bound.
	Budget time.Duration
	// Block is how long a block lasts, about; 0: 4 ms.
	Block time.Duration
	// Connections per mode; 0: 8. Rounds use them in turn, since two connections of one kind can differ for life, by 10 % and
	// more in bandwidth: how their buffers and windows happened to grow decides how much stays in cache.
	Connections int

	Congestion string // congestion control of TCP; empty: cubic where it can be had, else reno; KeepCongestion: the system's
	NetNS      bool   // run the processes in two network namespaces joined by a veth pair; needs root
	Host       string // address of this machine that the server listens at; empty: the loopback, or the veth pair's
	Cold       bool   // bandwidth: send from 64 MiB instead of from one message that stays in cache
	Seed       uint64 // of the order of blocks and of the bootstrap

	// Command makes the command that starts this program again as a worker, which calls Work with the same Registry, the given
	// role, and its standard input and output.
	Command func(role string) *exec.Cmd
	Log     *slog.Logger // nil: none
}

// KeepCongestion as Config.Congestion leaves the system's default in place.
const KeepCongestion = "default"

const (
	defaultBlock       = 4 * time.Millisecond
	defaultConnections = 8
	maxConnections     = 1000
	maxBlock           = 10 * time.Second
	minRounds          = 5
	goodRounds         = 30 // what measuring on this kind of machine takes
)

// Validate says what is wrong with what the user chose, or nil.
func (c *Config) Validate() error {
	if _, _, err := c.Registry.choose(c.Modes, c.Substrates); err != nil {
		return err
	}
	if c.Host != "" {
		if _, err := netip.ParseAddr(c.Host); err != nil || c.NetNS {
			return fmt.Errorf("%q: the address to listen at is an IP address of this machine, and none can be chosen between namespaces", c.Host)
		}
	}
	if len(c.Ops) == 0 || len(c.Sizes) == 0 || len(c.Placements) == 0 {
		return fmt.Errorf("nothing to measure: give at least one operation, size and placement")
	}
	for _, op := range c.Ops {
		if op != RTT && op != BW {
			return fmt.Errorf("unknown operation %q: there is %s, %s", op, RTT, BW)
		}
	}
	for _, p := range c.Placements {
		if !slices.Contains(Placements, p) {
			return fmt.Errorf("unknown placement %q: there is %s, %s, %s", p, Same, Two, Free)
		}
	}
	for _, n := range c.Sizes {
		if n < MinSize || n > MaxSize {
			return fmt.Errorf("size %v is out of bounds: %v to %v bytes", n, MinSize, MaxSize)
		}
	}
	if c.Rounds < 1 || c.Rounds > maxRounds {
		return fmt.Errorf("%d repetitions are out of bounds: 1 to %d", c.Rounds, maxRounds)
	}
	if c.Connections < 0 || c.Connections > maxConnections {
		return fmt.Errorf("%d connections are out of bounds: 1 to %d", c.Connections, maxConnections)
	}
	if c.Block < 0 || c.Block > maxBlock {
		return fmt.Errorf("blocks of %v are out of bounds: at most %v", c.Block, maxBlock)
	}
	if c.Budget < 0 {
		return fmt.Errorf("the time %v is negative", c.Budget)
	}
	return nil
}

// maxRounds bounds what a worker keeps in memory.
const maxRounds = 100_000

func (c *Config) block() time.Duration {
	if c.Block > 0 {
		return c.Block
	}
	return defaultBlock
}

// connections is how many a mode has: no more than there are rounds.
func (c *Config) connections() int {
	n := c.Connections
	if n == 0 {
		n = defaultConnections
	}
	return min(n, c.Rounds)
}

func (c *Config) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}
