package rdma_test

import (
	"fmt"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/rdma"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// Two ends join their queue pairs and send a message. With real devices the provider is libibverbs.New(), and the two Local
// go over a network.
func Example() {
	network := sim.New(sim.Config{})
	open := func(p verbs.Provider) (*rdma.Adapter, *rdma.Conn) {
		device, err := p.Open(sim.DeviceName)
		if err != nil {
			panic(err)
		}
		adapter, err := rdma.Open(device, rdma.Config{})
		if err != nil {
			panic(err)
		}
		conn, err := adapter.Prepare(rdma.ConnConfig{})
		if err != nil {
			panic(err)
		}
		return adapter, conn
	}
	here, a := open(network.Host("here"))
	there, b := open(network.Host("there"))
	defer here.Close()
	defer there.Close()

	got := make(chan string)
	var handlers activemsg.Handlers
	handlers.Quick(1, func(m *activemsg.Msg) { got <- string(m.Payload) })
	var ends [2]*activemsg.Endpoint
	for i, conn := range []struct{ mine, peer *rdma.Conn }{{a, b}, {b, a}} {
		carrier, err := conn.mine.Connect(conn.peer.Local())
		if err != nil {
			panic(err)
		}
		if ends[i], err = activemsg.New(carrier, &handlers, activemsg.Config{}); err != nil {
			panic(err)
		}
		defer ends[i].Close()
	}
	if err := ends[0].TrySend(1, [][]byte{[]byte("hello, "), []byte("queue pair")}); err != nil {
		panic(err)
	}
	fmt.Println(<-got)
	fmt.Println(here)
	// Output:
	// hello, queue pair
	// sim0 port 1 (Ethernet), gid 1 10.0.0.1 (RoCE v2, sim)
}
