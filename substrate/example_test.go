package substrate_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
)

// A link carries bytes until it breaks, and says what that means. This one is of package fault; any substrate's behaves alike.
func Example() {
	ctx := context.Background()
	network := fault.New(fault.Config{})
	defer network.Close()
	l, err := network.Host("b").Listen(ctx, "b:1")
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := network.Host("a").Dial(ctx, "b:1")
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := l.Accept()
	if err != nil {
		fmt.Println(err)
		return
	}
	n, err := a.Send(0, [][]byte{[]byte("gather"), []byte("ed")})
	fmt.Println(n, err)
	p := make([]byte, 100)
	n, err = b.Recv(p)
	fmt.Printf("%s %v\n", p[:n], err)

	network.CutAll()
	_, err = b.Recv(p)
	fmt.Println(err)
	fmt.Println(errors.Is(err, substrate.ErrPathDown), substrate.ClassOf(err) == substrate.PathDown)

	_, err = network.Host("a").Dial(ctx, "b:2")
	fmt.Println(err)
	// Output:
	// 8 <nil>
	// gathered <nil>
	// recv over fault with a:32768: path down: connection reset
	// true true
	// dial over fault with b:2: refused: connection refused
}
