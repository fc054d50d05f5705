package main

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sockemu/sockemu/bench"
	"github.com/sockemu/sockemu/sockemu"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
	verbs "github.com/sockemu/sockemu/substrate_verbs"
)

// thin returns the library, over one substrate or, with "auto", the one that it chooses, as something to measure. Its endpoint
// is made when it is first used, for its configuration depends on the run's.
func thin(substrates string) bench.Transport {
	var once sync.Once
	var e *sockemu.Endpoint
	var err error
	endpoint := func(ctx context.Context) (*sockemu.Endpoint, error) {
		once.Do(func() {
			e, err = sockemu.NewEndpoint(sockemu.Config{
				Substrates: substrates,
				Rules:      os.DevNull,             // the environment's would go before what is to be measured
				Fallback:   sockemu.FallbackForbid, // else plain TCP might be measured under the name of thin
				TCP:        tcp.Options{Congestion: bench.Congestion(ctx)},
				// An emulated processor, on which RDMA is measured without hardware, stands still now and then.
				HandshakeTimeout: 10 * time.Second,
				Verbs:            verbs.Options{Death: 10 * time.Second},
			})
		})
		return e, err
	}
	return bench.Via("thin", substrates,
		func(ctx context.Context, network, address string) (net.Conn, error) {
			e, err := endpoint(ctx)
			if err != nil {
				return nil, err
			}
			c, err := e.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			if substrates == "auto" {
				awaitChoice(c)
			}
			return c, nil
		},
		func(ctx context.Context, network, address string) (net.Listener, error) {
			e, err := endpoint(ctx)
			if err != nil {
				return nil, err
			}
			return e.Listen(ctx, network, address)
		})
}

// choiceTime is what a connection gets to choose its path before it is measured.
const choiceTime = 100 * time.Millisecond

func awaitChoice(c *sockemu.Conn) {
	for end := time.Now().Add(choiceTime); c.Stats().Moves == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}
