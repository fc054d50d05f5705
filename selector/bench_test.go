package selector

import (
	"testing"
	"time"
)

// BenchmarkSizesAdd is what a Write pays.
func BenchmarkSizesAdd(b *testing.B) {
	var s Sizes
	b.ReportAllocs()
	for b.Loop() {
		s.Add(4096)
	}
}

// BenchmarkDecide is a decision to stay, with four paths measured, as after every round of every connection.
func BenchmarkDecide(b *testing.B) {
	now := time.Unix(1e9, 0)
	table := NewTable("peer", Config{})
	table.SetOffers(offer(tcp, udp, shm, verbs))
	r := table.Round(now)
	for _, p := range r.Paths {
		table.Record(p, Measurement{Round: r.ID, At: now, Cost: tcpCost})
	}
	binding, err := NewBinding(now, tcp, true, Policy{}, Policy{})
	if err != nil {
		b.Fatal(err)
	}
	var sizes Sizes
	b.ReportAllocs()
	for b.Loop() {
		sizes.Add(64)
		if d := binding.Decide(now, table, &sizes, RoundDone); d.Action != Stay {
			b.Fatal(d)
		}
	}
}
