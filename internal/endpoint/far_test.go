package endpoint

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate/fault"
)

// exchange sends something both ways.
func (r *roads) exchange(t *testing.T) {
	t.Helper()
	exchange(t, r.a, r.b)
	exchange(t, r.b, r.a)
}

// TestFarIsNotSilent: a peer whose round trips take longer than a silent one is waited for speaks sockemu all the same.
func TestFarIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{}, Config{})
		p.n.All().Shape(fault.Both, fault.Shape{Delay: 1100 * time.Millisecond})
		_, err := p.ea.Dial(t.Context(), "b:1", 2*time.Second)
		require.NoError(t, err)
	})
}

// TestSlowLine: a modem's line is slow over any path; what is chosen goes on.
func TestSlowLine(t *testing.T) {
	for _, words := range []string{"auto", "pin:fast", "prefer:fast"} {
		t.Run(words, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				policy, err := selector.ParsePolicy(words)
				require.NoError(t, err)
				r := buildRoads(Config{Policy: func(string) selector.Policy { return policy }}, fault.Config{Seed: 2})
				for _, n := range []*fault.Network{r.base, r.fast} {
					n.All().Shape(fault.Both, fault.Shape{Delay: 20 * time.Millisecond, Rate: 7000})
				}
				r.connect(t)
				start := time.Now()
				require.NoError(t, r.ea.AwaitPolicy(t.Context(), r.a), "%s", r.why())
				require.LessOrEqual(t, time.Since(start), 5*time.Second)
				require.True(t, policy.Allows(on(r.a)))
				start = time.Now()
				errs := make(chan error, 1)
				go func() { errs <- pour(r.a, 0, 100_000, time.Millisecond) }()
				require.NoError(t, expect(r.b, 0, 100_000))
				require.NoError(t, <-errs)
				require.LessOrEqual(t, time.Since(start), 25*time.Second, "%s", r.why())
			})
		})
	}
}

// TestFarPeer: however far away a peer is, a connection to it works with every policy, and where a path is pinned it is on it when Dial returns.
func TestFarPeer(t *testing.T) {
	t.Parallel()
	for _, rtt := range []time.Duration{300 * time.Millisecond, 800 * time.Millisecond, 1500 * time.Millisecond} {
		for _, words := range []string{"auto", "base", "fast", "prefer:fast", "pin:fast,base", "!fast", "!base"} {
			t.Run(fmt.Sprintf("%v/%s", rtt, words), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					policy, err := selector.ParsePolicy(words)
					require.NoError(t, err)
					r := buildRoads(Config{Policy: func(string) selector.Policy { return policy }}, fault.Config{Seed: 2})
					for _, n := range []*fault.Network{r.base, r.fast} {
						n.All().Shape(fault.Both, fault.Shape{Delay: rtt / 2})
					}
					start := time.Now()
					r.connect(t)
					s := r.a
					require.NoError(t, r.ea.AwaitPolicy(t.Context(), s), "after %v\n%s", time.Since(start), r.whyOf(s))
					t.Logf("Dial takes %v, %.1f round trips", time.Since(start), float64(time.Since(start))/float64(rtt))
					require.LessOrEqual(t, time.Since(start), 12*rtt)
					require.True(t, policy.Allows(on(s)), on(s))
					want := map[string]string{"prefer:fast": "fast", "!fast": "base"}[words]
					for want != "" && on(s) != want {
						require.Less(t, time.Since(start), 24*rtt, "%s", r.whyOf(s))
						time.Sleep(time.Millisecond)
					}
					lost := time.Now()
					r.base.CutAll()
					r.fast.CutAll()
					r.exchange(t)
					require.LessOrEqual(t, time.Since(lost), 6*rtt, "%s", r.why())
					if words == "base" || words == "!fast" {
						return // there is nothing to choose
					}
					start = time.Now()
					for ok := false; !ok; time.Sleep(time.Millisecond) {
						require.Less(t, time.Since(start), 30*rtt, "%s", r.whyOf(s))
						w, _ := r.ea.Why(s)
						ok = len(w.Report.Candidates) == 2
						for _, c := range w.Report.Candidates {
							ok = ok && c.OK == policy.Allows(c.Substrate)
						}
					}
				})
			})
		}
	}
}
