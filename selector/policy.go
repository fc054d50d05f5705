package selector

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sockemu/sockemu/substrate"
)

// A Policy is what a user asks of the choice of substrates. The zero Policy asks nothing: the measurements decide.
type Policy struct {
	// Only: one of these, or an error; never another (a pin). Among several the measurements decide.
	Only []string `json:"only,omitempty"`
	// Prefer: the first of these that works, however fast the others are.
	Prefer []string `json:"prefer,omitempty"`
	// Deny: never these.
	Deny []string `json:"deny,omitempty"`
}

const (
	maxPolicy = 1 << 10
	maxNames  = 16
	maxName   = 32
)

// ParsePolicy reads a policy as users write it in the environment, in options and in rules files. Its terms are separated by
// blanks or semicolons, names of substrates by commas:
//
//	auto               what the measurements say (also the empty string)
//	shm  pin:shm,udp   this one; one of these; or an error
//	prefer:shm,tcp     these first, in this order, if they work
//	!udp  deny:udp     never this one
func ParsePolicy(s string) (Policy, error) {
	var p Policy
	if len(s) > maxPolicy {
		return p, fmt.Errorf("%w: policy longer than %d bytes", substrate.ErrConfig, maxPolicy)
	}
	terms := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == ';' })
	for _, term := range terms {
		if err := p.addTerm(strings.ToLower(term)); err != nil {
			return Policy{}, fmt.Errorf("%w: policy %q: %w", substrate.ErrConfig, s, err)
		}
	}
	for _, n := range p.Prefer {
		if why := p.objection(n); why != "" {
			return Policy{}, fmt.Errorf("%w: policy %q: prefers %s but it is %s", substrate.ErrConfig, s, n, why)
		}
	}
	if p.Required() && len(p.allowed()) == 0 {
		return Policy{}, fmt.Errorf("%w: policy %q: denies all that it pins", substrate.ErrConfig, s)
	}
	return p, nil
}

func (p *Policy) addTerm(term string) error {
	if term == "auto" {
		return nil
	}
	list, names := &p.Only, term
	verb, rest, found := strings.Cut(term, ":")
	switch {
	case strings.HasPrefix(term, "!"):
		list, names = &p.Deny, strings.ReplaceAll(term, "!", "")
		if strings.Count(term, "!") != strings.Count(term, ",")+1 || strings.Contains(term, "!!") {
			return fmt.Errorf("%q mixes allowed and denied names: write deny:%s, or separate them by a blank", term, names)
		}
	case !found || verb == "pin":
		names = strings.TrimPrefix(term, "pin:")
	case verb == "prefer":
		list, names = &p.Prefer, rest
	case verb == "deny":
		list, names = &p.Deny, rest
	default:
		return fmt.Errorf("unknown word %q: it is pin:, prefer:, deny:, !NAME, NAME or auto", verb+":")
	}
	for name := range strings.SplitSeq(names, ",") {
		if !validName(name) {
			return fmt.Errorf("%q in %q is no name of a substrate (like tcp, udp, shm, verbs)", name, term)
		}
		if name == "auto" {
			return fmt.Errorf("%q: auto stands alone", term)
		}
		if slices.Contains(*list, name) {
			continue
		}
		if len(*list) == maxNames {
			return fmt.Errorf("more than %d names", maxNames)
		}
		*list = append(*list, name)
	}
	return nil
}

func validName(s string) bool {
	if s == "" || len(s) > maxName || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == "" // of the valid alphabet nothing remains
}

// Check returns an error if the policy names a substrate that isn't in known: a pin to a misspelt name would only fail
// later, a denial of one never.
func (p Policy) Check(known ...string) error {
	for _, list := range [][]string{p.Only, p.Prefer, p.Deny} {
		for _, n := range list {
			if !slices.Contains(known, n) {
				return fmt.Errorf("%w: no substrate is called %q; there are %s", substrate.ErrConfig, n, strings.Join(known, ", "))
			}
		}
	}
	return nil
}

// Wants reports whether the policy asks for the substrate by name: pinned or preferred.
func (p Policy) Wants(substrate string) bool {
	return slices.Contains(p.Only, substrate) || slices.Contains(p.Prefer, substrate)
}

// Allows reports whether the policy lets a connection use the substrate.
func (p Policy) Allows(substrate string) bool { return p.objection(substrate) == "" }

// Required reports that the policy is a pin: if no substrate of Only can be used, the connection fails, loudly.
func (p Policy) Required() bool { return len(p.Only) > 0 }

// objection says why the policy forbids the substrate; empty if it doesn't.
func (p Policy) objection(substrate string) string {
	switch {
	case slices.Contains(p.Deny, substrate):
		return "denied by policy"
	case p.Required() && !slices.Contains(p.Only, substrate):
		return "pinned to " + strings.Join(p.Only, ",")
	}
	return ""
}

// allowed is what Deny leaves of Only.
func (p Policy) allowed() []string {
	var out []string
	for _, n := range p.Only {
		if !slices.Contains(p.Deny, n) {
			out = append(out, n)
		}
	}
	return out
}

func (p Policy) preference(substrate string) int {
	if i := slices.Index(p.Prefer, substrate); i >= 0 {
		return i
	}
	return len(p.Prefer)
}

// String is the policy as ParsePolicy reads it.
func (p Policy) String() string {
	var terms []string
	for _, t := range []struct {
		verb string
		list []string
	}{{"pin:", p.Only}, {"prefer:", p.Prefer}, {"deny:", p.Deny}} {
		if len(t.list) > 0 {
			terms = append(terms, t.verb+strings.Join(t.list, ","))
		}
	}
	if terms == nil {
		return "auto"
	}
	return strings.Join(terms, " ")
}

// Merge combines this end's policy with the peer's: both hold. Where they contradict each other the error names both. In the
// order of preference this end's comes first; only the deciding end's matters.
func Merge(own, peer Policy) (Policy, error) {
	m := Policy{Deny: union(own.Deny, peer.Deny)}
	switch {
	case own.Required() && peer.Required():
		for _, n := range own.Only {
			if slices.Contains(peer.Only, n) {
				m.Only = append(m.Only, n)
			}
		}
	case own.Required():
		m.Only = slices.Clone(own.Only)
	default:
		m.Only = slices.Clone(peer.Only)
	}
	if m.Only = m.allowed(); m.Only == nil && (own.Required() || peer.Required()) {
		return Policy{}, fmt.Errorf("%w: policies contradict each other: this end %s, the peer %s", substrate.ErrConfig, own.verbs(), peer.verbs())
	}
	for _, n := range union(own.Prefer, peer.Prefer) {
		if m.Allows(n) {
			m.Prefer = append(m.Prefer, n)
		}
	}
	return m, nil
}

// verbs is as in "pins shm, denies udp".
func (p Policy) verbs() string {
	var out []string
	if p.Required() {
		out = append(out, "pins "+strings.Join(p.Only, " or "))
	}
	if len(p.Deny) > 0 {
		out = append(out, "denies "+strings.Join(p.Deny, " and "))
	}
	if out == nil {
		return "allows all"
	}
	return strings.Join(out, " and ")
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, n := range b {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
