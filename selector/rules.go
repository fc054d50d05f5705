package selector

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/sockemu/sockemu/substrate"
)

// Rules say which policy holds for which peer. The first rule that matches wins. The zero Rules match nothing.
type Rules struct {
	rules []rule
}

type rule struct {
	line   int          // of the file
	prefix netip.Prefix // if valid, the peer's address is in it
	glob   string       // else its name, or name:port, matches this
	port   bool         // the glob has a port
	policy Policy
}

const (
	maxRules    = 1000
	maxRuleFile = 64 << 10
	maxRuleLine = 1 << 10
)

// ParseRules reads a rules file of at most 64 KiB. Each line is
//
//	PEER POLICY   # comment
//
// where PEER is * (everybody), an IP address, a CIDR prefix, or a host name or host:port in which * and ? stand for any
// characters and any one, and POLICY is what ParsePolicy takes. An address with a port is written 10.0.0.7:7000 or
// [fe80::7]:7000. Errors name the line.
func ParseRules(r io.Reader) (Rules, error) {
	var rs Rules
	lines := bufio.NewScanner(io.LimitReader(r, maxRuleFile+1))
	lines.Buffer(make([]byte, 0, maxRuleLine), maxRuleLine)
	read, n := 0, 0
	for lines.Scan() {
		n++
		if read += len(lines.Bytes()) + 1; read > maxRuleFile+1 {
			break
		}
		line, _, _ := strings.Cut(lines.Text(), "#")
		peer, policy, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), " ")
		if peer == "" {
			continue
		}
		rule, err := parseRule(peer, strings.TrimSpace(policy))
		rule.line = n
		if err == nil && len(rs.rules) == maxRules {
			err = fmt.Errorf("%w: more than %d rules", substrate.ErrConfig, maxRules)
		}
		if err != nil {
			return Rules{}, fmt.Errorf("line %d: %w", n, err)
		}
		rs.rules = append(rs.rules, rule)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return Rules{}, fmt.Errorf("line %d: %w: longer than %d bytes", n+1, substrate.ErrConfig, maxRuleLine)
	}
	if err := lines.Err(); err != nil {
		return Rules{}, fmt.Errorf("line %d: %w", n+1, err)
	}
	if read > maxRuleFile {
		return Rules{}, fmt.Errorf("line %d: %w: rules longer than %d KiB", n, substrate.ErrConfig, maxRuleFile>>10)
	}
	return rs, nil
}

func parseRule(peer, policy string) (rule, error) {
	if policy == "" {
		return rule{}, fmt.Errorf("%w: no policy after %q: auto, for example", substrate.ErrConfig, peer)
	}
	p, err := ParsePolicy(policy)
	if err != nil {
		return rule{}, err
	}
	r := rule{policy: p}
	if strings.Contains(peer, "/") {
		prefix, err := netip.ParsePrefix(peer)
		if err != nil {
			return rule{}, fmt.Errorf("%w: %q is no CIDR prefix (like 10.0.0.0/8)", substrate.ErrConfig, peer)
		}
		r.prefix = prefix.Masked()
		return r, nil
	}
	if a, err := netip.ParseAddr(peer); err == nil {
		r.glob = a.Unmap().String()
		return r, nil
	}
	host, port := splitPeer(peer)
	if host == "" || strings.Contains(host, ":") && !strings.Contains(peer, "]") {
		return rule{}, fmt.Errorf("%w: %q is no peer: *, IP, CIDR, host or host:port", substrate.ErrConfig, peer)
	}
	r.glob, r.port = host, port != ""
	if r.port {
		r.glob += " " + port
	}
	return r, nil
}

// splitPeer splits host:port or [ip]:port, brings the host to a normal form, and copes with both halves missing.
func splitPeer(s string) (host, port string) {
	host = s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || i > 0 && s[i-1] == ']') {
		host, port = s[:i], s[i+1:]
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String(), port
	}
	return strings.TrimSuffix(strings.ToLower(host), "."), port
}

// Check returns an error that names the line if a policy names a substrate that isn't in known: see Policy.Check.
func (rs Rules) Check(known ...string) error {
	for _, r := range rs.rules {
		if err := r.policy.Check(known...); err != nil {
			return fmt.Errorf("line %d: %w", r.line, err)
		}
	}
	return nil
}

// Wants reports whether any of the policies asks for the substrate by name.
func (rs Rules) Wants(substrate string) bool {
	return slices.ContainsFunc(rs.rules, func(r rule) bool { return r.policy.Wants(substrate) })
}

// Find returns the policy for a peer, which may be known by several names: as it was dialled ("db1:7000") and by its address
// ("10.0.0.7:7000"). It is the policy of the first rule that matches any of them; false if none does.
func (rs Rules) Find(peer ...string) (Policy, bool) {
	for _, r := range rs.rules {
		for _, p := range peer {
			if r.matches(p) {
				return r.policy, true
			}
		}
	}
	return Policy{}, false
}

func (r rule) matches(peer string) bool {
	host, port := splitPeer(peer)
	if r.prefix.IsValid() {
		a, err := netip.ParseAddr(host)
		return err == nil && r.prefix.Contains(a.WithZone(""))
	}
	if r.port {
		host += " " + port // a blank is in no host name
	}
	return glob(r.glob, host)
}

// glob matches s against a pattern with * and ?. Its time is at most the product of both lengths: it only ever goes back to
// the last star.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
