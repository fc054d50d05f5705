package netem

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A key is one thing that a spec can say. set reads its value; get writes it, "" if there is nothing to say.
type key struct {
	name string
	flag bool // has no value
	set  func(im *Impairment, value string) error
	get  func(im *Impairment) string
}

// keys are in the order in which String writes them.
var keys = []key{
	flag("blackhole", func(im *Impairment) *bool { return &im.Blackhole }),
	size("mtu", func(im *Impairment) *int { return &im.MTU }),
	{
		name: "rate",
		set:  func(im *Impairment, v string) (err error) { im.Rate, err = parseRate(v); return err },
		get:  func(im *Impairment) string { return formatRate(im.Rate) },
	},
	size("queue", func(im *Impairment) *int { return &im.Queue }),
	size("ecn", func(im *Impairment) *int { return &im.Mark }),
	fraction("loss", func(im *Impairment) *float64 { return &im.Loss }),
	{
		name: "burst",
		set:  func(im *Impairment, v string) (err error) { im.Burst, err = parseFloat(v); return err },
		get:  func(im *Impairment) string { return formatFloat(im.Burst) },
	},
	fraction("dup", func(im *Impairment) *float64 { return &im.Duplicate }),
	fraction("corrupt", func(im *Impairment) *float64 { return &im.Corrupt }),
	duration("delay", func(im *Impairment) *time.Duration { return &im.Delay }),
	duration("jitter", func(im *Impairment) *time.Duration { return &im.Jitter }),
	{
		name: "shape",
		set:  func(im *Impairment, v string) (err error) { im.Shape, err = parseShape(v); return err },
		get: func(im *Impairment) string {
			if im.Shape == Uniform {
				return ""
			}
			return im.Shape.String()
		},
	},
	flag("unordered", func(im *Impairment) *bool { return &im.Unordered }),
	fraction("reorder", func(im *Impairment) *float64 { return &im.Reorder }),
	duration("gap", func(im *Impairment) *time.Duration { return &im.Gap }),
	flag("bleach", func(im *Impairment) *bool { return &im.Bleach }),
	flag("mangle", func(im *Impairment) *bool { return &im.Mangle }),
}

// none is the spec of the zero Impairment, beside the empty one.
const none = "none"

// Parse reads a spec: items separated by commas, each KEY=VALUE or a flag, in any order, each at most once. "" and "none" are
// the zero Impairment.
//
//	rate=20mbit      bit, kbit, mbit, gbit per second        delay=25ms    a duration of Go: 300us, 25ms, 1.5s
//	queue=256k       bytes; k and m are 1024 and 1024²       jitter=2ms    the same
//	mtu=1400         bytes                                   shape=normal  uniform, normal or pareto jitter
//	loss=1%          1% or 0.01                              reorder=2%    as loss
//	burst=8          packets                                 gap=3ms       as delay
//	dup=5%           as loss                                 unordered     jitter may reorder
//	corrupt=0.1%     as loss                                 blackhole     everything vanishes
//	ecn=30k          as queue: marked beyond                 bleach        no codepoint of ECN gets through
//	mangle           every packet says CE
func Parse(spec string) (Impairment, error) {
	var im Impairment
	if spec == "" || spec == none {
		return im, nil
	}
	seen := make(map[string]bool)
	for item := range strings.SplitSeq(spec, ",") {
		name, value, hasValue := strings.Cut(item, "=")
		k, err := find(name)
		switch {
		case err != nil:
		case seen[name]:
			err = fmt.Errorf("%s is there twice", name)
		case k.flag && hasValue:
			err = fmt.Errorf("%s takes no value", name)
		case !k.flag && value == "":
			err = fmt.Errorf("%s needs a value, as in %s=VALUE", name, name)
		default:
			if err = k.set(&im, value); err != nil {
				err = fmt.Errorf("%s: %w", item, err)
			}
		}
		if err != nil {
			return Impairment{}, fmt.Errorf("impairment %q: %w", spec, err)
		}
		seen[name] = true
	}
	if err := im.Validate(); err != nil {
		return Impairment{}, fmt.Errorf("impairment %q: %w", spec, err)
	}
	return im, nil
}

// MustParse is Parse for specs that a program was built with. It panics where Parse returns an error.
func MustParse(spec string) Impairment {
	im, err := Parse(spec)
	if err != nil {
		panic(err)
	}
	return im
}

// String is the spec of the impairment: Parse reads it back to the same value.
func (im Impairment) String() string {
	var items []string
	for _, k := range keys {
		switch v := k.get(&im); {
		case v == "":
		case k.flag:
			items = append(items, k.name)
		default:
			items = append(items, k.name+"="+v)
		}
	}
	if len(items) == 0 {
		return none
	}
	return strings.Join(items, ",")
}

