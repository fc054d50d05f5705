package rdma

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate"
)

const (
	postID  = 77
	postLen = 1 << 20
)

// childEnv makes the test binary the peer of TestDevicePeerKilled.
const childEnv = "SOCKEMU_TEST_RDMA_CHILD"

// child fills every buffer that the parent posts, until it is killed.
func child() error {
	a, err := openDevice()
	if err != nil {
		return err
	}
	conn, err := a.Prepare(iwarp(ConnConfig{}, true))
	if err != nil {
		return err
	}
	fmt.Println(hex.EncodeToString(conn.Local()))
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	peer, err := hex.DecodeString(string(bytes.TrimSpace(line)))
	if err != nil {
		return err
	}
	c, err := conn.Connect(peer)
	if err != nil {
		return err
	}
	ep, err := activemsg.New(c, new(activemsg.Handlers), activemsg.Config{})
	if err != nil {
		return err
	}
	fmt.Println("connected")
	payload := [][]byte{pattern(postLen, 5)}
	for {
		if _, err := ep.Place(postID, 0, payload); err != nil {
			return err
		}
	}
}

// TestDevicePeerKilled kills a peer process that writes into our memory all the time. We are told in about a second, and from then on
// nothing changes there.
func TestDevicePeerKilled(t *testing.T) {
	s := onDevice(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(stdout)
	next := func() string {
		require.True(t, lines.Scan(), "the child has ended: %v", lines.Err())
		return lines.Text()
	}

	peer, err := hex.DecodeString(next())
	require.NoError(t, err)
	conn, err := s.a.Prepare(iwarp(ConnConfig{}, false))
	require.NoError(t, err)
	_, err = io.WriteString(stdin, hex.EncodeToString(conn.Local())+"\n")
	require.NoError(t, err)
	c, err := conn.Connect(peer)
	require.NoError(t, err)
	require.Equal(t, "connected", next())
	placed := make(chan int, 10)
	ep, err := activemsg.New(c, new(activemsg.Handlers), activemsg.Config{OnPlaced: func(id uint64, n int) { placed <- n }})
	require.NoError(t, err)
	defer ep.Close()
	buf, err := c.Alloc(postLen)
	require.NoError(t, err)
	want := pattern(postLen, 5)
	for range 3 {
		clear(buf)
		require.NoError(t, ep.Post(postID, 0, buf))
		require.Equal(t, postLen, await(t, placed))
		require.True(t, bytes.Equal(want, buf))
	}
	clear(buf)
	require.NoError(t, ep.Post(postID, 0, buf))
	for deadline := time.Now().Add(patience); buf[0] == 0; { // until the write has begun
		require.True(t, time.Now().Before(deadline), "no write")
	}
	require.NoError(t, cmd.Process.Kill())
	killed := time.Now()
	await(t, ep.Done())
	t.Logf("told after %v: %v", time.Since(killed), ep.Err())
	require.ErrorIs(t, ep.Err(), substrate.ErrPathDown)
	require.Less(t, time.Since(killed), 5*time.Second) // 0.9 s on a machine that isn't busy
	after := bytes.Clone(buf)
	cmd.Wait()
	require.True(t, bytes.Equal(after, buf))
}

// TestKilledMidWrite is the same over the sim, at many moments.
func TestKilledMidWrite(t *testing.T) {
	for i := range 10 {
		s := simulated(t, sim.Config{Seed: uint64(i), Delay: 20 * time.Microsecond, LateWrites: true})
		a, b := s.connect(t, ConnConfig{Payload: 1000, Timeout: 10, Retry: 1}, ConnConfig{Timeout: 10, Retry: 1})
		buf, err := b.Alloc(100 << 10)
		require.NoError(t, err)
		key, err := b.Expose(buf)
		require.NoError(t, err)
		ended := make(chan error)
		go func() { // the peer, until it is killed: then it hangs, until it is closed
			for {
				if err := a.Place(key, [][]byte{pattern(100<<10, 1)}); err != nil {
					ended <- err
					return
				}
			}
		}()
		time.AfterFunc(time.Duration(i*60)*time.Microsecond, s.net.Host("a").Kill)
		require.Eventually(t, func() bool { return b.Send(head(1), nil) != nil }, patience, time.Millisecond) // heartbeats
		_, err = b.Recv(make([]activemsg.Segment, 1))
		require.ErrorIs(t, err, substrate.ErrPathDown)
		require.NoError(t, b.Close())
		after := bytes.Clone(buf)
		require.NoError(t, a.Close())
		require.Error(t, await(t, ended))
		require.True(t, bytes.Equal(after, buf))
		b.Free(buf)
	}
}
