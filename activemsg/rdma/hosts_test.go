package rdma

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/substrate"
)

// TestDevicePortDown takes the network interface of the device down in the middle of a transfer, and up again. It needs root, and an interface
// that nobody else needs: SOCKEMU_TEST_RDMA_NETDEV.
func TestDevicePortDown(t *testing.T) {
	s := onDevice(t)
	netdev := os.Getenv("SOCKEMU_TEST_RDMA_NETDEV")
	if netdev == "" {
		t.Skip("SOCKEMU_TEST_RDMA_NETDEV names no interface that may be taken down")
	}
	set := func(state string) {
		out, err := exec.Command("ip", "link", "set", netdev, state).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	a, b := s.connect(t, ConnConfig{}, ConnConfig{})
	go func() {
		for b.Send(head(1), [][]byte{pattern(9000, 1)}) == nil {
			var one [1]activemsg.Segment
			if _, err := b.Recv(one[:]); err != nil {
				return
			}
			b.Done(&one[0])
		}
	}()
	var one [1]activemsg.Segment
	var err error
	var down time.Time
	for i := 0; err == nil; i++ {
		if i == 50 {
			defer set("up")
			set("down")
			down = time.Now()
		}
		if _, err = a.Recv(one[:]); err == nil {
			a.Done(&one[0])
			err = a.Send(head(2), nil)
		}
	}
	t.Logf("told after %v: %v", time.Since(down), err)
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.Less(t, time.Since(down), 5*time.Second)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())

	set("up")
	var again *setup
	require.Eventually(t, func() bool { // until the port is active and has its address back
		again = &setup{}
		for _, p := range []**Adapter{&again.a, &again.b} {
			if *p, err = openDevice(); err != nil {
				return false
			}
			t.Cleanup(func() { (*p).Close() })
		}
		return true
	}, patience, 50*time.Millisecond, "the port doesn't come back")
	a, b = again.connect(t, ConnConfig{}, ConnConfig{})
	require.NoError(t, a.Send(head(1), [][]byte{pattern(9000, 1)}))
	got := take(t, b, 1)[0]
	require.True(t, bytes.Equal(pattern(9000, 1), got.Payload))
	b.Done(&got)
}

// TestTwoHosts runs in two machines at a time: SOCKEMU_TEST_ROLE says which one this is, SOCKEMU_TEST_PEER where the other is. The client sends
// messages, which the server sends back, and posts buffers, which the server fills. If the path goes down, as it may where
// packets get lost, another one takes over.
func TestTwoHosts(t *testing.T) {
	role := os.Getenv("SOCKEMU_TEST_ROLE")
	if role == "" {
		t.Skip("SOCKEMU_TEST_ROLE doesn't say which of two hosts this is")
	}
	a, err := openDevice()
	require.NoError(t, err)
	defer a.Close()
	t.Log(a)
	tcp := meet(t, role)
	defer tcp.Close()
	h := &host{t: t, a: a, tcp: tcp}
	for range 10 {
		if role == "server" {
			err = h.serve()
		} else {
			err = h.ask()
		}
		if err == nil {
			return
		}
		t.Log(err)
		require.ErrorIs(t, err, substrate.ErrPathDown)
	}
	t.Fatal("the path went down ten times")
}

const (
	twoHostsMessages = 200
	twoHostsBuffers  = 20
)

type host struct {
	t      *testing.T
	a      *Adapter
	tcp    net.Conn
	c      *Carrier
	ep     *activemsg.Endpoint
	back   chan []byte
	placed chan int

	messages, buffers int // done
}

