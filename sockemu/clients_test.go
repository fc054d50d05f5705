package sockemu_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/rpc"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xtaci/smux"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"

	"github.com/sockemu/sockemu/sockemu"
)

// These tests run programs that know nothing of sockemu over connections whose links are cut all the time. They must not notice.

// quiet is where servers log what must not happen.
func quiet(t testing.TB) *log.Logger { return log.New(testWriter{t}, "", 0) }

type testWriter struct{ testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.Errorf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// selfSigned returns a server's certificate and a pool that trusts it.
func selfSigned(t testing.TB) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(crand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestHTTPOverCutLinks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*sockemu.Config)
		proto  string
	}{
		{"http1", func(*sockemu.Config) {}, "HTTP/1.1"},
		{"http1 encrypt", encrypt, "HTTP/1.1"},
		{"http1 auth", withKey, "HTTP/1.1"},
		{"https", func(*sockemu.Config) {}, "https"},
		{"h2c", func(*sockemu.Config) {}, "HTTP/2.0"},
		{"h2c encrypt", encrypt, "HTTP/2.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, tc.change)
			var conns sync.Map
			var served sync.Map
			srv := &http.Server{
				ErrorLog: quiet(t), Protocols: new(http.Protocols),
				ConnContext: func(ctx context.Context, c net.Conn) context.Context { conns.Store(c, nil); return ctx },
				Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					_, again := served.LoadOrStore(q.Header.Get("Number"), nil)
					if again {
						t.Errorf("request %s came twice", q.Header.Get("Number"))
					}
					b, err := io.ReadAll(q.Body)
					if err != nil {
						t.Errorf("request %s: %v", q.Header.Get("Number"), err)
					}
					sum := sha256.Sum256(b)
					w.Header().Set("Sum", hex.EncodeToString(sum[:]))
					for i := range b {
						b[i] ^= 0xa5
					}
					w.Write(b)
				}),
			}
			tr := &http.Transport{DialContext: r.DialContext, Protocols: new(http.Protocols), MaxConnsPerHost: 3, MaxIdleConnsPerHost: 3}
			scheme := "http"
			srv.Protocols.SetHTTP1(true)
			tr.Protocols.SetHTTP1(true)
			switch tc.proto {
			case "https":
				scheme = "https"
				cert, pool := selfSigned(t)
				srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
				tr.TLSClientConfig = &tls.Config{RootCAs: pool}
			case "HTTP/2.0":
				srv.Protocols.SetUnencryptedHTTP2(true)
				tr.Protocols = new(http.Protocols)
				tr.Protocols.SetUnencryptedHTTP2(true)
			}
			served1 := make(chan struct{})
			go func() {
				defer close(served1)
				if scheme == "https" {
					srv.ServeTLS(r.l, "", "")
				} else {
					srv.Serve(r.l)
				}
			}()
			defer func() {
				tr.CloseIdleConnections()
				srv.Close()
				<-served1
			}()
			defer r.cutting()()
			client := &http.Client{Transport: tr, Timeout: 4 * patience}
			r.untilCut(25, 4, func(round int) {
				var g errgroup.Group
				for k := range 3 {
					n := uint64(round*3 + k)
					g.Go(func() error {
						body := random(n, 200_000+int(n%5)*100_000)
						q, err := http.NewRequest("POST", scheme+"://"+r.relay.Addr()+"/", bytes.NewReader(body))
						if err != nil {
							return err
						}
						q.GetBody = nil // so that the transport can't repeat it
						q.Header.Set("Number", strconv.FormatUint(n, 10))
						p, err := client.Do(q)
						if err != nil {
							return err
						}
						got, err := io.ReadAll(p.Body)
						p.Body.Close()
						if err != nil {
							return err
						}
						if tc.proto != "https" && p.Proto != tc.proto {
							t.Errorf("protocol %s", p.Proto)
						}
						sum := sha256.Sum256(body)
						if p.Header.Get("Sum") != hex.EncodeToString(sum[:]) {
							t.Errorf("request %d arrived changed", n)
						}
						for i := range got {
							got[i] ^= 0xa5
						}
						if !bytes.Equal(got, body) {
							t.Errorf("answer %d arrived changed", n)
						}
						return nil
					})
				}
				require.NoError(t, g.Wait())
			})
			used := 0
			conns.Range(func(any, any) bool { used++; return true })
			require.LessOrEqual(t, used, 3, "connections: they were to be kept alive")
		})
	}
}

func TestTLSOverCutLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cert, pool := selfSigned(t)
	a, b := r.pair()
	c := tls.Client(a, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}})
	defer r.cutting()()
	var g errgroup.Group
	var sum [2][]byte
	for i, x := range []*tls.Conn{c, s} {
		g.Go(func() error {
			for n := range uint64(16) {
				if _, err := x.Write(random(n, 500_000)); err != nil {
					return err
				}
			}
			return x.CloseWrite()
		})
		g.Go(func() error {
			h := sha256.New()
			_, err := io.Copy(h, &slow{r: x, every: 500_000, pause: 30 * time.Millisecond})
			sum[i] = h.Sum(nil)
			return err
		})
	}
	require.NoError(t, g.Wait())
	h := sha256.New()
	for n := range uint64(16) {
		h.Write(random(n, 500_000))
	}
	require.Equal(t, [2][]byte{h.Sum(nil), h.Sum(nil)}, sum)
	require.NotZero(t, a.Stats().Cuts)
}

// slow pauses after every so many bytes.
type slow struct {
	r     io.Reader
	every int
	pause time.Duration
	n     int
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), s.every)])
	if s.n += n; s.n >= s.every {
		s.n = 0
		<-time.After(s.pause)
	}
	return n, err
}

// sshConfigs returns configurations of a server and a client that trust each other.
func sshConfigs() (*ssh.ServerConfig, *ssh.ClientConfig) {
	_, key, err := ed25519.GenerateKey(crand.Reader)
	if err != nil {
		panic(err) // it has no reason to fail
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	sc := &ssh.ServerConfig{NoClientAuth: true}
	sc.AddHostKey(signer)
	return sc, &ssh.ClientConfig{User: "user", HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())}
}

// serveSSH runs "cat" for every session of one connection.
func serveSSH(nc net.Conn, cfg *ssh.ServerConfig) error {
	conn, chans, reqs, err := ssh.NewServerConn(nc, cfg)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(reqs)
	for nch := range chans {
		ch, reqs, err := nch.Accept()
		if err != nil {
			return err
		}
		go func() {
			for q := range reqs {
				q.Reply(q.Type == "exec", nil)
			}
		}()
		go func() {
			io.Copy(ch, ch)
			ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
			ch.Close()
		}()
	}
	conn.Wait()
	return nil
}

func TestSSHOverCutLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.pair()
	sc, cc := sshConfigs()
	done := make(chan error, 1)
	go func() { done <- serveSSH(b, sc) }()
	conn, chans, reqs, err := ssh.NewClientConn(a, "", cc)
	require.NoError(t, err)
	client := ssh.NewClient(conn, chans, reqs)
	defer r.cutting()()
	r.untilCut(15, 2, func(round int) {
		sess, err := client.NewSession()
		require.NoError(t, err)
		want := random(uint64(round), 4<<20)
		sess.Stdin = bytes.NewReader(want)
		got, err := sess.Output("cat")
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	})
	require.NoError(t, client.Close())
	require.NoError(t, <-done)
	require.NotZero(t, b.Stats().Cuts)
}

// rawCodec passes *[]byte through gRPC as they are, so that no generated code is needed.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "raw" }
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

var _ encoding.Codec = rawCodec{}

var echoService = grpc.ServiceDesc{
	ServiceName: "Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Once", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var b []byte
		err := dec(&b)
		return &b, err
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			var b []byte
			if err := s.RecvMsg(&b); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(&b); err != nil {
				return err
			}
		}
	}}},
}

