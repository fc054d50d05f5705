package verbs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate"
)

// emulated is Options.Death where processors are emulated and stand still now and then.
const emulated = 10 * time.Second

// TestDeviceDials makes and ends queue pairs one after the other.
func TestDeviceDials(t *testing.T) {
	s := onDevice(t)
	for range 10 {
		a, b := New(Options{Fabric: s.a, Death: emulated}), New(Options{Fabric: s.b, Death: emulated})
		l, err := b.Listen(t.Context(), s.listen)
		require.NoError(t, err)
		began := time.Now()
		k, err := a.Dial(t.Context(), l.Addr().String())
		require.NoError(t, err)
		t.Logf("a queue pair after %v: %s", time.Since(began), k.(*link).p.device)
		require.NoError(t, k.Close())
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	}
}

// TestDeviceCopies: what a session sends in large pieces leaves from where the link keeps it, and is not copied again.
func TestDeviceCopies(t *testing.T) {
	s := onDevice(t)
	a, b := newTest(t, Options{Fabric: s.a, Death: emulated}), newTest(t, Options{Fabric: s.b, Death: emulated})
	copies(t, a, b, s.listen)
}

// TestSimCopies is the same over a simulated device.
func TestSimCopies(t *testing.T) {
	s := onSim(sim.Config{})
	copies(t, newTest(t, Options{Fabric: s.a, Death: emulated}), newTest(t, Options{Fabric: s.b, Death: emulated}), s.listen)
}

func copies(t *testing.T, a, b *Substrate, at string) {
	l, err := b.Listen(t.Context(), at)
	require.NoError(t, err)
	defer l.Close()
	from, to := joinTo(t, a, l)
	await(t, from.p.trial.over) // which copies
	before := from.p.carrier.(*deviceCarrier).Stats()
	const size = 4 << 20
	want := bytes.Repeat([]byte("sixteen bytes.. "), size/16)
	go func() {
		from.Send(0, [][]byte{want})
		from.Close()
	}()
	got, err := io.ReadAll(readerFunc(to.Recv))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	after := from.p.carrier.(*deviceCarrier).Stats()
	t.Logf("%+v", after)
	require.Greater(t, after.Kept-before.Kept, uint64(size/from.p.most)*9/10)
	require.Less(t, after.Copied-before.Copied, uint64(size/from.p.most)/10)
}

// Between two hosts, the server's port on the RDMA interface.
const twoHostsPort = "7471"

// TestDeviceTwoHosts runs on two machines at once, each being told its part by the environment: many links over one queue pair, bytes of all
// sizes there and back.
func TestDeviceTwoHosts(t *testing.T) {
	role := os.Getenv("SOCKEMU_TEST_ROLE")
	if role == "" {
		t.Skip("SOCKEMU_TEST_ROLE doesn't say which of two hosts this is")
	}
	s := newTest(t, Options{Fabric: onDevice(t).a, Death: emulated})
	const links, rounds = 50, 20
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	if role == "server" {
		l, err := s.Listen(ctx, net.JoinHostPort(os.Getenv("SOCKEMU_TEST_RDMA_ADDR"), twoHostsPort))
		require.NoError(t, err)
		defer l.Close()
		for range links {
			k, err := l.Accept()
			require.NoError(t, err)
			all.Go(func() {
				defer k.Close()
				p := make([]byte, 64<<10)
				for {
					n, err := k.Recv(p)
					if err != nil {
						if !errors.Is(err, io.EOF) {
							t.Errorf("Recv: %v", err)
						}
						return
					}
					if _, err := k.Send(0, [][]byte{p[:n]}); err != nil {
						t.Errorf("Send: %v", err)
						return
					}
				}
			})
		}
		return
	}
	address := net.JoinHostPort(os.Getenv("SOCKEMU_TEST_PEER"), twoHostsPort)
	first := dialUntil(t, ctx, s, address)
	t.Logf("a queue pair: %s", first.(*link).p.device)
	open := []substrate.Link{first}
	for range links - 1 {
		k, err := s.Dial(ctx, address)
		require.NoError(t, err)
		open = append(open, k)
	}
	for i, k := range open {
		all.Go(func() {
			defer k.Close()
			for r := range rounds {
				sent := bytes.Repeat([]byte{byte(i), byte(r)}, 1+(i*r*37)%6000)
				done := make(chan [32]byte, 1)
				go func() {
					h := sha256.New()
					if _, err := io.CopyN(h, readerFunc(k.Recv), int64(len(sent))); err != nil {
						t.Errorf("Recv: %v", err)
					}
					done <- [32]byte(h.Sum(nil))
				}()
				if _, err := k.Send(0, [][]byte{sent}); err != nil {
					t.Errorf("Send: %v", err)
					return
				}
				if <-done != sha256.Sum256(sent) {
					t.Errorf("link %d, round %d: what came back differs", i, r)
				}
			}
		})
	}
	all.Wait()
	require.Len(t, s.peers, 1)
}

// dialUntil dials until the other host listens.
func dialUntil(t *testing.T, ctx context.Context, s *Substrate, address string) substrate.Link {
	for {
		k, err := s.Dial(ctx, address)
		if err == nil {
			return k
		}
		require.NoError(t, ctx.Err(), err)
		t.Log(err)
		<-time.After(200 * time.Millisecond)
	}
}
