package selector_test

import (
	"fmt"
	"time"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
)

// A driver's loop, once around: offer, probe what is due, decide, move.
func Example() {
	now := time.Unix(0, 0)
	tcp, shm := selector.Path{Substrate: "tcp", Addr: "10.0.0.7:7000"}, selector.Path{Substrate: "shm"}
	table := selector.NewTable("10.0.0.7:7000", selector.Config{})
	table.SetOffers([]selector.Offer{{Path: tcp}, {Path: shm}, {Path: selector.Path{Substrate: "verbs"}, Barred: "no RDMA device here"}})
	binding, err := selector.NewBinding(now, tcp, true, selector.Policy{}, selector.Policy{})
	if err != nil {
		fmt.Println(err)
		return
	}

	probe := func(p selector.Path) substrate.Cost { // over the real data path, in life
		if p == shm {
			return substrate.Cost{RTT: 2 * time.Microsecond, PerByte: .1, Samples: 16}
		}
		return substrate.Cost{RTT: 24 * time.Microsecond, PerByte: .4, Samples: 16}
	}
	round := table.Round(now, binding.Current())
	for _, p := range round.Paths {
		table.Record(p, selector.Measurement{Round: round.ID, At: now, Cost: probe(p)})
	}
	d := binding.Decide(now, table, nil, selector.RoundDone)
	fmt.Println(d)
	if d.Action == selector.Switch {
		binding.Bound(now, d.To) // after the stream has moved
	}
	// Output:
	// tcp -> shm (10.0.0.7:7000): 5.1x faster for this connection's sizes (score 37.4 us -> 7.4 us; gain 30.1 us, noise 2.6 us); rejected: verbs: no RDMA device here
}

func ExampleParsePolicy() {
	for _, s := range []string{"shm", "prefer:shm,tcp !udp", "must:shm"} {
		p, err := selector.ParsePolicy(s)
		fmt.Println(p, p.Required(), p.Allows("udp"), err)
	}
	// Output:
	// pin:shm true false <nil>
	// prefer:shm,tcp deny:udp false false <nil>
	// auto false true configuration error: policy "must:shm": unknown word "must:": it is pin:, prefer:, deny:, !NAME, NAME or auto
}
