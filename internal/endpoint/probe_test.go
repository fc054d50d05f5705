package endpoint

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// TestUnansweredProbe: why a path that is silent was given up is told in words about the path.
func TestUnansweredProbe(t *testing.T) {
	for n, want := range map[int]string{
		probePing: "no answer in time to 64 bytes: the peer is stopped or overloaded, or the path loses packets",
		longTrain: "no answer in time to 2097152 bytes, but to 64: the peer has stopped or is overloaded, or the path loses large packets",
	} {
		synctest.Test(t, func(t *testing.T) {
			net := fault.New(fault.Config{})
			defer net.Close()
			_, err := net.Host("b").Listen(t.Context(), "b:1")
			require.NoError(t, err)
			link, err := net.Host("a").Dial(t.Context(), "b:1")
			require.NoError(t, err)
			defer link.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			defer guard(ctx, link)()
			_, err = ask(link, nil, wire.ProbeTrain, n, 0)
			require.EqualError(t, err, want)
			require.Equal(t, substrate.ClassOf(substrate.ErrInterrupted), substrate.ClassOf(err))
		})
	}
}