func TestGRPCOverCutLinks(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sockemu.Config){"plain": func(*sockemu.Config) {}, "encrypt": encrypt} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			srv := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}))
			srv.RegisterService(&echoService, nil)
			var wg sync.WaitGroup
			wg.Go(func() { srv.Serve(r.l) })
			defer wg.Wait()
			defer srv.Stop()
			dials := 0
			cc, err := grpc.NewClient("passthrough:///"+r.relay.Addr(),
				grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
					dials++ // one at a time
					return r.DialContext(ctx, "tcp", a)
				}),
				grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
				grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
			require.NoError(t, err)
			defer cc.Close()
			ctx := testContext(t)
			defer r.cutting()()

			stream, err := cc.NewStream(ctx, &echoService.Streams[0], "/Echo/Stream")
			require.NoError(t, err)
			r.untilCut(15, 5, func(round int) {
				want := random(uint64(round), 300_000)
				var got []byte
				require.NoError(t, cc.Invoke(ctx, "/Echo/Once", &want, &got))
				require.True(t, bytes.Equal(want, got))
				var g errgroup.Group
				g.Go(func() error {
					for i := range 50 {
						b := random(uint64(round*50+i), 20_000)
						if err := stream.SendMsg(&b); err != nil {
							return err
						}
					}
					return nil
				})
				g.Go(func() error {
					for i := range 50 {
						var b []byte
						if err := stream.RecvMsg(&b); err != nil {
							return err
						}
						if !bytes.Equal(random(uint64(round*50+i), 20_000), b) {
							t.Errorf("message %d of round %d differs", i, round)
						}
					}
					return nil
				})
				require.NoError(t, g.Wait())
			})
			require.NoError(t, stream.CloseSend())
			var b []byte
			require.ErrorIs(t, stream.RecvMsg(&b), io.EOF)
			require.Equal(t, 1, dials)
		})
	}
}

func TestSmuxOverCutLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.pair()
	c, err := smux.Client(a, nil)
	require.NoError(t, err)
	defer c.Close()
	s, err := smux.Server(b, nil)
	require.NoError(t, err)
	defer s.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close()
	wg.Go(func() {
		for {
			st, err := s.AcceptStream()
			if err != nil {
				return
			}
			wg.Go(func() { io.Copy(st, st); st.Close() })
		}
	})
	defer r.cutting()()
	r.untilCut(15, 2, func(round int) {
		var g errgroup.Group
		for k := range 4 {
			g.Go(func() error {
				want := random(uint64(round*4+k), 1<<20)
				st, err := c.OpenStream()
				if err != nil {
					return err
				}
				defer st.Close()
				var w errgroup.Group
				w.Go(func() error { _, err := st.Write(want); return err })
				got := make([]byte, len(want))
				if _, err := io.ReadFull(st, got); err != nil {
					return err
				}
				if !bytes.Equal(want, got) {
					t.Errorf("stream %d of round %d differs", k, round)
				}
				return w.Wait()
			})
		}
		require.NoError(t, g.Wait())
	})
	require.NotZero(t, a.Stats().Cuts)
}

// Hasher is a net/rpc service.
type Hasher struct {
	mu    sync.Mutex
	calls int
}

// Sum returns the SHA-256 of b and counts the call.
func (h *Hasher) Sum(b []byte, sum *[]byte) error {
	h.mu.Lock()
	h.calls++
	h.mu.Unlock()
	x := sha256.Sum256(b)
	*sum = x[:]
	return nil
}

func TestNetRPCOverCutLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.pair()
	h := new(Hasher)
	srv := rpc.NewServer()
	require.NoError(t, srv.Register(h))
	var wg sync.WaitGroup
	wg.Go(func() { srv.ServeConn(b) })
	c := rpc.NewClient(a)
	defer r.cutting()()
	n := 0
	r.untilCut(15, 20, func(round int) {
		var g errgroup.Group
		for k := range 4 {
			n++
			g.Go(func() error {
				p := random(uint64(round*4+k), 100_000)
				var got []byte
				if err := c.Call("Hasher.Sum", p, &got); err != nil {
					return err
				}
				if want := sha256.Sum256(p); !bytes.Equal(want[:], got) {
					t.Errorf("call %d of round %d: wrong sum", k, round)
				}
				return nil
			})
		}
		require.NoError(t, g.Wait())
	})
	require.NoError(t, c.Close())
	wg.Wait() // only then may calls be read without the mutex: an answer on its way through shared memory is no order that the race detector knows
	require.Equal(t, n, h.calls)
}
