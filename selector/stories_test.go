package selector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

func TestFirstUpgradeTakesOneRound(t *testing.T) {
	l := newLab(t, append(offer(tcp, shm),
		Offer{Path: udp, Barred: "peer does not offer it"},
		Offer{Path: verbs, Barred: "no RDMA device here"})...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.sizes = new(Sizes)
	for range 100_000 {
		l.sizes.Add(64)
	}
	d := l.step()
	require.Equal(t, Switch, d.Action)
	require.Equal(t, CauseInitial, d.Cause)
	require.Equal(t, shm, d.To)
	require.Regexp(t, `^tcp -> shm \(10\.0\.0\.7:7000\): \d+\.\dx faster for this connection's sizes `+
		`\(score \d+\.\d us -> \d\.\d us; gain \d+\.\d us, noise \d\.\d us\); `+
		`rejected: udp: peer does not offer it; verbs: no RDMA device here$`, d.String())
}

func TestFirstUpgradeNeedsASolidRound(t *testing.T) {
	few := shmCost
	few.Samples = 2
	noisy := shmCost
	noisy.Jitter = 10 * time.Microsecond
	for name, c := range map[string]substrate.Cost{
		"few samples":   few,
		"noisy":         noisy,
		"not so fast":   cost(18*time.Microsecond, .3),
		"not size-wise": cost(time.Microsecond, .35),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, offer(tcp, shm)...)
			l.fixed(tcp, tcpCost)
			l.fixed(shm, c)
			require.Equal(t, Stay, l.step().Action)
		})
	}
}

func TestLaterOnlyThreeRoundsWillDo(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.gone(shm, "not there yet")
	l.run(20*time.Second, false) // longer than the first upgrade's privilege lasts
	l.fixed(shm, shmCost)
	l.table.Invalidate(l.now, "address added")
	for n := 1; n < needLeads; n++ {
		d := l.step()
		require.Equal(t, CauseConfirming, d.Cause, d.String())
		require.Equal(t, n, d.Leads)
		again := l.b.Decide(l.now, l.table, nil, RoundDone)
		require.Equal(t, n, again.Leads, "the same round doesn't count twice")
	}
	d := l.step()
	require.Equal(t, CauseFaster, d.Cause, d.String())
}

func TestLeadMustBeConsecutive(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.gone(shm, "not there yet")
	l.run(2*initialWindow, false)
	n := 0
	l.paths[shm] = func() Measurement {
		if n++; n%3 == 0 {
			return Measurement{Cost: cost(40*time.Microsecond, .6)}
		}
		return Measurement{Cost: shmCost}
	}
	l.run(10*time.Minute, false)
	require.Empty(t, l.log)
}

// tailscale #19407: the path that was best once kept winning when nothing answered there any more.
func TestStalePathDoesNotKeepWinning(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.settle(shm)

	// The memory of it can't win.
	l.now = l.now.Add(DefaultTTL + time.Second)
	c := l.table.Candidates(l.now, StartWeights, Policy{})
	require.Equal(t, Suspect, c[0].Tier)
	require.Contains(t, c[0].Reason, "last measured 31s ago")

	// As soon as something else is measured, and it isn't, it is left.
	r := l.table.Round(l.now, shm)
	l.table.Record(tcp, Measurement{Round: r.ID, At: l.now, Cost: tcpCost})
	d := l.decide(RoundDone)
	require.Equal(t, CauseStale, d.Cause, d.String())
	require.Equal(t, tcp, l.b.Current())
}

func TestNothingMeasuredIsNoReasonToLeave(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.settle(shm)
	l.now = l.now.Add(time.Hour) // the machine slept
	require.Equal(t, CauseOnlyPath, l.decide(RoundDone).Cause)
	l.table.Invalidate(l.now, "link up")
	require.Equal(t, CauseOnlyPath, l.decide(RoundDone).Cause)
	require.Equal(t, CauseBest, l.step().Cause)
}