// connect makes a new path.
func (h *host) connect() {
	t := h.t
	conn, err := h.a.Prepare(iwarp(patient, os.Getenv("SOCKEMU_TEST_ROLE") == "server"))
	require.NoError(t, err)
	_, err = h.tcp.Write(conn.Local())
	require.NoError(t, err)
	var peer [infoLen]byte
	_, err = io.ReadFull(h.tcp, peer[:])
	require.NoError(t, err)
	gid, err := PeerGID(peer[:])
	require.NoError(t, err)
	require.Equal(t, os.Getenv("SOCKEMU_TEST_PEER"), gid.String())
	h.c, err = conn.Connect(peer[:])
	require.NoError(t, err)
	_, err = h.tcp.Write([]byte{1}) // both have connected
	require.NoError(t, err)
	_, err = io.ReadFull(h.tcp, peer[:1])
	require.NoError(t, err)
	h.back, h.placed = make(chan []byte, 1), make(chan int, 1)
	var table activemsg.Handlers
	table.Stream(1, func(in *activemsg.In) {
		if b, err := io.ReadAll(in); err == nil {
			h.back <- b
		}
	})
	h.ep, err = activemsg.New(h.c, &table, activemsg.Config{Death: 5 * time.Second, OnPlaced: func(_ uint64, n int) { h.placed <- n }})
	require.NoError(t, err)
}

func (h *host) say(b []byte) error {
	out, err := h.ep.Begin(h.t.Context(), 1, len(b))
	if err != nil {
		return err
	}
	out.Piece(b)
	return out.End()
}

func (h *host) serve() error {
	h.connect()
	defer h.ep.Close()
	for {
		select {
		case b := <-h.back:
			if len(b) != 16 {
				if err := h.say(b); err != nil {
					return err
				}
				continue
			}
			// A buffer is posted: id and length.
			id, n := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
			require.Eventually(h.t, func() bool {
				n, err := h.ep.Place(id, 0, [][]byte{pattern(int(n), byte(id))})
				return n > 0 || err != nil
			}, patience, time.Millisecond)
		case <-h.ep.Done():
			if errors.Is(h.ep.Err(), substrate.ErrPeerGone) {
				return nil
			}
			return h.ep.Err()
		}
	}
}

func (h *host) ask() error {
	t := h.t
	h.connect()
	defer h.ep.Close()
	start, sum := time.Now(), 0
	for ; h.messages < twoHostsMessages; h.messages++ {
		i := h.messages
		b := pattern(17+i*997%100_000, byte(i))
		if err := h.say(b); err != nil {
			return err
		}
		select {
		case got := <-h.back:
			require.True(t, bytes.Equal(b, got), "message %d", i)
		case <-h.ep.Done():
			return h.ep.Err()
		}
		sum += len(b)
	}
	t.Logf("%d bytes there and back in %v, RTT %v", sum, time.Since(start), h.ep.RTT())
	for ; h.buffers < twoHostsBuffers; h.buffers++ {
		i := h.buffers
		buf, err := h.c.Alloc(1 + i*50_021)
		require.NoError(t, err)
		if err := h.ep.Post(uint64(i), 0, buf); err != nil {
			return err
		}
		var word [16]byte
		binary.LittleEndian.PutUint64(word[:], uint64(i))
		binary.LittleEndian.PutUint64(word[8:], uint64(len(buf)))
		if err := h.say(word[:]); err != nil {
			return err
		}
		select {
		case n := <-h.placed:
			require.Equal(t, len(buf), n)
			require.True(t, bytes.Equal(pattern(len(buf), byte(i)), buf), "buffer %d", i)
		case <-h.ep.Done():
			return h.ep.Err()
		}
		h.c.Free(buf)
	}
	return nil
}

// meet joins the two hosts by TCP.
func meet(t *testing.T, role string) net.Conn {
	const port = 7471
	if role == "server" {
		l, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_RDMA_ADDR"), fmt.Sprint(port)))
		require.NoError(t, err)
		defer l.Close()
		require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(60*time.Second)))
		c, err := l.Accept()
		require.NoError(t, err)
		return c
	}
	var c net.Conn
	require.Eventually(t, func() (ok bool) {
		var err error
		c, err = net.DialTimeout("tcp", net.JoinHostPort(os.Getenv("SOCKEMU_TEST_PEER"), fmt.Sprint(port)), 5*time.Second)
		return err == nil
	}, 60*time.Second, 100*time.Millisecond)
	return c
}
