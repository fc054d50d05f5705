package verbs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/substrate"
)

// TestHostilePeer has a peer that is through the rendezvous break the protocol in every way there is. The path ends with an error of class
// Protocol that says how.
func TestHostilePeer(t *testing.T) {
	short := func(id uint8, args ...uint64) func(l *link) error {
		return func(l *link) error {
			var a [4]uint64
			copy(a[:], args)
			return l.p.ep.TryShort(id, a)
		}
	}
	data := func(n int, args ...uint32) func(l *link) error {
		return func(l *link) error {
			b := make([]byte, 0, 8+n)
			for _, a := range args {
				b = binary.LittleEndian.AppendUint32(b, a)
			}
			return l.p.ep.TrySend(msgData, [][]byte{b, make([]byte, n)})
		}
	}
	for name, c := range map[string]struct {
		do   func(l *link) error
		says string
	}{
		"data for no link":           {data(1, 77, 0), "a link that there isn't"},
		"data without data":          {data(0, 0, 0), "a segment of 8 bytes"},
		"half a head":                {data(2, 0), "a segment of 6 bytes"},
		"takes too much with data":   {data(1, 0, 5), "more than was sent"},
		"takes too much":             {short(msgTaken, 0, 1), "more than was sent"},
		"takes for no link":          {short(msgTaken, 1<<40), "a link that there isn't"},
		"ends no link":               {short(msgEnd, 9), "a link that there isn't"},
		"answers without a question": {short(msgOpened, 0, 0, 0), "an answer to no question"},
		"answers for no link":        {short(msgOpened, 1<<63, 0, 0), "an answer to no question"},
		"opens with a wild number":   {short(msgOpen, maxLinks), "a link with number"},
		"verifies again":             {short(msgVerify), "another process"},
		"is verified again":          {short(msgVerified), "another process"},
		"unknown message":            {short(200), "no handler 200"},
		"sends beyond the window": {func(l *link) error {
			for n := 0; n <= firstWindow; n += 8 << 10 {
				for errors.Is(data(8<<10, 0, 0)(l), activemsg.ErrNoCredit) {
					runtime.Gosched()
				}
			}
			return nil
		}, "beyond the window"},
		"ends twice": {func(l *link) error {
			return errors.Join(short(msgEnd, 0)(l), short(msgEnd, 0)(l))
		}, "a link that there isn't"},
		"talks on the TCP connection": {func(l *link) error {
			_, err := l.p.conn.Write([]byte("hello"))
			return err
		}, "on the TCP connection"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, _ := two(t, Options{})
			x, y, _ := join(t, a, b)
			require.NoError(t, c.do(x))
			await(t, y.p.quit)
			err := y.p.cause("test", nil)
			require.ErrorContains(t, err, c.says)
			require.ErrorIs(t, err, substrate.ErrProtocol)
		})
	}
}

// TestOpensWithoutEnd: a peer that opens links which nobody accepts gets no more than the backlog, and is told so.
func TestOpensWithoutEnd(t *testing.T) {
	a, b, _ := two(t, Options{})
	_, _, l := join(t, a, b)
	var err error
	n := 0
	for ; err == nil; n++ {
		var k substrate.Link
		if k, err = a.Dial(t.Context(), l.Addr().String()); err == nil {
			t.Cleanup(func() { k.Close() })
		}
	}
	require.ErrorIs(t, err, errBusy)
	require.ErrorIs(t, err, substrate.ErrPathSuspect)
	require.Equal(t, backlog+1, n)
}

// TestRendezvousHostile: who says nonsense at the rendezvous is hung up on, and others are served meanwhile.
func TestRendezvousHostile(t *testing.T) {
	s := newTest(t, Options{Fabric: NewPipes(activemsg.PipeConfig{})})
	l, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var hi, dear bytes.Buffer
	require.NoError(t, hello{}.say(&hi))
	require.NoError(t, offer{kind: KindMemory, info: []byte("short")}.say(&dear))
	old := bytes.Clone(hi.Bytes())
	old[4+len(magic)-1]++
	for name, c := range map[string]struct {
		say  [][]byte
		hear int // bytes until the end
	}{
		"nothing":         {[][]byte{}, 0},
		"another tongue":  {[][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}, 0},
		"another version": {[][]byte{old}, 0},
		"much too long":   {[][]byte{{sayHello, 0, 0xff, 0xff}}, 0},
		"offers at once":  {[][]byte{dear.Bytes()}, 0},
		"says hello only": {[][]byte{hi.Bytes()}, 4 + instanceLen + 8},
		"joins nothing":   {[][]byte{hi.Bytes(), {sayOffer, 0, 0, 0}}, 4 + instanceLen + 8},
		"offers nonsense": {[][]byte{hi.Bytes(), dear.Bytes()}, 4 + instanceLen + 8 + 4 + len("no pipe leads there")},
		"another kind":    {[][]byte{hi.Bytes(), {sayOffer, 200, secretLen, 0}, make([]byte, secretLen)}, 4 + instanceLen + 8 + 4 + len("memory here, unknown there")},
	} {
		t.Run(name, func(t *testing.T) {
			c1, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			defer c1.Close()
			for _, b := range c.say {
				_, err := c1.Write(b)
				require.NoError(t, err)
			}
			joinTo(t, s, l)
			c1.(*net.TCPConn).CloseWrite() // the other end may have hung up
			c1.SetDeadline(time.Now().Add(patience))
			got, err := io.ReadAll(c1)
			if err == nil { // a reset may have taken the answer with it
				require.Len(t, got, c.hear)
			}
		})
	}
}