// Measured once, then failing: it is left at the first failed probe, and rejected after the third.
func TestFailingPathIsDropped(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.settle(shm)
	l.gone(shm, "echo came back changed")
	d := l.step()
	require.Equal(t, CauseSuspect, d.Cause)
	require.Contains(t, d.String(), "shm -> tcp (10.0.0.7:7000): the old path fails: probe failed: echo came back changed; next best, score")
	for range dropAfter {
		l.step()
	}
	c := l.table.Candidates(l.now, StartWeights, Policy{})[1]
	require.Equal(t, shm, c.Path)
	require.Equal(t, Rejected, c.Tier)
	require.Regexp(t, `^\d+ probes in a row failed, the last: echo came back changed$`, c.Reason)
	l.run(time.Hour, false)
	require.Empty(t, l.log[1:])
}

// ompi #6377, UCX #9908: docker0 has an address on both hosts, nothing gets through, and the job hangs.
func TestDeadAddressIsNeverChosen(t *testing.T) {
	docker := Path{"tcp", "172.17.0.1:7000"}
	l := newLab(t, Offer{Path: docker, Prior: cost(time.Microsecond, .01)}, Offer{Path: tcp, Prior: tcpCost})
	l.fixed(tcp, tcpCost)
	l.gone(docker, "answered by another process")
	require.Equal(t, []Path{docker, tcp}, l.table.Round(l.now).Paths, "the prior only orders the probes")
	l.now = l.now.Add(time.Minute)
	l.run(time.Hour, false)
	require.Empty(t, l.log)
	d := l.decide(LinkDied)
	require.Equal(t, tcp, d.To)
	l.table.Died(l.now, tcp, "reset")
	d = l.decide(LinkDied)
	require.Equal(t, tcp, d.To, "the last resort is a path that has worked")
	require.Equal(t, Stay, d.Action)
}

// Whichever path carries the load is slow, so the other always looks better: two paths change places once a minute at most.
func TestOscillation(t *testing.T) {
	for name, paths := range map[string][]Path{"two": {tcp, udp}, "four": {tcp, udp, shm, verbs}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, offer(paths...)...)
			for _, p := range paths {
				l.paths[p] = func() Measurement {
					if l.b.Current() == p {
						return Measurement{Cost: cost(200*time.Microsecond, 2)}
					}
					return Measurement{Cost: tcpCost}
				}
			}
			l.run(time.Hour, false)
			require.Greater(t, len(l.log), 30, "or the test shows nothing")
			require.LessOrEqual(t, mostPerMinute(l.log), len(paths)-1)
		})
	}
}

// The hold-down alone, against an opponent whom no noise gives away and who always knows a new path.
func TestHoldDownBoundsSwitches(t *testing.T) {
	l := newLab(t)
	for tick := range 60_000 {
		var d Decision
		now := l.now.Add(time.Duration(tick) * 10 * time.Millisecond)
		p := Path{"x", now.String()}
		if l.b.ripe(now, &d, p) {
			d.At = now
			l.log = append(l.log, d)
			l.b.Bound(now, p)
		} else {
			require.Equal(t, CauseHoldDown, d.Cause)
			require.LessOrEqual(t, d.Again, maxHold)
		}
	}
	require.Equal(t, time.Second, l.log[1].At.Sub(l.log[0].At), "the dwell")
	require.LessOrEqual(t, mostPerMinute(l.log), 6, "1+2+4+8+16+32 s")
}

