package bench

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

// asWorker makes the test binary a worker in the role that it names.
const asWorker = "SOCKEMU_TEST_AS_WORKER"

func TestMain(m *testing.M) {
	if role := os.Getenv(asWorker); role != "" {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if err := Work(context.Background(), role, os.Stdin, os.Stdout, testRegistry, log); err != nil {
			log.Error("worker", "err", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// workerCommand starts the test binary again as a worker.
func workerCommand(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asWorker+"="+role, "GORACE=atexit_sleep_ms=0") // the race detector ends with a nap of a second
	cmd.Stderr = os.Stderr
	return cmd
}

// testRegistry has raw, and modes that fail in one way each.
var testRegistry = Registry{
	Raw(),
	Via("same", "tcp", dialRaw, listenRaw), // a mode that is raw by another name
	Via("undialable", "tcp", func(context.Context, string, string) (*net.TCPConn, error) {
		return nil, errors.New("nobody there")
	}, listenRaw),
	Via("unlistenable", "udp", dialRaw, func(context.Context, string, string) (*net.TCPListener, error) {
		return nil, errors.New("no ears")
	}),
	Via("corrupt", "udp", func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialRaw(ctx, network, address)
		return corrupted{c}, err
	}, listenRaw),
	If(func() error { return errors.New("no such device") }, Via("elsewhere", "smoke", dialRaw, listenRaw)),
	Via("unpinned", "udp", new(net.Dialer).DialContext, new(net.ListenConfig).Listen),
}

// corrupted changes what it reads.
type corrupted struct{ net.Conn }

func (c corrupted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		b[n-1]++
	}
	return n, err
}
