package sockemu_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sockemu/sockemu/sockemu"
)

// otherProcess stands for the process of the server: the examples are one process, in which the client is the Default endpoint.
func otherProcess() *sockemu.Endpoint {
	e, err := sockemu.NewEndpoint(sockemu.Config{})
	if err != nil {
		log.Fatal(err)
	}
	return e
}

// A client and a server: as with package net.
func Example() {
	ctx := context.Background()
	server := otherProcess()
	defer server.Close()
	l, err := server.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()

	c, err := sockemu.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(c, "hello")
	c.CloseWrite()
	answer, err := io.ReadAll(c)
	fmt.Println(string(answer), err)
	fmt.Println(c.Close()) // nil: the other end has everything
	// Output:
	// hello <nil>
	// <nil>
}

// Web servers and clients run on it unchanged.
func ExampleDialer_http() {
	server := otherProcess()
	defer server.Close()
	l, err := server.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "you asked for %s", r.URL.Path)
	})}
	go srv.Serve(l)
	defer srv.Close()

	client := &http.Client{Transport: &http.Transport{DialContext: new(sockemu.Dialer).DialContext}}
	defer client.CloseIdleConnections()
	r, err := client.Get("http://" + l.Addr().String() + "/index.html")
	if err != nil {
		log.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	fmt.Println(string(body), err)
	// Output: you asked for /index.html <nil>
}

// So does gRPC: its calls and streams don't notice that links come and go.
func ExampleDialer_grpc() {
	ctx := context.Background()
	server := otherProcess()
	defer server.Close()
	l, err := server.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(l)
	defer srv.Stop()

	cc, err := grpc.NewClient("passthrough:///"+l.Addr().String(),
		grpc.WithContextDialer(new(sockemu.Dialer).DialAddr),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	r, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{})
	fmt.Println(r.GetStatus(), err)
	// Output: SERVING <nil>
}

// And ssh: a session survives what would end it otherwise.
func ExampleDialer_ssh() {
	serverConfig, clientConfig := sshConfigs() // a host key, and its check
	server := otherProcess()
	defer server.Close()
	l, err := server.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		serveSSH(c, serverConfig) // runs "cat"
	}()

	nc, err := new(sockemu.Dialer).Dial("tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	conn, chans, reqs, err := ssh.NewClientConn(nc, l.Addr().String(), clientConfig)
	if err != nil {
		log.Fatal(err)
	}
	client := ssh.NewClient(conn, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		log.Fatal(err)
	}
	session.Stdin = strings.NewReader("hello")
	out, err := session.Output("cat")
	fmt.Println(string(out), err)
	// Output: hello <nil>
}

// A connection moves: from one endpoint to another, here within one process. The other end doesn't notice.
func ExampleConn_Export() {
	ctx := context.Background()
	server := otherProcess()
	defer server.Close()
	l, err := server.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()

	here, err := sockemu.NewEndpoint(sockemu.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer here.Close()
	c, err := here.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(c, "written here, ")
	state, err := c.Export(ctx) // bytes: keep them secret, carry them anywhere
	if err != nil {
		log.Fatal(err)
	}

	there, err := sockemu.NewEndpoint(sockemu.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer there.Close()
	c, err = there.Import(ctx, state)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "and there")
	c.CloseWrite()
	answer, err := io.ReadAll(c)
	fmt.Println(string(answer), err)
	// Output: written here, and there <nil>
}

// Explain says how a connection is carried and why.
func ExampleConn_Explain() {
	ctx := context.Background()
	server := otherProcess()
	defer server.Close()
	l, err := server.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c, err := sockemu.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	x := c.Explain()
	fmt.Println(x.Stats.State, x.Stats.Links, x.Path == c.LocalAddr().String()+" - "+l.Addr().String())
	// fmt.Print(x) shows all of it, for people.

	// Output: up 1 true
}

// A peer that doesn't speak sockemu is served over plain TCP, unless that is forbidden.
func ExampleEndpoint_Dial_fallback() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{}
	go srv.Serve(l)
	defer srv.Close()

	e, err := sockemu.NewEndpoint(sockemu.Config{FallbackTimeout: 200 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	defer e.Close()
	c, err := e.Dial(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Plain())
	// Output: true
}

// A server replaces itself by a new version without losing a connection. The program begins with Inherit; when it is told to, it
// starts its successor with Upgrade.
func ExampleUpgrade() {
	ctx := context.Background()
	var listener *sockemu.Listener
	conns := make(map[*sockemu.Conn]string) // and the user of each

	inherited, err := sockemu.Inherit(ctx)
	switch {
	case err != nil:
		log.Fatal(err)
	case inherited == nil: // the first of its line
		if listener, err = sockemu.Listen(ctx, "tcp", ":7000"); err != nil {
			log.Fatal(err)
		}
	default:
		listener = inherited.Listeners[0]
		for _, in := range inherited.Conns {
			conns[in.Conn] = string(in.Tag)
		}
		if err := inherited.Ready(); err != nil {
			log.Fatal(err)
		}
	}

	// ... serve, until a new version is to take over. Then stop reading, between two messages, and:

	var pass []sockemu.Passed
	for c, user := range conns {
		pass = append(pass, sockemu.Passed{Conn: c, Tag: []byte(user)})
	}
	if err := sockemu.Upgrade(ctx, exec.Command(os.Args[0]), []*sockemu.Listener{listener}, pass); err != nil {
		log.Print(err) // the new version did not come up: go on, with pass[i].Conn
		return
	}
	os.Exit(0)
}
