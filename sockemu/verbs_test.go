package sockemu_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/sockemu"
	verbs "github.com/sockemu/sockemu/substrate_verbs"
)

// TestVerbsBreaks: in the middle of a transfer both ways the queue pair breaks; the connection goes on over TCP, comes back when there is a
// queue pair again, and no byte is lost or comes twice.
func TestVerbsBreaks(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "encrypt": encrypt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pipes := verbs.NewPipes(activemsg.PipeConfig{})
			cfg := quick(change, substrates("prefer:verbs !shm"), func(c *sockemu.Config) { c.Verbs.Fabric = pipes })
			l, err := newEndpoint(t, cfg).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			dialer := newEndpoint(t, cfg)
			a, b := pair(t, dialer, l.Addr().String(), l)
			end := stream(t, a, b)
			// Once: for each more, the selector holds the connection twice as long on TCP.
			awaitSubstrate(t, "verbs", a, b)
			pipes.Cut()
			began := time.Now()
			awaitSubstrate(t, "tcp", a, b)
			t.Logf("on TCP %v after the break", time.Since(began))
			pipes.Mend()
			// Has the paths measured again at once, as news of a network interface does.
			require.NoError(t, dialer.SetSubstrates(cfg.Substrates))
			awaitSubstrate(t, "verbs", a, b)
			end()
		})
	}
}

// TestVerbsUnavailable: where there is no device nobody offers it, nobody tries, and a program that insists is told why.
func TestVerbsUnavailable(t *testing.T) {
	if verbs.Devices().Check() == nil {
		t.Skip("there is an RDMA device")
	}
	e := newEndpoint(t, quick(substrates("pin:verbs")))
	l, err := newEndpoint(t, quick(substrates(anySubstrate))).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, err = e.Dial(t.Context(), "tcp", l.Addr().String())
	require.ErrorContains(t, err, "no RDMA device")
}
