package fault

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// TestChaos sets faults at random while bytes move both ways: whatever happens, what is received is a prefix of what was
// sent, all of it if the link ended in an orderly way, and everybody comes to an end.
func TestChaos(t *testing.T) {
	ends := map[string]int{}
	for seed := range uint64(100) {
		linked(t, Config{Seed: seed, Buffer: 1000, Retains: seed%2 == 0}, func(t *testing.T, n *Network, a, b substrate.Link) {
			rng := rand.New(rand.NewPCG(seed, 0))
			type result struct {
				sent, received []byte
				end            error
			}
			run := func(from, to substrate.Link, src *rand.Rand) (r result) {
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range 100 {
						p := make([]byte, 1+src.IntN(300))
						for i := range p {
							p[i] = byte(src.Uint32())
						}
						k, err := from.Send(uint64(len(r.sent)), [][]byte{p})
						r.sent = append(r.sent, p[:k]...)
						if err != nil {
							return
						}
					}
					from.Close()
				}()
				r.received, r.end = io.ReadAll(reader{to})
				<-done
				return r
			}
			n.All().Shape(Both, Shape{Delay: 5 * time.Millisecond}) // or all is over before the mischief begins
			results := make(chan result, 2)
			go func() { results <- run(a, b, rand.New(rand.NewPCG(seed, 1))) }()
			go func() { results <- run(b, a, rand.New(rand.NewPCG(seed, 2))) }()
			for range 30 {
				pass(time.Duration(rng.IntN(10)) * time.Millisecond)
				mischief(n, a, rng)
			}
			pass(time.Second)
			n.All().Stall(Both, false)
			n.On(a).Stall(Both, false)
			pass(time.Minute)
			n.CutAll() // a link that fell into a black hole has no other end
			synctest.Wait()
			for range 2 {
				r := <-results
				require.LessOrEqual(t, len(r.received), len(r.sent))
				require.Equal(t, string(r.sent[:len(r.received)]), string(r.received))
				switch {
				case r.end == nil:
					require.Len(t, r.received, len(r.sent))
					ends["orderly"]++
				case errors.Is(r.end, ErrReset):
					ends["reset"]++
				case errors.Is(r.end, net.ErrClosed): // the receiver had sent all of its own and closed
					ends["closed"]++
				default:
					t.Fatalf("seed %d: %v", seed, r.end)
				}
			}
		})
	}
	require.Len(t, ends, 3, "the mischief is not so great that nothing else happens")
}

// mischief does one thing at random.
func mischief(n *Network, l substrate.Link, rng *rand.Rand) {
	scope := []Scope{n.All(), n.Between("b", "a"), n.On(l)}[rng.IntN(3)]
	dir := Dir(1 + rng.IntN(3))
	switch k := rng.IntN(100); {
	case k < 50:
		scope.Shape(dir, Shape{
			Delay:     time.Duration(rng.IntN(5)) * time.Millisecond,
			Jitter:    time.Duration(rng.IntN(5)) * time.Millisecond,
			Rate:      rng.IntN(2) * (1 + rng.IntN(1_000_000)),
			SendPiece: rng.IntN(100),
			RecvPiece: rng.IntN(100),
		})
	case k < 90:
		scope.Stall(dir, rng.IntN(2) == 0)
	case k < 94:
		scope.Blackhole(dir, rng.IntN(2) == 0)
	case k < 97:
		scope.ResetAfter(uint64(rng.IntN(20_000)), dir)
	default:
		scope.Cut()
	}
}
