package main

import (
	"github.com/sockemu/sockemu/bench"
	"github.com/sockemu/sockemu/bench/peers"
	"github.com/sockemu/sockemu/bench/queuepair"
	"github.com/sockemu/sockemu/bench/rsocket"
	"github.com/sockemu/sockemu/bench/ucx"
	verbs "github.com/sockemu/sockemu/substrate_verbs"
)

// transports are what `sockemu bench` can measure. A way to connect is added here, and only here.
func transports() bench.Registry {
	shm := ucx.Over("shm,self")
	return bench.Registry{
		bench.Raw(),
		thin("tcp"),
		thin("shm"),
		bareSHM(),
		thin("udp"),
		bench.If(verbs.Devices().Check, thin("verbs")),
		thin("auto"),
		peers.QUIC(),
		bench.If(ucx.Available, bench.Via("peer:ucx", "shm", shm.Dial, shm.Listen)),
		bench.If(verbs.Devices().Check, bench.Via("peer:queuepair", "verbs", queuepair.Dial, queuepair.Listen)),
		bench.If(rsocket.Available, bench.Via("peer:rsocket", "verbs", rsocket.Dial, rsocket.Listen)),
	}
}
