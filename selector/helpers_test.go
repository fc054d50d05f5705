package selector

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/substrate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	tcp   = Path{"tcp", "10.0.0.7:7000"}
	udp   = Path{"udp", "10.0.0.7:7001"}
	shm   = Path{"shm", "@sockemu"}
	verbs = Path{"verbs", "mlx5_0"}
)

// cost is a plausible cost with 5 % jitter.
func cost(rtt time.Duration, perByte float64) substrate.Cost {
	return substrate.Cost{RTT: rtt, Jitter: rtt / 20, PerByte: perByte, Samples: 16, Source: substrate.SourceProbe}
}

var (
	tcpCost = cost(24*time.Microsecond, .4)
	udpCost = cost(28*time.Microsecond, .5)
	shmCost = cost(1500*time.Nanosecond, .1)
)

// A lab is a peer and one connection to it, with a clock of its own and paths that cost what the test says.
type lab struct {
	t     *testing.T
	now   time.Time
	table *Table
	b     *Binding
	sizes *Sizes
	rng   *rand.Rand
	// paths tells the outcome of a probe of each path; a missing one fails.
	paths map[Path]func() Measurement
	round Round // the one that is under way, of tests that record it themselves
	// log are all decisions to switch; rounds counts rounds.
	log    []Decision
	rounds int
}

func newLab(t *testing.T, offers ...Offer) *lab {
	rng := rand.New(rand.NewPCG(1, 2))
	l := &lab{
		t: t, now: time.Unix(1e9, 0), rng: rng,
		table: NewTable("10.0.0.7:7000", Config{Rand: rng.Float64}),
		paths: map[Path]func() Measurement{},
	}
	l.table.SetOffers(offers)
	var err error
	l.b, err = NewBinding(l.now, tcp, true, Policy{}, Policy{})
	require.NoError(t, err)
	return l
}

func offer(paths ...Path) (offers []Offer) {
	for _, p := range paths {
		offers = append(offers, Offer{Path: p})
	}
	return offers
}

// fixed makes a path cost the same always; gone makes it fail.
func (l *lab) fixed(p Path, c substrate.Cost) {
	l.paths[p] = func() Measurement { return Measurement{Cost: c} }
}

func (l *lab) gone(p Path, reason string) {
	l.paths[p] = func() Measurement { return Measurement{Class: substrate.PathDown, Reason: reason} }
}

// probe runs the round that is due now, if one is.
func (l *lab) probe() bool {
	r := l.table.Round(l.now, l.b.Current())
	for _, p := range r.Paths {
		m := Measurement{Class: substrate.PathDown, Reason: "no answer"}
		if f := l.paths[p]; f != nil {
			m = f()
		}
		m.At, m.Round = l.now, r.ID
		l.table.Record(p, m)
	}
	l.rounds++
	return r.ID != 0
}

// decide asks the binding and does what it says.
func (l *lab) decide(e Event) Decision {
	d := l.b.Decide(l.now, l.table, l.sizes, e)
	if d.Action == Switch {
		l.log = append(l.log, d)
		l.b.Bound(l.now, d.To)
	}
	if d.Again > 0 {
		for _, c := range d.Candidates {
			l.table.Hasten(l.now.Add(d.Again), c.Path)
		}
	}
	return d
}

// step goes to the next round, and decides.
func (l *lab) step() Decision {
	next, ok := l.table.NextProbe(l.now)
	require.True(l.t, ok)
	l.now = next
	require.True(l.t, l.probe())
	return l.decide(RoundDone)
}

// run steps until the time is up, or the first switch if once.
func (l *lab) run(d time.Duration, once bool) {
	end := l.now.Add(d)
	for len(l.log) == 0 || !once {
		if next, _ := l.table.NextProbe(l.now); next.After(end) {
			break
		}
		l.step()
		l.now = l.now.Add(time.Millisecond)
	}
	if !once {
		l.now = end
	}
}

// settle gets the connection onto p.
func (l *lab) settle(p Path) {
	l.run(time.Minute, true)
	require.Equal(l.t, p, l.b.Current())
	l.log = nil
}
