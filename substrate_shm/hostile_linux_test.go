package shm

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// TestStrangers: whatever comes instead of a hello, the listener goes on.
func TestStrangers(t *testing.T) {
	dir := shortDir(t)
	s := New(Options{Dir: dir})
	l, err := s.Listen(t.Context(), "")
	require.NoError(t, err)
	defer l.Close()
	_, path, err := s.locate(l.Addr().String())
	require.NoError(t, err)
	before := descriptors(t)

	good, err := sys.SharedMemory("sockemu-shm", headerSize+2*MinRingSize)
	require.NoError(t, err)
	defer good.Close()
	unsealed, err := os.Create(filepath.Join(dir, "file"))
	require.NoError(t, err)
	defer unsealed.Close()
	require.NoError(t, unsealed.Truncate(headerSize+2*MinRingSize))
	event, err := sys.NewEvent()
	require.NoError(t, err)
	defer sys.CloseFD(event)
	hello := appendHello(nil, MinRingSize)
	with := func(at int, b byte) []byte {
		h := bytes.Clone(hello)
		h[at] = b
		return h
	}
	file, mem := int(unsealed.Fd()), int(good.Fd())
	for i, c := range []struct {
		hello  []byte
		fds    []int
		answer byte // 0: none
	}{
		{hello, []int{mem, event, event}, welcome}, // the good one
		{nil, nil, 0},
		{hello, nil, 0},
		{hello[:5], []int{mem, event, event}, 0},
		{hello, []int{mem}, 0},
		{hello, []int{mem, event, event, event}, 0},
		{hello, []int{mem, mem, event}, badMemory},
		{hello, []int{mem, event, file}, badMemory},
		{hello, []int{file, event, event}, badMemory},
		{hello, []int{event, event, event}, badMemory},
		{with(0, 'S'), []int{mem, event, event}, badVersion},
		{with(8, 1), []int{mem, event, event}, badVersion},
		{with(13, 0x20), []int{mem, event, event}, badMemory}, // another size than the file's
		{with(12, 1), []int{mem, event, event}, badMemory},    // no power of two
		{with(15, 0xFF), []int{mem, event, event}, badMemory}, // too big
	} {
		c1, err := net.Dial("unix", path)
		require.NoError(t, err)
		sock := c1.(*net.UnixConn)
		if c.hello != nil {
			require.NoError(t, sys.SendFDs(sock, c.hello, c.fds...))
		} else {
			require.NoError(t, sock.CloseWrite())
		}
		var answer [1]byte
		n, _ := sock.Read(answer[:])
		require.Equalf(t, c.answer, answer[0], "case %d", i)
		if n > 0 && answer[0] == welcome {
			link, err := l.Accept()
			require.NoError(t, err)
			require.Equal(t, 1, mappings(t))
			require.NoError(t, link.Close())
		}
		require.NoError(t, sock.Close())
	}
	a, err := s.Dial(t.Context(), l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, a.Close())
	b, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.Eventually(t, func() bool { return descriptors(t) <= before+4 }, 10*time.Second, time.Millisecond) // ours, opened above
	require.Zero(t, mappings(t))
}

// TestCloseWithPendingHandshakes: Close doesn't wait for strangers who say nothing.
func TestCloseWithPendingHandshakes(t *testing.T) {
	s := New(Options{Dir: shortDir(t)})
	l, err := s.Listen(t.Context(), "")
	require.NoError(t, err)
	_, path, err := s.locate(l.Addr().String())
	require.NoError(t, err)
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer c.Close()
	require.Eventually(t, func() bool {
		sl := l.(*listener)
		sl.mu.Lock()
		defer sl.mu.Unlock()
		return len(sl.handshakes) == 1
	}, 10*time.Second, time.Millisecond)
	start := time.Now()
	require.NoError(t, l.Close())
	require.Less(t, time.Since(start), handshakeTime)
}

