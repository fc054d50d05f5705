package sockemu_test

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/substrate"
)

func substrates(text string) func(*sockemu.Config) {
	return func(c *sockemu.Config) { c.Substrates = text }
}

// anySubstrate admits all of them. Which is the fastest depends on what else runs on the machine, so that tests prefer shared memory, unless
// SOCKEMU_TEST_CHOICES asks for choices by measurement.
var anySubstrate = map[bool]string{false: "prefer:shm", true: "auto"}[os.Getenv("SOCKEMU_TEST_CHOICES") != ""]

// couple returns both ends of a connection between two endpoints with such policies.
func couple(t *testing.T, dialer, acceptor string) (ea, eb *sockemu.Endpoint, a, b *sockemu.Conn) {
	t.Helper()
	ea, eb = newEndpoint(t, quick(substrates(dialer))), newEndpoint(t, quick(substrates(acceptor)))
	l, err := eb.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	a, err = ea.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	b, err = l.AcceptConn()
	require.NoError(t, err)
	return ea, eb, a, b
}

// stream sends random bytes both ways until stop; the returned function waits for the end and checks that all arrived.
func stream(t *testing.T, a, b *sockemu.Conn) (stop func()) {
	quit := make(chan struct{})
	type side struct{ sent, got [32]byte }
	results := make(chan side, 2)
	errs := make(chan error, 4)
	run := func(c *sockemu.Conn, seed uint64) {
		var s side
		done := make(chan struct{})
		go func() {
			defer close(done)
			h := sha256.New()
			_, err := io.Copy(h, c)
			h.Sum(s.got[:0])
			errs <- err
		}()
		h := sha256.New()
		r := rand.NewChaCha8([32]byte{byte(seed)})
		buf := make([]byte, 30_000)
		var err error
		for err == nil {
			select {
			case <-quit:
				err = c.CloseWrite()
				h.Sum(s.sent[:0])
				<-done
				errs <- err
				results <- s
				return
			default:
			}
			p := buf[:1+rand.IntN(len(buf))]
			r.Read(p)
			h.Write(p)
			_, err = c.Write(p)
			// Both ends, and what measures the paths, share the processors of this one process: without a pause every path would look
			// as slow as the scheduler.
			<-time.After(time.Duration(rand.IntN(1000)) * time.Microsecond)
		}
		errs <- err
		results <- s
	}
	go run(a, 1)
	go run(b, 2)
	return func() {
		t.Helper()
		close(quit)
		for range 4 {
			require.NoError(t, <-errs)
		}
		x, y := <-results, <-results
		require.Equal(t, x.sent, y.got, "every byte, once, in order")
		require.Equal(t, y.sent, x.got)
	}
}

func awaitSubstrate(t *testing.T, name string, conns ...*sockemu.Conn) {
	t.Helper()
	for _, c := range conns {
		for start := time.Now(); c.Stats().Substrate != name; <-time.After(time.Millisecond) {
			require.Less(t, time.Since(start), 90*time.Second, "to %s: %v", name, c.Explain())
		}
	}
}

// TestChoice: a connection moves to shared memory by itself, leaves it when it is not admitted any more, at whichever end that is
// said, and comes back; a busy one, byte-exact.
func TestChoice(t *testing.T) {
	for name, change := range map[string]func(ea, eb *sockemu.Endpoint) *sockemu.Endpoint{
		"dialer's policy":   func(ea, _ *sockemu.Endpoint) *sockemu.Endpoint { return ea },
		"acceptor's policy": func(_, eb *sockemu.Endpoint) *sockemu.Endpoint { return eb },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ea, eb, a, b := couple(t, anySubstrate, anySubstrate)
			end := stream(t, a, b)
			awaitSubstrate(t, "shm", a, b)
			who := change(ea, eb)
			require.NoError(t, who.SetSubstrates("!shm"))
			awaitSubstrate(t, "tcp", a, b)
			require.NoError(t, who.SetSubstrates(anySubstrate))
			awaitSubstrate(t, "shm", a, b)
			end()
			require.NotEmpty(t, a.Explain().Choice)
			require.Empty(t, b.Explain().Choice, "the end that was dialled does not decide")
			require.ErrorIs(t, who.SetSubstrates("pin:nonsense"), substrate.ErrConfig)
		})
	}
}

