package shm

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/substrate"
)

// roleVar makes the test binary another process of a test: what it does there. Its value is "role network address".
const roleVar = "SOCKEMU_SHM_ROLE"

// roles are what such a process can do with its end of a link.
var roles = map[string]func(stream) error{
	"serve": serve,
	"chat":  chat,
	"floor": floor,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := play(strings.Fields(role)); err != nil {
			fmt.Fprintln(os.Stderr, role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// A stream is a link, or a connection to compare with.
type stream interface {
	io.ReadWriteCloser
}

// linkStream makes a stream of a link.
type linkStream struct {
	substrate.Link
	bufs [1][]byte
}

func (s *linkStream) Read(p []byte) (int, error) { return s.Recv(p) }

func (s *linkStream) Write(p []byte) (int, error) {
	s.bufs[0] = p
	return s.Send(0, s.bufs[:])
}

func play(args []string) error {
	role, network, address := args[0], args[1], args[2]
	if len(args) > 3 {
		pin(args[3])
	}
	var s stream
	if network == name {
		l, err := New(Options{}).Dial(context.Background(), address)
		if err != nil {
			return err
		}
		s = &linkStream{Link: l}
	} else {
		c, err := net.Dial(network, address)
		if err != nil {
			return err
		}
		s = c
	}
	defer s.Close()
	return roles[role](s)
}

// A task is what the serving process is asked for: to receive count messages of size bytes, and to send each back, or one byte
// after the last.
type task struct {
	Count, Size uint32
	Echo        bool
}

func serve(s stream) error {
	buf := make([]byte, 1<<20)
	for {
		var t task
		if err := binary.Read(s, binary.LittleEndian, &t); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		p := buf[:t.Size]
		for range t.Count {
			if _, err := io.ReadFull(s, p); err != nil {
				return err
			}
			if t.Echo {
				if _, err := s.Write(p); err != nil {
					return err
				}
			}
		}
		if !t.Echo {
			if _, err := s.Write(p[:1]); err != nil {
				return err
			}
		}
	}
}

// chat sends what it receives back in pieces of its own, without end.
func chat(s stream) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{bufio.NewReaderSize(s, 10_000)}, make([]byte, 7777))
	return err
}

// start starts the test binary in another process and returns this one's end of a link to it. cpu, if not "", is where the other
// process runs; attr changes how it is started.
func start(t testing.TB, role, network, cpu string, attr *syscall.SysProcAttr) (stream, *exec.Cmd) {
	t.Helper()
	var accept func() (stream, error)
	var address string
	if network == name {
		l, err := New(Options{Dir: shortDir(t)}).Listen(t.Context(), "")
		require.NoError(t, err)
		defer l.Close()
		address = l.Addr().String()
		accept = func() (stream, error) {
			link, err := l.Accept()
			return &linkStream{Link: link}, err
		}
	} else {
		at := "127.0.0.1:0"
		if network == "unix" {
			at = shortDir(t) + "/s"
		}
		l, err := net.Listen(network, at)
		require.NoError(t, err)
		defer l.Close()
		address = l.Addr().String()
		accept = func() (stream, error) { return l.Accept() }
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %s", roleVar, role, network, address, cpu))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		if attr != nil {
			t.Skipf("no such process here: %v", err)
		}
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	s, err := accept()
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s, cmd
}

// pin binds all threads of this process to one processor, or to every one if cpu is "".
func pin(cpu string) {
	mask := ^uint64(0)
	if cpu != "" {
		n := 0
		fmt.Sscan(cpu, &n)
		mask = 1 << n
	}
	threads, _ := os.ReadDir("/proc/self/task")
	for _, th := range threads {
		id := 0
		fmt.Sscan(th.Name(), &id)
		syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(id), unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	}
}
