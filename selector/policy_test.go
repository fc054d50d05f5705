package selector

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/substrate"
)

func TestParsePolicy(t *testing.T) {
	for in, want := range map[string]Policy{
		"":                          {},
		"auto":                      {},
		" AUTO ; ":                  {},
		"shm":                       {Only: []string{"shm"}},
		"pin:shm":                   {Only: []string{"shm"}},
		"SHM,udp":                   {Only: []string{"shm", "udp"}},
		"prefer:shm,tcp":            {Prefer: []string{"shm", "tcp"}},
		"!udp":                      {Deny: []string{"udp"}},
		"!udp,!verbs":               {Deny: []string{"udp", "verbs"}},
		"deny:udp,verbs":            {Deny: []string{"udp", "verbs"}},
		"prefer:shm !udp;deny:udp":  {Prefer: []string{"shm"}, Deny: []string{"udp"}},
		"pin:shm,tcp\tprefer:tcp":   {Only: []string{"shm", "tcp"}, Prefer: []string{"tcp"}},
		"my_own-substrate2 !tcp":    {Only: []string{"my_own-substrate2"}, Deny: []string{"tcp"}},
		"shm shm pin:shm tcp":       {Only: []string{"shm", "tcp"}},
		"pin:shm,udp deny:udp auto": {Only: []string{"shm", "udp"}, Deny: []string{"udp"}},
	} {
		p, err := ParsePolicy(in)
		require.NoError(t, err, "%q", in)
		require.Equal(t, want, p, "%q", in)
	}
}

func TestParsePolicyErrors(t *testing.T) {
	for in, want := range map[string]string{
		"must:shm":                             `unknown word "must:"`,
		"pin:":                                 `"" in "pin:" is no name of a substrate`,
		"shm,,tcp":                             `"" in "shm,,tcp" is no name`,
		"!":                                    `"" in "!" is no name`,
		"!udp,verbs":                           `write deny:udp,verbs, or separate them by a blank`,
		"!!udp":                                `mixes allowed and denied`,
		"shm,auto":                             `auto stands alone`,
		"s/m":                                  `"s/m" in "s/m" is no name`,
		"9p":                                   `is no name`,
		"pin:shm !shm":                         `denies all that it pins`,
		"shm prefer:tcp":                       `prefers tcp but it is pinned to shm`,
		"prefer:udp !udp":                      `prefers udp but it is denied by policy`,
		strings.Repeat("a", maxName+1):         `is no name`,
		strings.Repeat(" ", maxPolicy+1):       `longer than 1024 bytes`,
		"a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q":    `more than 16 names`,
		"!a !b !c !d !e !f !g !h !i !j,!\x00x": `is no name`,
	} {
		_, err := ParsePolicy(in)
		require.ErrorContains(t, err, want, "%q", in)
		require.ErrorIs(t, err, substrate.ErrConfig)
	}
}

func TestPolicyCheck(t *testing.T) {
	p, err := ParsePolicy("prefer:smh")
	require.NoError(t, err)
	require.ErrorContains(t, p.Check("tcp", "shm"), `no substrate is called "smh"; there are tcp, shm`)
	require.NoError(t, p.Check("smh"))
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ own, peer, want, err string }{
		{"auto", "auto", "auto", ""},
		{"shm", "auto", "pin:shm", ""},
		{"auto", "shm,tcp", "pin:shm,tcp", ""},
		{"shm,tcp", "tcp,udp", "pin:tcp", ""},
		{"!udp", "!verbs", "deny:udp,verbs", ""},
		{"prefer:shm", "prefer:udp,shm", "prefer:shm,udp", ""},
		{"prefer:shm,tcp", "!shm", "prefer:tcp deny:shm", ""},
		{"shm,tcp", "!shm", "pin:tcp deny:shm", ""},
		{"tcp", "shm", "", "this end pins tcp, the peer pins shm"},
		{"shm", "!shm", "", "this end pins shm, the peer denies shm"},
		{"!udp", "udp", "", "this end denies udp, the peer pins udp"},
		{"tcp,shm !shm", "shm", "", "this end pins tcp or shm and denies shm, the peer pins shm"},
	} {
		own, err := ParsePolicy(c.own)
		require.NoError(t, err)
		peer, err := ParsePolicy(c.peer)
		require.NoError(t, err)
		m, err := Merge(own, peer)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			require.ErrorIs(t, err, substrate.ErrConfig)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, m.String(), "%s + %s", c.own, c.peer)
	}
}

func drawPolicy(t *rapid.T, label string) Policy {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"tcp", "udp", "shm", "verbs"}), 0, 3, rapid.ID)
	p := Policy{Only: names.Draw(t, label+" only"), Prefer: names.Draw(t, label+" prefer"), Deny: names.Draw(t, label+" deny")}
	parsed, err := ParsePolicy(p.String())
	if err != nil {
		t.Skip("contradicts itself")
	}
	return parsed
}