func TestPinnedSubstrates(t *testing.T) {
	for _, c := range []struct{ dialer, acceptor, want string }{
		{"pin:shm", "auto", "shm"}, {"auto", "pin:shm", "shm"}, {"pin:shm", "pin:shm,tcp", "shm"}, {"tcp", "auto", "tcp"},
		{"udp", "udp", "udp"}, {"pin:tcp,udp", "udp", "udp"}, {"prefer:udp,tcp", "prefer:udp", "udp"},
	} {
		t.Run(c.dialer+" to "+c.acceptor, func(t *testing.T) {
			t.Parallel()
			_, _, a, b := couple(t, c.dialer, c.acceptor)
			if c.dialer[:3] == "pin" || c.acceptor[:3] == "pin" || c.dialer == c.want {
				require.Equal(t, c.want, a.Stats().Substrate, "pinned: before Dial returns")
			}
			end := stream(t, a, b)
			awaitSubstrate(t, c.want, a, b)
			end()
		})
	}
	for _, c := range []struct{ dialer, acceptor, want string }{
		{"pin:shm", "tcp", "this end pins shm, the peer pins tcp"}, {"pin:udp", "auto", "the peer does not offer it"}, {"pin:shm", "!shm", "shm"},
		{"tcp", "pin:shm", "this end pins tcp, the peer pins shm"}, {"tcp", "!tcp", "the peer denies tcp"},
	} {
		t.Run(c.dialer+" against "+c.acceptor, func(t *testing.T) {
			t.Parallel()
			ea, eb := newEndpoint(t, quick(substrates(c.dialer))), newEndpoint(t, quick(substrates(c.acceptor)))
			l, err := eb.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err = ea.Dial(ctx, "tcp", l.Addr().String())
			require.ErrorIs(t, err, substrate.ErrConfig, "never another one in silence")
			require.ErrorContains(t, err, c.want)
			require.NoError(t, ctx.Err(), "at once")
		})
	}
}

// TestPinForbidsPlain: a peer that doesn't speak sockemu can't be reached over shared memory.
func TestPinForbidsPlain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("220 hello\r\n"))
			c.Close()
		}
	}()
	e := newEndpoint(t, sockemu.Config{Substrates: "pin:shm"})
	_, err = e.Dial(t.Context(), "tcp", l.Addr().String())
	require.ErrorIs(t, err, sockemu.ErrNotSockemu)
}

func TestPoliciesFromOutside(t *testing.T) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules")
	require.NoError(t, os.WriteFile(rules, []byte("127.0.0.0/8 pin:shm # this host\n* tcp\n"), 0o600))
	ea, eb := newEndpoint(t, quick(func(c *sockemu.Config) { c.Rules = rules })), newEndpoint(t, quick(substrates("auto")))
	l, err := eb.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, err := ea.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	require.Equal(t, "shm", c.Stats().Substrate)

	misspelt := filepath.Join(dir, "misspelt")
	require.NoError(t, os.WriteFile(misspelt, []byte("# here a denial of what doesn't exist\n* !smh\n"), 0o600))
	_, err = sockemu.NewEndpoint(quick(func(c *sockemu.Config) { c.Rules = misspelt }))
	require.ErrorContains(t, err, `misspelt: line 2: configuration error: no substrate is called "smh"`)

	for name, change := range map[string]func(*sockemu.Config){
		"unknown name":  substrates("pin:carrier-pigeon"),
		"unknown word":  substrates("must:shm"),
		"unknown rule":  func(c *sockemu.Config) { c.Rules = misspelt },
		"no such file":  func(c *sockemu.Config) { c.Rules = filepath.Join(dir, "nothing") },
		"contradiction": substrates("pin:shm !shm"),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := quick(change)
			_, err := sockemu.NewEndpoint(cfg)
			require.ErrorIs(t, err, substrate.ErrConfig)
		})
	}
}
