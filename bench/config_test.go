package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		text string
		want Size // 0: an error
	}{
		{"128", 128}, {"8", 8}, {"1K", 1024}, {"32K", 32768}, {"1M", 1 << 20}, {"64M", MaxSize},
		{"7", 0}, {"0", 0}, {"0K", 0}, {"-128", 0}, {"65M", 0}, {"99999999999M", 0}, {"", 0}, {"K", 0}, {"1k", 0}, {"1.5K", 0}, {"many", 0},
	} {
		t.Run(c.text, func(t *testing.T) {
			n, err := ParseSize(c.text)
			if c.want == 0 {
				require.ErrorContains(t, err, "128, 32K or 1M", "the message shows how")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want, n)
		})
	}
}

func TestSizeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := Size(rapid.IntRange(int(MinSize), int(MaxSize)).Draw(t, "n"))
		back, err := ParseSize(n.String())
		require.NoError(t, err)
		require.Equal(t, n, back)
	})
	assert.Equal(t, "32768", Size(32768).String(), "as the paper writes it")
	assert.Equal(t, "1M", Size(1<<20).String())
}

// config is a small valid run.
func config() Config {
	return Config{
		Registry: testRegistry, Modes: []string{ModeRaw}, Ops: []Op{RTT}, Sizes: []Size{128}, Placements: []Placement{Free},
		Rounds: 3, Block: 200 * time.Microsecond, Connections: 2, Seed: 1, Command: workerCommand,
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string // "": valid
	}{
		{"valid", func(*Config) {}, ""},
		{"all modes", func(c *Config) { c.Modes, c.Substrates = nil, nil }, ""},
		{"mode", func(c *Config) { c.Modes = []string{"thick"} }, `unknown mode "thick": there is raw, same,`},
		{"substrate", func(c *Config) { c.Substrates = []string{"steam"} }, `unknown substrate "steam": there is tcp, udp`},
		{"mode over substrate", func(c *Config) { c.Modes, c.Substrates = []string{"same"}, []string{"udp"} }, `mode "same" doesn't run over udp`},
		{"not available", func(c *Config) { c.Modes, c.Substrates = []string{"elsewhere"}, nil }, `mode "elsewhere" over smoke is not available here: no such device`},
		{"host", func(c *Config) { c.Host = "127.0.0.2" }, ""},
		{"no address", func(c *Config) { c.Host = "localhost" }, `"localhost": the address to listen at is an IP address`},
		{"host and namespaces", func(c *Config) { c.Host, c.NetNS = "127.0.0.2", true }, "none can be chosen between namespaces"},
		{"no raw", func(c *Config) { c.Registry, c.Modes = testRegistry[1:], nil }, `no transport "raw"`},
		{"op", func(c *Config) { c.Ops = []Op{"latency"} }, `unknown operation "latency": there is rtt, bw`},
		{"placement", func(c *Config) { c.Placements = []Placement{"three"} }, `unknown placement "three"`},
		{"no op", func(c *Config) { c.Ops = nil }, "nothing to measure"},
		{"no size", func(c *Config) { c.Sizes = nil }, "nothing to measure"},
		{"small", func(c *Config) { c.Sizes = []Size{MinSize - 1} }, "size 7 is out of bounds"},
		{"large", func(c *Config) { c.Sizes = []Size{MaxSize + 1} }, "out of bounds"},
		{"no rounds", func(c *Config) { c.Rounds = 0 }, "0 repetitions are out of bounds"},
		{"many rounds", func(c *Config) { c.Rounds = maxRounds + 1 }, "out of bounds"},
		{"connections", func(c *Config) { c.Connections = -1 }, "-1 connections are out of bounds"},
		{"long blocks", func(c *Config) { c.Block = maxBlock + 1 }, "out of bounds: at most 10s"},
		{"only over what is not available", func(c *Config) { c.Modes, c.Substrates = nil, []string{"smoke"} }, "nothing but raw can be measured here: elsewhere over smoke: no such device"},
		{"time", func(c *Config) { c.Budget = -time.Second }, "negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			c.change(&cfg)
			err := cfg.Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestChoose(t *testing.T) {
	names := func(ts []Transport) (s []string) {
		for _, t := range ts {
			s = append(s, t.Name()+"/"+t.Substrate())
		}
		return s
	}
	for _, c := range []struct {
		name              string
		modes, substrates []string
		want              []string
	}{
		{"raw is always there", []string{"same"}, nil, []string{"raw/tcp", "same/tcp"}},
		{"even over another substrate", []string{"corrupt"}, []string{"udp"}, []string{"raw/tcp", "corrupt/udp"}},
		{"and only once", []string{"same", "raw"}, nil, []string{"raw/tcp", "same/tcp"}},
		{"by substrate", nil, []string{"tcp"}, []string{"raw/tcp", "same/tcp", "undialable/tcp"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ts, _, err := testRegistry.choose(c.modes, c.substrates)
			require.NoError(t, err)
			assert.Equal(t, c.want, names(ts))
		})
	}
	t.Run("what is not available is left out, and told", func(t *testing.T) {
		ts, left, err := testRegistry.choose(nil, []string{"smoke", "udp"})
		require.NoError(t, err)
		assert.Equal(t, []string{"raw/tcp", "unlistenable/udp", "corrupt/udp", "unpinned/udp"}, names(ts))
		assert.Equal(t, []Skipped{{Mode: "elsewhere", Substrate: "smoke", Reason: "no such device"}}, left)
		assert.Equal(t, "elsewhere over smoke: no such device", left[0].String())
	})
}
