package netem

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	im, err := Parse("rate=200mbit,queue=256k,delay=25ms,jitter=2ms,shape=normal,unordered,loss=1%,burst=8,dup=5%,reorder=0.02,gap=3ms,corrupt=0.1%,mtu=1400")
	require.NoError(t, err)
	require.Equal(t, Impairment{
		MTU: 1400, Rate: 200e6, Queue: 256 << 10, Loss: 0.01, Burst: 8, Duplicate: 0.05, Corrupt: 0.001,
		Delay: 25 * time.Millisecond, Jitter: 2 * time.Millisecond, Shape: Normal, Unordered: true, Reorder: 0.02, Gap: 3 * time.Millisecond,
	}, im)
	require.Equal(t, "mtu=1400,rate=200mbit,queue=256k,loss=1%,burst=8,dup=5%,corrupt=0.1%,delay=25ms,jitter=2ms,shape=normal,unordered,reorder=2%,gap=3ms", im.String())
	for spec, want := range map[string]Impairment{
		"":                       {},
		"none":                   {},
		"blackhole":              {Blackhole: true},
		"rate=1.5mbit":           {Rate: 1_500_000},
		"rate=2500bit":           {Rate: 2500},
		"loss=1":                 {Loss: 1},
		"rate=1gbit,queue=1m":    {Rate: 1e9, Queue: 1 << 20},
		"rate=1gbit,ecn=60k":     {Rate: 1e9, Mark: 60 << 10},
		"bleach":                 {Bleach: true},
		"mangle":                 {Mangle: true},
		"loss=100%,burst=3":      {Loss: 1, Burst: 3},
		"delay=300us,jitter=1ms": {Delay: 300 * time.Microsecond, Jitter: time.Millisecond},
	} {
		got, err := Parse(spec)
		require.NoError(t, err, spec)
		require.Equal(t, want, got, spec)
	}
}

// TestParseErrors: each mistake is told in words that lead to the right spec.
func TestParseErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"los=1%":                 "no such key: \"los\"; there are blackhole, mtu, rate",
		"loss=1%,":               "no such key: \"\"",
		"loss":                   "loss needs a value",
		"loss=1%,loss=2%":        "loss is there twice",
		"blackhole=yes":          "takes no value",
		"loss=5":                 "a percentage has a %",
		"loss=101%":              "at most 100%",
		"loss=-1%":               "want a fraction",
		"loss=NaN":               "want a fraction",
		"rate=200":               "with its unit",
		"rate=200mbps":           "with its unit",
		"rate=1bit":              "want 1kbit to 1000gbit",
		"rate=2000gbit":          "too large",
		"rate=infmbit":           "with its unit",
		"queue=64k":              "needs a rate",
		"rate=1mbit,queue=2g":    "want a number of bytes",
		"rate=1mbit,queue=2000m": "too large",
		"delay=25":               "want a duration",
		"delay=-1ms":             "want 0 to 1h",
		"delay=2h":               "want 0 to 1h",
		"jitter=1ms,shape=flat":  "want one of uniform, normal, pareto",
		"burst=4":                "needs a loss",
		"loss=1%,burst=0.5":      "mean length of 1",
		"loss=90%,burst=2":       "such bursts lose at most 0.6667",
		"gap=1ms":                "needs reorder",
		"ecn=30k":                "needs a rate",
		"rate=1mbit,ecn=2000m":   "too large",
		"bleach,mangle":          "cleared and set",
		"mtu=-3":                 "want a number of bytes",
	} {
		_, err := Parse(spec)
		require.ErrorContains(t, err, want, spec)
		require.ErrorContains(t, err, spec, "says what was read")
	}
	require.Panics(t, func() { MustParse("nonsense") })
	require.Equal(t, "Shape(9)", Shape(9).String())
	require.ErrorContains(t, (&Impairment{Shape: 9}).Validate(), "Shape(9)")
}

// anyImpairment draws valid impairments.
func anyImpairment(t *rapid.T) Impairment {
	fraction := func(name string) float64 {
		return rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0, 1), rapid.SampledFrom([]float64{0.01, 0.05, 0.001, 1})).Draw(t, name)
	}
	delay := func(name string) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(maxDelay)).Draw(t, name))
	}
	im := Impairment{
		Blackhole: rapid.IntRange(0, 9).Draw(t, "blackhole") == 0,
		MTU:       rapid.IntRange(0, maxSize).Draw(t, "mtu"),
		Loss:      fraction("loss"), Duplicate: fraction("dup"), Corrupt: fraction("corrupt"), Reorder: fraction("reorder"),
		Delay: delay("delay"), Jitter: delay("jitter"), Shape: rapid.SampledFrom([]Shape{Uniform, Normal, Pareto}).Draw(t, "shape"),
		Unordered: rapid.Bool().Draw(t, "unordered"),
	}
	if rapid.Bool().Draw(t, "limited") {
		im.Rate = rapid.Int64Range(minRate, maxRate).Draw(t, "rate")
		im.Queue = rapid.IntRange(0, maxSize).Draw(t, "queue")
		im.Mark = rapid.IntRange(0, maxSize).Draw(t, "ecn")
	}
	if im.Loss > 0 {
		im.Burst = rapid.Float64Range(1, maxBurst).Draw(t, "burst")
	}
	if im.Reorder > 0 {
		im.Gap = delay("gap")
	}
	switch rapid.IntRange(0, 9).Draw(t, "codepoints") {
	case 0:
		im.Bleach = true
	case 1:
		im.Mangle = true
	}
	if im.Validate() != nil { // bursts too short for so much loss
		im.Burst = 0
	}
	return im
}

func TestSpecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		im := anyImpairment(t)
		back, err := Parse(im.String())
		require.NoError(t, err)
		require.Equal(t, im, back)
		text, err := json.Marshal(im)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, im, back)
	})
}

func FuzzParse(f *testing.F) {
	f.Add("rate=200mbit,delay=25ms,jitter=2ms,loss=1%,burst=8,dup=5%,reorder=2%,corrupt=0.1%,mtu=1400,queue=256k")
	f.Add("rate=1mbit,ecn=30k,bleach")
	f.Add("mangle")
	f.Add("blackhole,unordered,shape=pareto,gap=1ns,reorder=1e-5")
	f.Fuzz(func(t *testing.T, spec string) {
		im, err := Parse(spec)
		if err != nil {
			require.Zero(t, im)
			return
		}
		require.NoError(t, im.Validate())
		back, err := Parse(im.String())
		require.NoError(t, err, im.String())
		require.Equal(t, im, back)
		p := NewPipe(im, 1)
		now := time.Unix(0, 0)
		for size := range 64 {
			for _, d := range p.Admit(now, size*size) {
				require.False(t, d.At.Before(now))
				require.Less(t, d.Flip, max(size*size*8, 1))
			}
		}
	})
}
