package activemsg

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate_tcp"
)

func init() {
	makers["tcp"] = func(t testing.TB) (a, b Carrier) {
		return overSubstrate(t, tcp.New(tcp.Options{}), "127.0.0.1:0", FramedConfig{})
	}
}

// overSubstrate joins the ends of a link of s.
func overSubstrate(t testing.TB, s substrate.Substrate, at string, cfg FramedConfig) (a, b Carrier) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := s.Listen(ctx, at)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	dialled := make(chan substrate.Link, 1)
	go func() {
		link, err := s.Dial(ctx, l.Addr().String())
		if err != nil {
			t.Error(err)
		}
		dialled <- link
	}()
	there, err := l.Accept()
	require.NoError(t, err)
	return framedOver(t, <-dialled, there, cfg, cfg)
}
