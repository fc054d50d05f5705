package sockemu_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/wire"
)

func TestDialErrors(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	refused := free.Addr().String()
	free.Close()
	silent := newPlainServer(t, "127.0.0.1:0", plainServers["silent"]).addr()
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	isTimeout := func(err error) bool {
		var ne net.Error
		return errors.As(err, &ne) && ne.Timeout()
	}
	for _, tc := range []struct {
		name, network, addr string
		ctx                 func() (context.Context, context.CancelFunc)
		is                  error
		ok                  func(error) bool
	}{
		{name: "refused", network: "tcp", addr: refused, is: syscall.ECONNREFUSED},
		{name: "refused tcp4", network: "tcp4", addr: refused, is: syscall.ECONNREFUSED},
		{name: "network", network: "udp", addr: refused, ok: func(err error) bool {
			var u net.UnknownNetworkError
			return errors.As(err, &u)
		}},
		{name: "no port", network: "tcp", addr: "127.0.0.1"},
		{name: "no port tcp4", network: "tcp4", addr: "127.0.0.1"},
		{name: "port out of range", network: "tcp", addr: "127.0.0.1:99999"},
		{name: "other family", network: "tcp6", addr: "127.0.0.1:80"},
		{name: "canceled before", network: "tcp", addr: silent, is: context.Canceled,
			ctx: func() (context.Context, context.CancelFunc) { return canceled, func() {} }},
		{name: "canceled", network: "tcp", addr: silent, is: context.Canceled,
			ctx: func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(30*time.Millisecond, cancel)
				return ctx, cancel
			}},
		{name: "deadline", network: "tcp", addr: silent, is: context.DeadlineExceeded, ok: isTimeout,
			ctx: func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(context.Background(), 30*time.Millisecond)
			}},
	} {
		for mode, fallback := range map[string]sockemu.Fallback{"plain": sockemu.FallbackPlain, "forbid": sockemu.FallbackForbid} {
			t.Run(tc.name+"/"+mode, func(t *testing.T) {
				e := newEndpoint(t, sockemu.Config{Fallback: fallback})
				ctx := testContext(t)
				if tc.ctx != nil {
					c, cancel := tc.ctx()
					defer cancel()
					ctx = c
				}
				start := time.Now()
				c, err := e.Dial(ctx, tc.network, tc.addr)
				require.Error(t, err)
				require.Nil(t, c)
				require.Less(t, time.Since(start), patience/2)
				var op *net.OpError
				require.ErrorAs(t, err, &op)
				require.Equal(t, "dial", op.Op)
				if tc.is != nil {
					require.ErrorIs(t, err, tc.is)
				}
				if tc.ok != nil {
					require.True(t, tc.ok(err), "%v", err)
				}
				nc, err := (&sockemu.Dialer{Endpoint: e, Timeout: 50 * time.Millisecond}).Dial(tc.network, tc.addr)
				require.Error(t, err)
				require.True(t, nc == nil, "a nil *Conn in a net.Conn that isn't nil")
			})
		}
	}
}

func TestListenErrors(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		network, addr string
		is            error
	}{
		{"tcp", r.l.Addr().String(), syscall.EADDRINUSE},
		{"udp", "127.0.0.1:0", net.UnknownNetworkError("udp")},
		{"tcp", "127.0.0.1", nil},
		{"tcp6", "127.0.0.1:0", nil},
	} {
		nl, err := (&sockemu.ListenConfig{Endpoint: r.server}).Listen(t.Context(), tc.network, tc.addr)
		require.Error(t, err)
		require.True(t, nl == nil)
		if tc.is != nil {
			require.ErrorIs(t, err, tc.is)
		}
	}
	require.NoError(t, r.l.Close())
	_, err := r.l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, r.l.Close(), net.ErrClosed)
	_, err = sockemu.NewEndpoint(sockemu.Config{Security: sockemu.SecurityAuth})
	require.Error(t, err, "SecurityAuth needs a key")
	require.NoError(t, r.client.Close())
	_, err = r.client.Dial(t.Context(), "tcp", r.l.Addr().String())
	require.Error(t, err, "dial with a closed endpoint")
}

func TestSecurityMismatch(t *testing.T) {
	other := func(cfg *sockemu.Config) { cfg.ClusterKey = []byte("another key of the same cluster?") }
	both := func(cfg *sockemu.Config) { withKey(cfg); encrypt(cfg) }
	none := func(*sockemu.Config) {}
	for _, tc := range []struct {
		name           string
		client, server func(*sockemu.Config)
		status         wire.Status
	}{
		{"key missing at the client", none, withKey, wire.StatusKey},
		{"key missing at the server", withKey, none, wire.StatusKey},
		{"other key", other, withKey, wire.StatusKey},
		{"encryption at the client only", encrypt, none, wire.StatusPolicy},
		{"encryption at the server only", none, encrypt, wire.StatusPolicy},
		{"encryption with a key, and none with it", both, withKey, wire.StatusPolicy},
		{"encryption, key missing at the client", encrypt, both, wire.StatusKey},
		{"same key", withKey, withKey, wire.StatusOK},
		{"same key and encryption", both, both, wire.StatusOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newEndpoint(t, quick(tc.server))
			l, err := b.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			a := newEndpoint(t, quick(tc.client))
			if tc.status == wire.StatusOK {
				c, s := pair(t, a, l.Addr().String(), l)
				roundTrip(t, c, s, "hello")
				return
			}
			_, err = a.Dial(testContext(t), "tcp", l.Addr().String())
			var r *sockemu.RefusedError
			require.ErrorAs(t, err, &r)
			require.Equal(t, tc.status, r.Status, "%v", err)
			// With plain fall-back allowed it isn't used either: the peer speaks sockemu.
			cfg := quick(tc.client)
			cfg.Fallback = sockemu.FallbackPlain
			_, err = newEndpoint(t, cfg).Dial(testContext(t), "tcp", l.Addr().String())
			require.ErrorAs(t, err, &r)
		})
	}
}

// TestDialSelf: a process may connect to itself, as a web server does that is its own client.
func TestDialSelf(t *testing.T) {
	t.Parallel()
	for name, change := range securities {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t, quick(change))
			l, err := e.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := e.Dial(ctx, "tcp", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			got := make(chan string, 1)
			go func() {
				s, err := l.AcceptConn()
				if err != nil {
					return
				}
				b := make([]byte, 5)
				io.ReadFull(s, b)
				got <- string(b)
			}()
			defer l.Close()
			_, err = c.Write([]byte("hello"))
			require.NoError(t, err)
			select {
			case b := <-got:
				require.Equal(t, "hello", b)
			case <-time.After(patience):
				t.Fatalf("nothing arrives: %v", c.Explain())
			}
		})
	}
}
