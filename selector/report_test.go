package selector

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// The field names are a contract with scripts (docs: `sockemu probe PEER --json`).
const reportJSON = `{
	"peer": "10.0.0.7:7000", "policy": "auto", "mean_size": 64,
	"candidates": [
		{"substrate": "shm", "addr": "@sockemu", "tier": "healthy", "ok": true, "reason": "", "score_us": 2.064, "sigma_us": 0,
			"cost": {"rtt_us": 2, "rtt_min_us": 1.5, "rtt_p99_us": 9, "jitter_us": 0, "send_overhead_us": 1, "ns_per_byte": 1,
				"mb_s": 1000, "loss": 0, "samples": 16, "age_s": 0}},
		{"substrate": "tcp", "addr": "10.0.0.7:7000", "tier": "rejected", "ok": false, "reason": "not probed yet", "score_us": 0,
			"sigma_us": 0, "cost": {"rtt_us": 0, "rtt_min_us": 0, "rtt_p99_us": 0, "jitter_us": 0, "send_overhead_us": 0,
			"ns_per_byte": 0, "mb_s": 0, "loss": 0, "samples": 0, "age_s": 0}},
		{"substrate": "verbs", "tier": "rejected", "ok": false, "reason": "no RDMA device here", "score_us": 0,
			"sigma_us": 0, "cost": {"rtt_us": 0, "rtt_min_us": 0, "rtt_p99_us": 0, "jitter_us": 0, "send_overhead_us": 0,
			"ns_per_byte": 0, "mb_s": 0, "loss": 0, "samples": 0, "age_s": 0}}
	],
	"choice": {"substrate": "shm", "addr": "@sockemu", "why": "the only path that works"},
	"best": [{"from": 0, "substrate": "shm", "addr": "@sockemu"}],
	"curves": [{"substrate": "shm", "addr": "@sockemu", "points": [{"size": 0, "us": 2}, {"size": 1000, "us": 3}]}]
}`

func TestReportJSON(t *testing.T) {
	l := newLab(t, append(offer(tcp, shm), Offer{Path: Path{Substrate: "verbs"}, Barred: "no RDMA device here"})...)
	r := l.table.Round(l.now)
	l.table.Record(shm, Measurement{Round: r.ID, At: l.now, RTTMin: 1500, RTTP99: 9000, Cost: substrate.Cost{
		RTT: 2000, SendOverhead: 1000, PerByte: 1, Samples: 16}})
	report := l.table.Report(l.now, Policy{}, Weights{1, 0, 0, 0}, []int{0, 1000})
	for i := range report.Candidates { // no spread is known from one round; take the assumed one out of the comparison
		report.Candidates[i].Sigma = 0
	}
	got, err := json.Marshal(report)
	require.NoError(t, err)
	require.JSONEq(t, reportJSON, string(got))
}

func TestEmptyReport(t *testing.T) {
	got, err := json.Marshal(NewTable("p", Config{}).Report(time.Unix(0, 0), Policy{}, StartWeights, nil))
	require.NoError(t, err)
	require.JSONEq(t, `{"peer":"p","policy":"auto","mean_size":63520,"candidates":[],"choice":{"substrate":"","why":"no candidate works"},
		"best":[],"curves":[]}`, roundMean(t, got))
}

// roundMean takes the fraction off mean_size.
func roundMean(t *testing.T, p []byte) string {
	var m map[string]any
	require.NoError(t, json.Unmarshal(p, &m))
	m["mean_size"] = int(m["mean_size"].(float64))
	out, err := json.Marshal(m)
	require.NoError(t, err)
	return string(out)
}

func TestChoice(t *testing.T) {
	l := newLab(t, offer(tcp, udp, shm)...)
	choice := func(policy string) Choice {
		p, err := ParsePolicy(policy)
		require.NoError(t, err)
		return l.table.Report(l.now, p, StartWeights, nil).Choice
	}
	require.Equal(t, Choice{tcp, "the base path; nothing is measured yet"}, choice("auto"))
	require.Equal(t, Choice{Why: "what is pinned can't be had (policy pin:verbs)"}, choice("verbs"))
	require.Equal(t, Choice{Why: "no candidate works of those that the policy admits (policy deny:tcp)"}, choice("!tcp"))
	l.fixed(tcp, tcpCost)
	l.fixed(udp, udpCost)
	l.fixed(shm, shmCost)
	l.probe()
	require.Equal(t, shm, choice("auto").Path)
	require.Regexp(t, `^\d\.\dx faster than tcp \(score \d\.\d us to \d+\.\d us\)$`, choice("auto").Why)
	require.Equal(t, Choice{udp, "pinned (policy pin:udp)"}, choice("udp"))
	require.Equal(t, Choice{tcp, "preferred (policy prefer:tcp)"}, choice("prefer:tcp"))
	require.Equal(t, Choice{udp, "the only path that works of those that the policy admits (policy deny:tcp,shm)"}, choice("deny:tcp,shm"))
	r := l.table.Report(l.now, Policy{}, StartWeights, nil)
	require.Regexp(t, `^costs \d\.\d\d times as much as shm$`, r.Candidates[1].Reason)
}

func TestDecisionJSON(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.step()
	got, err := json.Marshal(l.b.History())
	require.NoError(t, err)
	var entries []map[string]any
	require.NoError(t, json.Unmarshal(got, &entries))
	var names []string
	for n := range entries[0] {
		names = append(names, n)
	}
	slices.Sort(names)
	require.Equal(t, []string{"action", "at", "candidates", "cause", "from", "from_score_us", "gain_us", "noise_us", "peer", "to", "to_score_us"}, names)
	require.Equal(t, "switch", entries[0]["action"])
	require.Equal(t, "initial", entries[0]["cause"])
	require.Equal(t, map[string]any{"substrate": "shm", "addr": "@sockemu"}, entries[0]["to"])
}

func TestHistoryIsBounded(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	for range 10 * historyLen {
		l.step()
		l.table.Died(l.now, shm, "reset")
		l.decide(LinkDied)
		l.now = l.now.Add(2 * time.Minute)
	}
	h := l.b.History()
	require.Len(t, h, historyLen)
	require.True(t, slices.IsSortedFunc(h, func(a, b Decision) int { return a.At.Compare(b.At) }))
	require.Equal(t, h[historyLen-1].At.Add(2*time.Minute), l.now)
}

// Every cause has a name of its own and words of its own.
func TestNames(t *testing.T) {
	require.Len(t, causeNames, int(CauseNoPath)+1)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(causeNames))), len(causeNames))
	for c := CauseInitial; c <= CauseNoPath; c++ {
		d := Decision{Cause: c, Note: "note", From: tcp, To: tcp}
		require.NotEmpty(t, d.why(), c)
	}
	require.Equal(t, []string{"pinned", "fail", "tier 9", "cause 99"}, []string{Pinned.String(), Fail.String(), Tier(9).String(), Cause(99).String()})
}

// A difference that may be chance is not said to be one.
func TestReportDoubts(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, cost(24*time.Microsecond, .40))
	l.fixed(shm, cost(23*time.Microsecond, .39))
	l.probe()
	why := l.table.Report(l.now, Policy{}, StartWeights, nil).Choice.Why
	require.Regexp(t, `^about as fast as tcp, the difference may be noise \(score .* us to .* us; gain .* us, noise .* us\)$`, why)
	l.fixed(shm, shmCost)
	l.now = l.now.Add(time.Minute)
	l.probe()
	require.Contains(t, l.table.Report(l.now, Policy{}, StartWeights, nil).Choice.Why, "x faster than tcp")
}