func mostPerMinute(log []Decision) int {
	most := 0
	for i := range log {
		n := 0
		for _, d := range log[i:] {
			if d.At.Sub(log[i].At) < time.Minute {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func TestPathDeathAndReturn(t *testing.T) {
	l := newLab(t, offer(tcp, udp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(udp, udpCost)
	l.fixed(shm, shmCost)
	l.settle(shm)

	l.table.Died(l.now, shm, "peer process vanished")
	d := l.decide(LinkDied)
	require.Equal(t, CausePathDied, d.Cause)
	require.Equal(t, tcp, l.b.Current(), "the best of those that are measured, at once")
	require.Contains(t, d.String(), "the path broke: died: peer process vanished; next best")

	l.run(time.Minute, false)
	require.Len(t, l.log, 2)
	require.Equal(t, CausePathBack, l.log[1].Cause)
	require.Equal(t, shm, l.b.Current())
	require.Contains(t, l.log[1].String(), "it works again and is")
}

func TestProbeFromBeforeTheDeathDoesNotCount(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	r := l.table.Round(l.now)
	l.table.Died(l.now, shm, "reset")
	l.table.Record(shm, Measurement{Round: r.ID, At: l.now.Add(time.Second), Cost: shmCost})
	l.table.Record(tcp, Measurement{Round: r.ID, At: l.now.Add(time.Second), Cost: tcpCost})
	cs := l.table.Candidates(l.now.Add(2*time.Second), StartWeights, Policy{})
	require.True(t, cs[0].OK)
	require.Equal(t, "died: reset", cs[1].Reason)
}

func TestHoldDownGrowsAndIsForgiven(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	held := func() time.Duration {
		l.table.Died(l.now, shm, "reset")
		died := l.now
		for i := range l.table.entries {
			if e := l.table.entries[i]; e.Path == shm {
				l.now = e.held
				require.False(t, e.due(e.held.Add(-1)), "no probe while held down")
			}
		}
		l.probe()
		return l.now.Sub(died)
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		require.Equal(t, want*time.Second, held())
	}
	require.True(t, l.table.Candidates(l.now, StartWeights, Policy{})[0].OK)
	l.now = l.now.Add(forgive)
	require.Equal(t, time.Second, held())
}

func TestLinkDeathAloneKeepsAGoodPath(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.settle(shm)
	d := l.decide(LinkDied)
	require.Equal(t, Stay, d.Action)
	require.Equal(t, shm, d.To)
}

func TestLastResort(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, shmCost)
	l.settle(shm)
	l.now = l.now.Add(2 * DefaultTTL)
	l.table.Died(l.now, shm, "reset")
	d := l.decide(LinkDied)
	require.Equal(t, tcp, d.To, "stale, but better than nothing")
	require.Equal(t, Switch, d.Action)
}

func TestOnlyBase(t *testing.T) {
	l := newLab(t, append(offer(tcp), Offer{Path: shm, Barred: "other host"})...)
	l.fixed(tcp, tcpCost)
	l.run(time.Hour, false)
	require.Empty(t, l.log)
	d := l.decide(RoundDone)
	require.Equal(t, "stays on tcp (10.0.0.7:7000): it is the best; rejected: shm: other host", d.String())
	require.Len(t, l.b.History(), 1, "an hour of the same decision is one entry")
	require.Greater(t, l.b.History()[0].Repeats, 10)
	l.table.Died(l.now, tcp, "timeout")
	d = l.decide(LinkDied)
	require.Equal(t, Stay, d.Action, "the same path again")
	require.Equal(t, tcp, d.To)
}

func TestAllRejected(t *testing.T) {
	l := newLab(t, Offer{Path: shm, Barred: "other host"}, Offer{Path: verbs, Barred: "no RDMA device here"})
	l.table.Died(l.now, tcp, "reset")
	d := l.decide(LinkDied)
	require.Equal(t, Fail, d.Action)
	require.Equal(t, CauseNoPath, d.Cause)
	require.Equal(t, "no path (10.0.0.7:7000): no candidate works: policy: auto; rejected: shm: other host; verbs: no RDMA device here", d.String())
	_, ok := l.table.NextProbe(l.now)
	require.False(t, ok)
	require.Zero(t, l.table.Round(l.now))
}

// Being unknown is never an advantage.
func TestUnknownCosts(t *testing.T) {
	l := newLab(t, offer(tcp, udp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(shm, substrate.Cost{Samples: 16})                                   // nothing known
	l.fixed(udp, substrate.Cost{RTT: 23 * time.Microsecond, Samples: 16})       // no bandwidth known
	l.fixed(verbs, substrate.Cost{RTT: -5, PerByte: -1, Loss: -1, Samples: -3}) // nonsense
	l.run(time.Hour, false)
	require.Empty(t, l.log)
	c := l.table.Candidates(l.now, StartWeights, Policy{})
	require.Equal(t, shm, c[2].Path)
	require.Equal(t, "its round-trip time is unknown", c[2].Reason)
}

// NCCL #234: one end picks what the other doesn't have, and both wait.
func TestOnlyOneEndDecides(t *testing.T) {
	deciding := newLab(t, offer(tcp, shm)...)
	deciding.fixed(tcp, tcpCost)
	deciding.fixed(shm, shmCost)
	other := newLab(t, append(offer(tcp), Offer{Path: shm, Barred: "not the same host"})...)
	other.fixed(tcp, tcpCost)
	other.b, _ = NewBinding(other.now, tcp, false, Policy{}, Policy{})

	d := other.step()
	require.Equal(t, CausePeerDecides, d.Cause)
	other.table.Died(other.now, tcp, "reset")
	require.Equal(t, Stay, other.decide(LinkDied).Action)

	deciding.now = deciding.now.Add(time.Millisecond)
	require.True(t, deciding.probe())
	wish := deciding.b.Decide(deciding.now, deciding.table, nil, RoundDone)
	require.Equal(t, Switch, wish.Action)
	require.Equal(t, CauseInProgress, deciding.b.Decide(deciding.now, deciding.table, nil, RoundDone).Cause)

	deciding.b.Refused(deciding.now, wish.To, "not the same host")
	d = deciding.b.Decide(deciding.now, deciding.table, nil, RoundDone)
	require.Equal(t, Stay, d.Action)
	require.Contains(t, d.String(), "refused: not the same host")
}

func TestRefusalBacksOffAndOthersGoOn(t *testing.T) {
	l := newLab(t, offer(tcp, udp, shm)...)
	l.fixed(tcp, tcpCost)
	l.fixed(udp, cost(5*time.Microsecond, .15))
	l.fixed(shm, shmCost)
	require.True(t, l.probe())
	d := l.b.Decide(l.now, l.table, nil, RoundDone)
	require.Equal(t, shm, d.To)
	l.b.Refused(l.now, shm, "ring full")
	d = l.b.Decide(l.now, l.table, nil, RoundDone)
	require.Equal(t, udp, d.To)
	require.Contains(t, d.String(), "shm: refused: ring full")
	for _, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
		l.b.Refused(l.now, shm, "ring full")
		require.Equal(t, want*time.Second, l.b.refused[0].until.Sub(l.now))
	}
}

// An address that is offered no longer, or ruled out, is left; the connection on it goes on until something better is there.
func TestWithdrawnPathIsLeft(t *testing.T) {
	for name, offers := range map[string][]Offer{
		"gone":   offer(tcp),
		"barred": append(offer(tcp), Offer{Path: shm, Barred: "interface is down"}),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, offer(tcp, shm)...)
			l.fixed(tcp, tcpCost)
			l.fixed(shm, shmCost)
			l.settle(shm)
			l.table.SetOffers(offers)
			d := l.decide(RoundDone)
			require.Equal(t, Switch, d.Action)
			require.Equal(t, CauseStale, d.Cause)
			require.Equal(t, tcp, d.To)
			require.Regexp(t, "interface is down|no candidate any more", d.String())
		})
	}
}

// A connection on a path that can't be measured moves, once that has lasted, to one that can.
func TestUnmeasurablePathIsLeftInTheEnd(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.fixed(tcp, substrate.Cost{Samples: 16})
	l.fixed(shm, shmCost)
	began := l.now
	l.run(time.Minute, true)
	require.Equal(t, shm, l.b.Current())
	require.Equal(t, CauseStale, l.log[0].Cause)
	require.Greater(t, l.log[0].At.Sub(began), DefaultTTL)
}

// A switch that failed must not count as one, and what is bound by itself must not count as chosen.
func TestBoundWithoutADecision(t *testing.T) {
	l := newLab(t, offer(tcp, shm)...)
	l.b.Bound(l.now, tcp)
	require.Empty(t, l.b.moves)
	l.b.Bound(l.now, shm)
	require.Equal(t, []move{{l.now, tcp, false, false}}, l.b.moves)
	for i := range 10 * historyLen {
		p := Path{"x", time.Duration(i).String()}
		l.b.Bound(l.now, p)
		l.b.Refused(l.now, p, "no")
	}
	require.Len(t, l.b.moves, historyLen)
	require.Len(t, l.b.refused, maxOffers)
}