// TestListenerHostile: who dials somebody who answers nonsense gets an error soon.
func TestListenerHostile(t *testing.T) {
	var ok, busy, no, wrong, short bytes.Buffer
	require.NoError(t, welcome{}.say(&ok))
	require.NoError(t, welcome{verdict: verdictBusy}.say(&busy))
	require.NoError(t, answered{why: "no \x1bdevice"}.say(&no))
	require.NoError(t, answered{kind: KindRoCEv2}.say(&wrong))
	require.NoError(t, answered{kind: KindMemory}.say(&short))
	for name, c := range map[string]struct {
		say   []*bytes.Buffer
		class substrate.Class
		says  string
	}{
		"hangs up":        {nil, substrate.PathDown, "EOF"},
		"another tongue":  {[]*bytes.Buffer{bytes.NewBufferString("SSH-2.0-x\r\n")}, substrate.Protocol, "rendezvous"},
		"busy":            {[]*bytes.Buffer{&busy}, substrate.PathSuspect, "too many"},
		"no device there": {[]*bytes.Buffer{&ok, &no}, substrate.Config, "the peer: no ?device"},
		"another kind":    {[]*bytes.Buffer{&ok, &wrong}, substrate.Config, "memory here, RoCE v2 there"},
		"bad data":        {[]*bytes.Buffer{&ok, &short}, substrate.PathDown, "joining the queue pair: no pipe leads there"},
		"silence":         {[]*bytes.Buffer{&ok}, substrate.PathDown, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTest(t, Options{Fabric: NewPipes(activemsg.PipeConfig{})})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			go func() {
				c1, err := l.Accept()
				if err != nil {
					return
				}
				defer c1.Close()
				for _, b := range c.say {
					c1.Write(b.Bytes())
				}
				c1.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c1)
			}()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err = s.Dial(ctx, l.Addr().String())
			var e *substrate.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.class, e.Class, err)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// TestDeadQueuePair: a path over which nothing gets is never used, though the rendezvous went well.
func TestDeadQueuePair(t *testing.T) {
	m := &mute{Pipes: NewPipes(activemsg.PipeConfig{})}
	m.silent.Lock()
	s := newTest(t, Options{Fabric: m, Death: 100 * time.Millisecond})
	l, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = s.Dial(t.Context(), l.Addr().String())
	require.ErrorIs(t, err, substrate.ErrPathDown)
}

// TestCrossedQueuePairs: a queue pair that leads to another process than the TCP connection is found out.
func TestCrossedQueuePairs(t *testing.T) {
	a, b, _ := two(t, Options{})
	x, y, _ := join(t, a, b)
	for _, p := range []*peer{x.p, y.p} {
		proof := p.proof()
		require.True(t, p.proves(proof))
		require.False(t, p.proves(proof[:len(proof)-1]), "one that isn't of the full size proves nothing")
		proof[3]++
		require.False(t, p.proves(proof))
	}
}

// TestNoDevice: where there is none, everything says so in words, and wraps errors.ErrUnsupported.
func TestNoDevice(t *testing.T) {
	s := newTest(t, Options{Fabric: absent{}})
	_, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, err, substrate.ErrConfig)
	_, err = s.Dial(t.Context(), "127.0.0.1:1")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, err, substrate.ErrConfig)
	require.ErrorContains(t, s.Check(), "no RDMA device")
}

type absent struct{}

func (absent) Check() error                   { return errNoDevice("is empty") }
func (a absent) Addrs() ([]netip.Addr, error) { return nil, a.Check() }
func (a absent) Open(local, remote netip.Addr, _ bool) (Half, error) {
	return nil, a.Check()
}
