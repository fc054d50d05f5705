package fault_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate/fault"
)

func BenchmarkSendRecv(b *testing.B) {
	n := fault.New(fault.Config{})
	defer n.Close()
	ln, err := n.Host("b").Listen(b.Context(), "b:1")
	require.NoError(b, err)
	from, err := n.Host("a").Dial(b.Context(), "b:1")
	require.NoError(b, err)
	to, err := ln.Accept()
	require.NoError(b, err)
	bufs, p := [][]byte{make([]byte, 1024)}, make([]byte, 1024)
	b.SetBytes(1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := from.Send(0, bufs); err != nil {
			b.Fatal(err)
		}
		if _, err := to.Recv(p); err != nil {
			b.Fatal(err)
		}
	}
}
