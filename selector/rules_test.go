package selector

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

const sampleRules = `
# our cluster
10.0.0.7            shm          # one host, by address
10.0.0.7:9000       tcp
10.0.0.0/8          prefer:udp !verbs
2001:db8::/32       deny:udp
fe80::7%eth0        udp
[2001:DB9::1]:7000  verbs
DB*.example.org     pin:tcp
web?:80*            udp
*	auto
`

func TestRules(t *testing.T) {
	rules, err := ParseRules(strings.NewReader(sampleRules))
	require.NoError(t, err)
	for peer, want := range map[string]string{
		"10.0.0.7":                "pin:shm",
		"10.0.0.7:7000":           "pin:shm",
		"[::ffff:10.0.0.7]:1":     "pin:shm",
		"10.1.2.3:7000":           "prefer:udp deny:verbs",
		"[2001:db8::5]:7000":      "deny:udp",
		"2001:db8::5":             "deny:udp",
		"[fe80::7%eth0]:7000":     "pin:udp",
		"[fe80::7%eth1]:7000":     "auto",
		"[2001:db9::1]:7000":      "pin:verbs",
		"[2001:db9::1]:7001":      "auto",
		"db1.Example.org.:7000":   "pin:tcp",
		"db.example.org":          "pin:tcp",
		"db1.example.organ":       "auto",
		"web1:8080":               "pin:udp",
		"web1:80":                 "pin:udp",
		"web12:80":                "auto",
		"web1":                    "auto",
		"":                        "auto",
		"]:[::":                   "auto",
		"11.0.0.7:7000":           "auto",
		strings.Repeat("*a", 500): "auto",
	} {
		require.Equal(t, want, policyFor(rules, peer).String(), "%q", peer)
	}
	require.Equal(t, "pin:shm", policyFor(rules, "db1.example.org:7000", "10.0.0.7:7000").String(), "the first rule, not the first name")
	require.Equal(t, Policy{}, policyFor(Rules{}, "x"))
}

func TestRulesErrors(t *testing.T) {
	for in, want := range map[string]string{
		"\n\n10.0.0.1\n":                       `line 3: configuration error: no policy after "10.0.0.1"`,
		"* auto\n10.0.0.0/33 tcp":              `line 2: configuration error: "10.0.0.0/33" is no CIDR prefix`,
		"* must:tcp":                           `line 1: configuration error: policy "must:tcp": unknown word`,
		"fe80::* tcp":                          `line 1: configuration error: "fe80::*" is no peer`,
		":7000 tcp":                            `is no peer`,
		"# x\n" + strings.Repeat("a", 2000):    `line 2: configuration error: longer than 1024 bytes`,
		strings.Repeat("* tcp\n", maxRules+1):  `line 1001: configuration error: more than 1000 rules`,
		strings.Repeat("#"+dots(99)+"\n", 700): `rules longer than 64 KiB`,
	} {
		_, err := ParseRules(strings.NewReader(in))
		require.ErrorContains(t, err, want)
		require.ErrorIs(t, err, substrate.ErrConfig)
	}
	broken := errors.New("disk on fire")
	_, err := ParseRules(iotest.ErrReader(broken))
	require.ErrorIs(t, err, broken)
	_, err = ParseRules(strings.NewReader(strings.Repeat("#"+dots(62)+"\n", 1024)))
	require.NoError(t, err, "64 KiB to the byte")
}

func dots(n int) string { return strings.Repeat(".", n) }

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abcb", false},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"*b*", "abc", true}, {"**", "x", true}, {"a*b*c", "aXbYbZc", true},
		{strings.Repeat("a*", 300) + "b", strings.Repeat("a", 1000), false},
	} {
		require.Equal(t, c.want, glob(c.pattern, c.s), "%.20s %.20s", c.pattern, c.s)
	}
}

func FuzzParseRules(f *testing.F) {
	f.Add(sampleRules, "10.0.0.7:7000")
	f.Add("* auto # x", "")
	f.Add("[::1]:* tcp", "[::1]:1")
	f.Add("a:b:c tcp\n]:[ x\n/ y", "::")
	f.Fuzz(func(t *testing.T, file, peer string) {
		rules, err := ParseRules(strings.NewReader(file))
		if err != nil {
			require.Contains(t, err.Error(), "line ")
			require.Empty(t, rules)
			return
		}
		require.LessOrEqual(t, len(rules.rules), strings.Count(file, "\n")+1)
		p := policyFor(rules, peer)
		if all, err := ParseRules(strings.NewReader("* pin:tcp\n" + file)); err == nil {
			require.Equal(t, "pin:tcp", policyFor(all, peer).String(), "the first rule wins, and * is everybody")
		}
		again, err := ParsePolicy(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}

func policyFor(rs Rules, peer ...string) Policy {
	p, _ := rs.Find(peer...)
	return p
}
