package sockemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/sockemu/sockemu/internal/endpoint"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
)

// upgradeEnv tells the new process which file descriptors it has been given: "first,listeners".
const upgradeEnv = "SOCKEMU_UPGRADE"

// Bounds of what passes between the two processes.
const (
	maxTag   = 1 << 20
	maxState = 1 << 30
)

// Passed is a connection to hand to a new process, with what the application wants to tell its successor about it.
type Passed struct {
	Conn *Conn
	Tag  []byte // at most 1 MiB
}

// Inherited is a connection that was handed over.
type Inherited struct {
	Conn *Conn
	Tag  []byte
}

// Inheritance is what a new process got from the old one.
type Inheritance struct {
	Listeners []*Listener
	Conns     []Inherited
	ready     *os.File
}

// Ready puts what was inherited to use and tells the old process that this one serves now; Upgrade returns there. Until
// then peers and clients wait, and if this process dies the old one takes everything back. Call it once.
func (i *Inheritance) Ready() error {
	if i.ready == nil {
		return os.ErrClosed
	}
	for _, l := range i.Listeners {
		l.l.Start()
	}
	for _, c := range i.Conns {
		c.Conn.e.e.Release(c.Conn.s)
	}
	_, err := i.ready.Write([]byte{1})
	err = errors.Join(err, i.ready.Close())
	i.ready = nil
	return err
}

// Upgrade replaces this process by a new one without losing a connection: it starts cmd, hands it the listeners (the very
// sockets, so that no client is refused meanwhile) and the connections, and returns when the new process has called
// Inheritance.Ready. Then this process has nothing left to do for them and may exit. The new process finds them with Inherit,
// connections in the order given; both must use the same configuration. All of it works with the endpoint of the first
// listener or connection. Plain connections can't be passed.
//
// If the new process dies, its Inherit fails, or ctx ends, before it is ready, Upgrade kills it and takes listeners and connections back: each
// Passed.Conn is replaced by one that continues, in place.
func Upgrade(ctx context.Context, cmd *exec.Cmd, listeners []*Listener, conns []Passed) (err error) {
	stateR, stateW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stateW.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		stateR.Close()
		return err
	}
	defer readyR.Close()
	files := []*os.File{stateR, readyW}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, p := range conns {
		if p.Conn.Plain() {
			return ErrPlain
		}
		if len(p.Tag) > maxTag {
			return fmt.Errorf("sockemu: a tag of %d bytes, at most %d", len(p.Tag), maxTag)
		}
	}
	for _, l := range listeners {
		f, err := l.file()
		if err != nil {
			return err
		}
		files = append(files, f)
	}

	// From here on clients queue at the sockets, which stay open in files.
	for _, l := range listeners {
		l.l.Pause()
	}
	states := make([][]byte, 0, len(conns))
	started := false
	defer func() {
		if err == nil {
			return
		}
		if started {
			cmd.Process.Kill()
			cmd.Wait()
		}
		err = errors.Join(err, takeBack(listeners, files[2:], conns, states))
	}()
	for _, p := range conns {
		st, err := p.Conn.Export(ctx)
		if err != nil {
			st = nil // it has ended; the successor is told nothing about it
		}
		states = append(states, st)
	}

	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	first := 3 + len(cmd.ExtraFiles)
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d,%d", upgradeEnv, first, len(listeners)))
	cmd.ExtraFiles = append(cmd.ExtraFiles, files...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("sockemu: upgrade: %w", err)
	}
	started = true
	stateR.Close()
	readyW.Close()
	stop := context.AfterFunc(ctx, func() { stateW.Close(); readyR.Close() })
	defer stop()
	for i, p := range conns {
		if states[i] == nil {
			continue
		}
		for _, b := range [][]byte{p.Tag, states[i]} {
			if _, err := stateW.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
				return fmt.Errorf("sockemu: upgrade: handing over: %w", errors.Join(err, ctx.Err()))
			}
		}
	}
	stateW.Close()
	var one [1]byte
	if _, err := io.ReadFull(readyR, one[:]); err != nil {
		return fmt.Errorf("sockemu: upgrade: the new process did not become ready: %w", errors.Join(err, ctx.Err()))
	}
	for _, l := range listeners {
		l.Free()
	}
	return nil
}

func (l *Listener) file() (*os.File, error) {
	if r, ok := l.l.Raw().(interface{ NetListener() net.Listener }); ok {
		if t, ok := r.NetListener().(interface{ File() (*os.File, error) }); ok {
			return t.File()
		}
	}
	return nil, errors.ErrUnsupported
}

// takeBack undoes a failed upgrade.
func takeBack(listeners []*Listener, files []*os.File, conns []Passed, states [][]byte) error {
	var errs []error
	for i, st := range states {
		if st == nil {
			continue
		}
		old := conns[i].Conn
		c, err := old.e.Import(context.Background(), st)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		conns[i].Conn = c
	}
	for i, l := range listeners {
		nl, err := net.FileListener(files[i])
		if err == nil {
			err = l.l.Restart(tcp.New(l.e.cfg.TCP).WrapListener(nl))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Inherit returns what this process was given by Upgrade, with the Default endpoint; nil if it was started in another way.
func Inherit(ctx context.Context) (*Inheritance, error) {
	e, err := defaultEndpoint()
	if err != nil {
		return nil, fmt.Errorf("sockemu: inherit: %w", err)
	}
	return e.Inherit(ctx)
}

// Inherit returns what this process was given by Upgrade; nil if it was started in another way. Listeners
// accept and connections move again when Ready is called; Reads and Writes before that wait. On an error the old process is told, and
// takes everything back.
func (e *Endpoint) Inherit(ctx context.Context) (_ *Inheritance, err error) {
	v, ok := os.LookupEnv(upgradeEnv)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(upgradeEnv) // not for our own children
	a, b, _ := strings.Cut(v, ",")
	first, err1 := strconv.Atoi(a)
	count, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil || first < 3 || count < 0 || count > 1<<16 {
		return nil, fmt.Errorf("sockemu: inherit: bad %s=%q", upgradeEnv, v)
	}
	stateR := os.NewFile(uintptr(first), "sockemu-state")
	inh := &Inheritance{ready: os.NewFile(uintptr(first+1), "sockemu-ready")}
	defer stateR.Close()
	defer func() {
		if err != nil {
			inh.ready.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { stateR.Close() })
	defer stop()
	for {
		tag, err := readBlob(stateR, maxTag)
		if err == io.EOF {
			break
		}
		var state []byte
		if err == nil {
			state, err = readBlob(stateR, maxState)
		}
		var c *Conn
		if err == nil {
			c, err = e.importConn(ctx, state, true)
		}
		if err != nil {
			return nil, fmt.Errorf("sockemu: inherit: connection %d: %w", len(inh.Conns), err)
		}
		inh.Conns = append(inh.Conns, Inherited{Conn: c, Tag: tag})
	}
	// The connections are here before the first client can ask for one of them.
	for i := range count {
		f := os.NewFile(uintptr(first+2+i), "sockemu-listener")
		nl, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("sockemu: inherit: listener %d: %w", i, err)
		}
		l, err := e.e.Serve(tcp.New(e.cfg.TCP).WrapListener(nl), endpoint.Plain{Accept: e.cfg.AcceptPlain, Wait: e.cfg.PlainWait}, true)
		if err != nil {
			return nil, err
		}
		inh.Listeners = append(inh.Listeners, &Listener{e: e, l: l, network: "tcp"})
	}
	return inh, nil
}

func readBlob(r io.Reader, most uint32) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > most {
		return nil, fmt.Errorf("%d bytes announced, at most %d", n, most)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
