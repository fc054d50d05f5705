package main

import (
	"github.com/sockemu/sockemu/bench"
	"github.com/sockemu/sockemu/bench/rsocket"
)

// transports are what `sockemu bench` can measure. A way to connect is added here, and only here.
func transports() bench.Registry {
	return bench.Registry{
		bench.Raw(),
		thin("tcp"),
		thin("shm"),
		thin("udp"),
		thin("auto"),
		bench.If(rsocket.Available, bench.Via("peer:rsocket", "verbs", rsocket.Dial, rsocket.Listen)),
	}
}
