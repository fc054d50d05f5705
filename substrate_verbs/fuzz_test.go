package verbs

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
)

// FuzzRendezvous reads what a stranger may say on the TCP connection. What is understood is said again in the same words.
func FuzzRendezvous(f *testing.F) {
	var b bytes.Buffer
	seed := func(err error) {
		require.NoError(f, err)
		f.Add(bytes.Clone(b.Bytes()))
		b.Reset()
	}
	seed(hello{newInstance()}.say(&b))
	seed(welcome{verdict: verdictBusy, token: 7}.say(&b))
	seed(offer{join: true}.say(&b))
	seed(offer{kind: KindRoCEv2, secret: newSecret(), info: []byte("info")}.say(&b))
	seed(answered{why: "no"}.say(&b))
	seed(answered{kind: KindRoCEv2, info: []byte("info")}.say(&b))
	f.Fuzz(func(t *testing.T, in []byte) {
		for kind := uint8(sayHello); kind <= sayAnswer; kind++ {
			code, body, err := hear(bytes.NewReader(in), kind)
			if err != nil {
				continue
			}
			require.LessOrEqual(t, len(body), bodyMost)
			var out bytes.Buffer
			switch kind {
			case sayHello:
				if m, err := parseHello(code, body); err == nil {
					require.NoError(t, m.say(&out))
				}
			case sayWelcome:
				if m, err := parseWelcome(code, body); err == nil {
					require.NoError(t, m.say(&out))
				}
			case sayOffer:
				if m, err := parseOffer(code, body); err == nil {
					require.NoError(t, m.say(&out))
				}
			case sayAnswer:
				if m, err := parseAnswer(code, body); err == nil && m.kind != 0 {
					require.NoError(t, m.say(&out))
				}
			}
			if out.Len() > 0 {
				require.Equal(t, in[:out.Len()], out.Bytes())
			}
		}
	})
}

// FuzzMessages gives the handlers whatever a peer may send: the worst is the end of the path, and what is held stays within the bounds.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{msgOpen, 32, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{msgData, 12, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, msgTaken, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{msgEnd, 8, 0, 0, 0, 0, 0, 0, 0, 0, msgEnd, 8})
	f.Add([]byte{msgOpened, 32, 0, 0, 0, 0, 0, 0, 0, 0})
	// One pair for many runs, until it breaks: making one takes longer than a run.
	var x, y *link
	closePair := func() {
		if x != nil {
			x.p.s.Close()
			y.p.s.Close()
		}
	}
	f.Cleanup(closePair)
	f.Fuzz(func(t *testing.T, in []byte) {
		if x == nil || x.p.ended() || y.p.ended() {
			closePair()
			x, y = fuzzPair(t)
		}
		for len(in) > 2 {
			id, n := in[0], min(int(in[1]), len(in)-2)
			payload := in[2 : 2+n]
			in = in[2+n:]
			on := map[uint8]func(*activemsg.Msg) error{
				msgOpen: y.p.onOpen, msgOpened: y.p.onOpened, msgData: func(m *activemsg.Msg) error { return y.p.data(m.Payload) }, msgTaken: y.p.onTaken, msgEnd: y.p.onEnd,
			}[id]
			if on == nil {
				continue
			}
			if err := on(&activemsg.Msg{Endpoint: y.p.ep, Payload: payload}); err != nil {
				y.p.protocol(err)
				return
			}
		}
		y.p.mu.Lock()
		require.LessOrEqual(t, y.p.live, maxLinks)
		y.p.mu.Unlock()
		y.snd.Lock()
		require.LessOrEqual(t, y.taken.Load(), y.sent.Load())
		y.snd.Unlock()
		y.rcv.Lock()
		require.LessOrEqual(t, uint64(y.in.Len()), y.grant)
		y.rcv.Unlock()
	})
}

// fuzzPair is join whose links live beyond the test.
func fuzzPair(t *testing.T) (x, y *link) {
	fabric := NewPipes(activemsg.PipeConfig{})
	o := Options{Fabric: fabric, Death: patience}
	a, b := New(o), New(o)
	l, err := b.Listen(context.Background(), "127.0.0.1:0")
	require.NoError(t, err)
	k, err := a.Dial(context.Background(), l.Addr().String())
	require.NoError(t, err)
	m, err := l.Accept()
	require.NoError(t, err)
	return k.(*link), m.(*link)
}