// TestHostilePeer: the other end scribbles over everything that is shared while bytes move. Nothing panics or hangs; the honest end
// gets bytes, right or wrong, or an error of class Protocol or that of an end.
func TestHostilePeer(t *testing.T) {
	const rounds = 60
	protocol := 0
	for round := range uint64(rounds) {
		honest, enemy := pair(t, Options{RingSize: MinRingSize << (round % 3)})
		honest.SetRecvDeadline(time.Now().Add(time.Second))
		honest.SetSendDeadline(time.Now().Add(time.Second))
		rng := rand.New(rand.NewPCG(round, 1))
		stop := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() {
			h := enemy.mem.header
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				v := rng.Uint64() >> (rng.Uint64() % 64)
				lane := &h.lanes[rng.IntN(2)]
				switch what := rng.IntN(20); {
				case i < 1000 && what < 4 || what > 6: // at first it looks like a peer
					in := enemy.in.shared
					in.head.Store(in.tail.Load())
					out := enemy.out.shared
					out.tail.Store(out.head.Load() + v%MinRingSize)
					sys.Signal(enemy.peerEvent)
				case what == 0:
					lane.tail.Store(v)
				case what == 1:
					lane.head.Store(v)
				case what == 2:
					lane.hungry.Store(uint32(v))
				case what == 3:
					lane.full.Store(uint32(v))
				case what == 4:
					h.sides[rng.IntN(2)].cpu.Store(uint32(v))
				case what == 5 && round%4 == 3:
					h.sides[1].gone.Store(uint32(v))
				case what == 5:
					lane.tail.turn.Store(v)
				case what == 6:
					rng := rng.IntN(len(enemy.mem.rings[1]))
					enemy.mem.rings[1][rng]++
				}
				runtime.Gosched()
			}
		})
		ended := func(err error) bool {
			if err == nil {
				return false
			}
			var e *substrate.Error
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				if !errors.As(err, &e) || e.Class != substrate.Protocol && e.Class != substrate.PathDown {
					t.Errorf("round %d: %v", round, err)
				}
			}
			return true
		}
		var sendErr, recvErr error
		var moving sync.WaitGroup
		moving.Go(func() {
			p := make([]byte, 3*MinRingSize)
			sent := uint64(0)
			for !ended(sendErr) {
				var n int
				n, sendErr = honest.Send(0, [][]byte{p[:1+int(sent)%len(p)]})
				sent += uint64(n)
				if taken := honest.Taken(); taken > sent {
					t.Errorf("taken %d of %d", taken, sent)
				}
			}
		})
		moving.Go(func() {
			p := make([]byte, 10_000)
			for !ended(recvErr) {
				var n int
				if n, recvErr = honest.Recv(p); n > len(p) {
					t.Errorf("%d bytes in a buffer of %d", n, len(p))
				}
			}
		})
		moving.Wait()
		close(stop)
		work.Wait()
		if errors.Is(sendErr, substrate.ErrProtocol) || errors.Is(recvErr, substrate.ErrProtocol) {
			protocol++
			_, err := honest.Drain(make([]byte, 1))
			require.ErrorIs(t, err, substrate.ErrProtocol)
		}
		honest.Interrupt()
		for _, b := range honest.Kept(honest.Taken()) {
			require.LessOrEqual(t, len(b), len(honest.out.buf))
		}
		require.NoError(t, honest.Close())
		require.NoError(t, enemy.Close())
	}
	require.Greater(t, protocol, rounds/2)
}

// FuzzHello: no hello makes rings of a size that isn't allowed.
func FuzzHello(f *testing.F) {
	f.Add(appendHello(nil, MinRingSize))
	f.Add(appendHello(nil, MaxRingSize))
	f.Add([]byte(helloMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		ring, answer := parseHello(b)
		if answer == welcome {
			require.True(t, validRing(uint64(ring)))
			require.Equal(t, b, appendHello(nil, ring))
		} else {
			require.Zero(t, ring)
		}
	})
}

// TestRefusals: a hello that is refused gets a word that says what to look for there.
func TestRefusals(t *testing.T) {
	for answer, words := range map[byte]string{badMemory: "could not map the memory", badVersion: "version", badUser: "user", 77: "answers 77"} {
		path := filepath.Join(shortDir(t), "socket")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.AcceptUnix()
			if err == nil {
				c.Read(make([]byte, helloSize))
				c.Write([]byte{answer})
				c.Close()
			}
		}()
		host, err := hostID()
		require.NoError(t, err)
		_, err = New(Options{}).Dial(t.Context(), host+":"+path)
		require.ErrorContains(t, err, words)
		<-done
		l.Close()
	}
}
