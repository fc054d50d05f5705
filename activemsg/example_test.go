package activemsg_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate_tcp"
)

// Two programs, here in one process, exchange messages of any length.
func Example() {
	const (
		add = iota + 1
		sum
	)
	result := make(chan uint64, 1)
	var server, client activemsg.Handlers
	server.Quick(add, func(m *activemsg.Msg) {
		a := m.Args()
		m.Endpoint.TryShort(sum, [4]uint64{a[0] + a[1]})
	})
	client.Quick(sum, func(m *activemsg.Msg) { result <- m.Args()[0] })

	x, y := activemsg.Pipe(activemsg.PipeConfig{})
	a, err := activemsg.New(x, &client, activemsg.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	b, err := activemsg.New(y, &server, activemsg.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()

	if err := a.Short(context.Background(), add, [4]uint64{40, 2}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-result)
	// Output: 42
}

// A handler starts when the beginning of its message has come, and decides by what it reads where the rest goes.
func ExampleHandlers_Stream() {
	const store = 1
	rows := map[uint64][]byte{}
	stored := make(chan bool)
	var h activemsg.Handlers
	h.Stream(store, func(in *activemsg.In) {
		var head [8]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		row := make([]byte, in.MaxLen()-len(head)) // the place depends on what was read
		if _, err := io.ReadFull(in, row); err != nil {
			return
		}
		rows[binary.BigEndian.Uint64(head[:])] = row
		stored <- true
	})
	a, b := endpoints(&h)
	defer a.Close()
	defer b.Close()

	body := []byte("gathered from pieces, not copied together before")
	out, err := a.Begin(context.Background(), store, 8+len(body))
	if err != nil {
		log.Fatal(err)
	}
	out.Piece(binary.BigEndian.AppendUint64(nil, 7))
	out.Piece(body)
	if err := out.End(); err != nil {
		log.Fatal(err)
	}
	<-stored
	fmt.Printf("%s\n", rows[7])
	// Output: gathered from pieces, not copied together before
}

// With Manual the program says when messages are handled, and how much of them; meanwhile the peer's senders run out of credits.
func ExampleEndpoint_Extract() {
	var h activemsg.Handlers
	h.Quick(1, func(m *activemsg.Msg) { fmt.Println("handled", m.Args()[0]) })
	x, y := activemsg.Pipe(activemsg.PipeConfig{})
	a, _ := activemsg.New(x, &h, activemsg.Config{})
	defer a.Close()
	b, _ := activemsg.New(y, &h, activemsg.Config{Manual: true})
	defer b.Close()
	for i := range uint64(3) {
		a.Short(context.Background(), 1, [4]uint64{i})
	}
	for handled := 0; handled < 3*32; { // a Short has 32 bytes
		<-b.Arrived()
		for more := true; more; {
			var n int
			n, more = b.Extract(32)
			handled += n
		}
	}
	// Output:
	// handled 0
	// handled 1
	// handled 2
}

// A receiver that knows what comes next offers the buffer for it. What the sender places lands there without a copy in between.
func ExampleEndpoint_Post() {
	const wanted = 1
	placed := make(chan int)
	asked := make(chan [4]uint64, 1)
	var h activemsg.Handlers
	h.Quick(wanted, func(m *activemsg.Msg) { asked <- m.Args() })
	x, y := activemsg.Pipe(activemsg.PipeConfig{})
	sender, _ := activemsg.New(x, &h, activemsg.Config{})
	defer sender.Close()
	receiver, _ := activemsg.New(y, &h, activemsg.Config{OnPlaced: func(id uint64, n int) { placed <- n }})
	defer receiver.Close()

	// The receiver: stream 5, from byte 1000 on.
	buf := make([]byte, 16)
	if err := receiver.Post(5, 1000, buf); err != nil {
		log.Fatal(err)
	}
	receiver.Short(context.Background(), wanted, [4]uint64{5, 1000})

	// The sender.
	a := <-asked
	n, err := sender.Place(a[0], a[1], [][]byte{[]byte("straight "), []byte("there")})
	fmt.Println(n, err)

	fmt.Printf("%s\n", buf[:<-placed])
	// Output:
	// 14 <nil>
	// straight there
}

// Any link of a substrate carries active messages: here TCP, as well shared memory.
func ExampleFramed() {
	ctx := context.Background()
	s := tcp.New(tcp.Options{})
	l, err := s.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	var h activemsg.Handlers
	got := make(chan string)
	h.Stream(1, func(in *activemsg.In) {
		b, err := io.ReadAll(in)
		got <- fmt.Sprintf("%s, %v", b, err)
	})
	over := func(link substrate.Link) *activemsg.Endpoint {
		c, err := activemsg.Framed(ctx, link, activemsg.FramedConfig{})
		if err != nil {
			log.Fatal(err)
		}
		ep, err := activemsg.New(c, &h, activemsg.Config{})
		if err != nil {
			log.Fatal(err)
		}
		return ep
	}
	accepted := make(chan *activemsg.Endpoint)
	go func() {
		link, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		accepted <- over(link)
	}()
	link, err := s.Dial(ctx, l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	a := over(link)
	defer a.Close()
	b := <-accepted
	defer b.Close()

	out, _ := b.Begin(ctx, 1, 100)
	out.Piece([]byte("over a socket"))
	out.End()
	fmt.Println(<-got)
	// Output: over a socket, <nil>
}

func endpoints(h *activemsg.Handlers) (a, b *activemsg.Endpoint) {
	x, y := activemsg.Pipe(activemsg.PipeConfig{})
	a, err := activemsg.New(x, h, activemsg.Config{})
	if err != nil {
		log.Fatal(err)
	}
	b, err = activemsg.New(y, h, activemsg.Config{})
	if err != nil {
		log.Fatal(err)
	}
	return a, b
}