// What both allow is allowed, whoever asks first; and the text form loses nothing.
func TestMergeAllowsWhatBothAllow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		own, peer := drawPolicy(t, "own"), drawPolicy(t, "peer")
		m, err := Merge(own, peer)
		back, errBack := Merge(peer, own)
		require.Equal(t, err == nil, errBack == nil)
		any := false
		for _, n := range []string{"tcp", "udp", "shm", "verbs"} {
			both := own.Allows(n) && peer.Allows(n)
			any = any || both
			if err == nil {
				require.Equal(t, both, m.Allows(n), n)
				require.Equal(t, both, back.Allows(n), n)
			}
		}
		if err != nil {
			require.True(t, !any || own.Required() || peer.Required())
			return
		}
		require.Equal(t, own.Required() || peer.Required(), m.Required())
		again, err := ParsePolicy(m.String())
		require.NoError(t, err)
		require.Equal(t, m.String(), again.String())
	})
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{"auto", "pin:shm,udp", "prefer:shm,tcp !udp", "!udp,!verbs", "deny:x;y", "!,!", "pin:auto", "a:b:c", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePolicy(s)
		if err != nil {
			require.ErrorIs(t, err, substrate.ErrConfig)
			require.Equal(t, Policy{}, p)
			return
		}
		again, err := ParsePolicy(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
		if p.Required() {
			require.True(t, p.Allows(p.allowed()[0]))
		}
		for _, n := range p.Deny {
			require.False(t, p.Allows(n))
		}
	})
}

// What a policy does to the choice.

func pinned(t *testing.T, own, peer string, offers ...Offer) *lab {
	l := newLab(t, offers...)
	o, err := ParsePolicy(own)
	require.NoError(t, err)
	p, err := ParsePolicy(peer)
	require.NoError(t, err)
	require.NoError(t, l.b.SetPolicies(o, p))
	l.fixed(tcp, tcpCost)
	l.fixed(udp, udpCost)
	l.fixed(shm, shmCost)
	return l
}

func TestPinIsHonoured(t *testing.T) {
	l := pinned(t, "udp", "auto", offer(tcp, udp, shm)...)
	d := l.b.Decide(l.now, l.table, nil, RoundDone)
	require.Equal(t, CausePinWaits, d.Cause)
	d = l.step()
	require.Equal(t, CausePinned, d.Cause)
	require.Equal(t, udp, l.b.Current(), "slower, but pinned")
	require.Equal(t, "tcp -> udp (10.0.0.7:7000): this end's policy: this end pins it; rejected: shm: pinned to udp", d.String())
	l.run(10*time.Minute, false)
	l.table.Died(l.now, udp, "reset")
	d = l.decide(LinkDied)
	require.Equal(t, Stay, d.Action, "never another one")
	require.Equal(t, CausePinWaits, d.Cause)
	l.run(10*time.Minute, false)
	require.Len(t, l.log, 1)
}

func TestPeerPin(t *testing.T) {
	l := pinned(t, "auto", "udp", offer(tcp, udp, shm)...)
	require.Equal(t, CausePeerPinned, l.step().Cause)
	require.Equal(t, udp, l.b.Current())
}

func TestPinImpossible(t *testing.T) {
	l := pinned(t, "verbs", "auto", append(offer(tcp), Offer{Path: verbs, Barred: "no RDMA device here"})...)
	d := l.step()
	require.Equal(t, Fail, d.Action)
	require.Equal(t, "no path (10.0.0.7:7000): what is pinned can't be had: this end pins it; rejected: verbs: no RDMA device here", d.String())

	l = pinned(t, "shm", "auto", offer(tcp, shm)...)
	l.gone(shm, "other host")
	d = l.step()
	require.Equal(t, Fail, d.Action)
	require.Contains(t, d.String(), "shm: probe failed: other host")
}

func TestContradictingPoliciesChangeNothing(t *testing.T) {
	l := pinned(t, "shm", "auto", offer(tcp, shm)...)
	require.Error(t, l.b.SetPolicies(Policy{Only: []string{"tcp"}}, Policy{Only: []string{"shm"}}))
	require.Equal(t, "pin:shm", l.b.Policy().String())
	_, err := NewBinding(l.now, tcp, true, Policy{Only: []string{"tcp"}}, Policy{Only: []string{"shm"}})
	require.Error(t, err)
}

func TestPreferenceBeatsNumbers(t *testing.T) {
	l := pinned(t, "prefer:udp", "auto", offer(tcp, udp, shm)...)
	d := l.step()
	require.Equal(t, CausePreferred, d.Cause)
	require.Equal(t, udp, l.b.Current())
	require.Contains(t, d.String(), "shm: the policy prefers udp")
	l.run(10*time.Minute, false)
	l.table.Died(l.now, udp, "reset")
	require.Equal(t, shm, l.decide(LinkDied).To, "the others by numbers")
	l.run(10*time.Minute, false)
	require.Equal(t, udp, l.b.Current())
}

func TestDeny(t *testing.T) {
	l := pinned(t, "!shm", "!udp", offer(tcp, udp, shm)...)
	l.run(10*time.Minute, false)
	require.Empty(t, l.log)
	require.NoError(t, l.b.SetPolicies(Policy{Deny: []string{"tcp"}}, Policy{}))
	require.Equal(t, shm, l.step().To)
}