// MarshalText and UnmarshalText make a spec a flag's or a JSON field's value.
func (im Impairment) MarshalText() ([]byte, error) { return []byte(im.String()), nil }

// UnmarshalText reads a spec.
func (im *Impairment) UnmarshalText(text []byte) (err error) {
	*im, err = Parse(string(text))
	return err
}

func find(name string) (key, error) {
	names := make([]string, len(keys))
	for i, k := range keys {
		if k.name == name {
			return k, nil
		}
		names[i] = k.name
	}
	return key{}, fmt.Errorf("no such key: %q; there are %s", name, strings.Join(names, ", "))
}

func flag(name string, field func(*Impairment) *bool) key {
	return key{
		name: name, flag: true,
		set: func(im *Impairment, _ string) error { *field(im) = true; return nil },
		get: func(im *Impairment) string {
			if *field(im) {
				return name
			}
			return ""
		},
	}
}

func size(name string, field func(*Impairment) *int) key {
	return key{
		name: name,
		set:  func(im *Impairment, v string) (err error) { *field(im), err = parseSize(v); return err },
		get:  func(im *Impairment) string { return formatSize(*field(im)) },
	}
}

func fraction(name string, field func(*Impairment) *float64) key {
	return key{
		name: name,
		set:  func(im *Impairment, v string) (err error) { *field(im), err = parseFraction(v); return err },
		get:  func(im *Impairment) string { return formatFraction(*field(im)) },
	}
}

func duration(name string, field func(*Impairment) *time.Duration) key {
	return key{
		name: name,
		set: func(im *Impairment, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil {
				return errors.New("want a duration, like 25ms, 300us or 1.5s")
			}
			*field(im) = d
			return nil
		},
		get: func(im *Impairment) string {
			if d := *field(im); d != 0 {
				return d.String()
			}
			return ""
		},
	}
}

// A unit is a suffix and what it multiplies by.
type unit struct {
	suffix string
	factor int64
}

// The largest come first: formatting takes the first that divides, and "bit" ends all the others.
var (
	rateUnits = []unit{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}
	sizeUnits = []unit{{"m", 1 << 20}, {"k", 1 << 10}, {"", 1}}
)

func parseRate(s string) (int64, error) {
	return parseUnits(s, rateUnits, maxRate, "want a rate with its unit, like 200mbit, 1.5mbit, 64kbit")
}

func parseSize(s string) (int, error) {
	n, err := parseUnits(s, sizeUnits, maxSize, "want a number of bytes, like 1400, 64k, 1m")
	return int(n), err
}

// parseUnits reads a positive number with one of the units; want is the error if it can't.
func parseUnits(s string, units []unit, limit int64, want string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		f, err := parseFloat(digits)
		n := math.Round(f * float64(u.factor))
		if err != nil || n < 1 {
			break
		}
		if n > float64(limit) {
			return 0, fmt.Errorf("too large: at most %d", limit)
		}
		return int64(n), nil
	}
	return 0, errors.New(want)
}

func formatRate(n int64) string { return formatUnits(n, rateUnits) }
func formatSize(n int) string   { return formatUnits(int64(n), sizeUnits) }

func formatUnits(n int64, units []unit) string {
	if n != 0 {
		for _, u := range units {
			if n%u.factor == 0 {
				return strconv.FormatInt(n/u.factor, 10) + u.suffix
			}
		}
	}
	return ""
}

func parseFraction(s string) (float64, error) {
	digits, percent := strings.CutSuffix(s, "%")
	f, err := parseFloat(digits)
	if err != nil {
		return 0, errors.New("want a fraction, like 1% or 0.01")
	}
	if percent {
		f /= 100
	}
	if f > 1 {
		return 0, errors.New("want at most 100%; a percentage has a % behind it")
	}
	return f, nil
}

// formatFraction writes percent where that reads back as the same number.
func formatFraction(f float64) string {
	if f == 0 {
		return ""
	}
	if s := formatFloat(f*100) + "%"; len(s) <= len("0.0001%") {
		if back, err := parseFraction(s); err == nil && back == f {
			return s
		}
	}
	return formatFloat(f)
}

// parseFloat reads a plain number, not below 0: no infinity, no hexadecimal.
func parseFloat(s string) (float64, error) {
	if strings.Trim(s, "0123456789.e-+") != "" {
		return 0, errors.New("want a number")
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || math.IsInf(f, 0) || f == 0 && math.Signbit(f) {
		return 0, errors.New("want a number, not below 0")
	}
	return f, nil
}

func formatFloat(f float64) string {
	if f == 0 {
		return ""
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func parseShape(s string) (Shape, error) {
	for i, name := range shapes {
		if s == name {
			return Shape(i), nil
		}
	}
	return 0, fmt.Errorf("want one of %s", strings.Join(shapes[:], ", "))
}
