package session

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/wire"
)

var stateKey = []byte("the cluster's key")

// someState is a State with something in every field.
func someState() *State {
	return &State{
		GID: testGID, Initiator: true, Secret: [32]byte{7, 31: 9}, Epoch: 3, PeerEpoch: 2, Peer: testPeer,
		PeerAddrs: []string{"[::1]:80", "h:1"}, Home: "home:1", LinkNo: 12, Got: 1000, Acked: 500, PeerLimit: 9000,
		FinSent: true, FinSeen: false, FinKnown: true, Fin: 2000, PeerClose: true, Linger: time.Millisecond,
		Local: "127.0.0.1:1", Remote: "127.0.0.1:2", Unacked: []byte("not acknowledged"), Unread: []byte("not read"),
	}
}

func drawState(t *rapid.T) *State {
	u64 := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
	flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
	bytesOf := func(name string, n int) []byte { return rapid.SliceOfN(rapid.Byte(), 0, n).Draw(t, name) }
	st := &State{
		Initiator: flag("initiator"), Epoch: u64("epoch"), PeerEpoch: u64("peerepoch"), LinkNo: u64("link"), Got: u64("got"),
		Acked: u64("acked"), PeerLimit: u64("limit"), Fin: u64("fin"), FinSent: flag("finsent"), FinSeen: flag("finseen"),
		FinKnown: flag("finknown"), PeerClose: flag("peerclose"), Sealed: flag("sealed"),
		Linger: time.Duration(rapid.Int64().Draw(t, "linger")), PeerAddrs: rapid.SliceOfN(rapid.String(), 0, 64).Draw(t, "addrs"),
		Home: rapid.String().Draw(t, "home"), Local: rapid.String().Draw(t, "local"), Remote: rapid.String().Draw(t, "remote"),
		Unacked: bytesOf("unacked", 3000), Unread: bytesOf("unread", 3000),
	}
	copy(st.GID[:], bytesOf("gid", gid.Size))
	copy(st.Peer[:], bytesOf("peer", gid.Size))
	copy(st.Secret[:], bytesOf("secret", 32))
	if len(st.PeerAddrs) == 0 {
		st.PeerAddrs = nil
	}
	return st
}

func TestStateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, key := drawState(t), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "key")
		b := st.Encode(key)
		got, err := DecodeState(b, key)
		require.NoError(t, err)
		require.Equal(t, st, got)
		require.Equal(t, b, got.Encode(key))
		_, err = DecodeState(b, append(key, 1))
		require.ErrorIs(t, err, ErrStateDamaged)
	})
}

func TestStateEveryBitCounts(t *testing.T) {
	good := someState().Encode(stateKey)
	b := bytes.Clone(good)
	for i := range b {
		want := ErrStateDamaged
		if i == len(stateMagic) {
			want = ErrStateVersion
		}
		for bit := range 8 {
			b[i] ^= 1 << bit
			_, err := DecodeState(b, stateKey)
			require.ErrorIs(t, err, want, "byte %d bit %d", i, bit)
			b[i] ^= 1 << bit
		}
	}
	require.Equal(t, good, b)
}

func TestStateTruncated(t *testing.T) {
	b := someState().Encode(stateKey)
	for n := range b {
		_, err := DecodeState(b[:n:n], stateKey)
		require.ErrorIs(t, err, ErrStateDamaged, "%d of %d bytes", n, len(b))
		_, err = DecodeState(b[n+1:], stateKey)
		require.ErrorIs(t, err, ErrStateDamaged, "without the first %d bytes", n+1)
	}
	for _, more := range [][]byte{{0}, b} {
		_, err := DecodeState(append(bytes.Clone(b), more...), stateKey)
		require.ErrorIs(t, err, ErrStateDamaged, "bytes behind the end")
	}
}

// reMAC makes a state of body that only the parser can refuse.
func reMAC(body []byte) []byte {
	b := append([]byte(stateMagic), stateVersion)
	b = append(b, body...)
	return append(b, stateMAC(stateKey, b)...)
}

// TestStateParser: behind a good MAC, every truncation of the fields is noticed, and no length makes memory.
func TestStateParser(t *testing.T) {
	good := someState().Encode(stateKey)
	body := good[len(stateMagic)+1 : len(good)-sha256.Size]
	got, err := DecodeState(reMAC(body), stateKey)
	require.NoError(t, err)
	require.Equal(t, someState(), got)
	for n := range body {
		_, err := DecodeState(reMAC(body[:n]), stateKey)
		require.ErrorIs(t, err, ErrStateDamaged, "%d of %d bytes", n, len(body))
	}
	_, err = DecodeState(reMAC(append(bytes.Clone(body), 0)), stateKey)
	require.ErrorIs(t, err, ErrStateDamaged)

	fixed := 1 + gid.Size + 32 + gid.Size + 8*8
	for _, at := range []int{fixed, fixed + 4, len(body) - 8 - 4, len(body) - 12} {
		huge := bytes.Clone(body)
		copy(huge[at:], []byte{0xff, 0xff, 0xff, 0xff})
		huge = reMAC(huge)
		_, err = DecodeState(huge, stateKey)
		require.ErrorIs(t, err, ErrStateDamaged, "length at %d", at)
		require.LessOrEqual(t, testing.AllocsPerRun(10, func() { DecodeState(huge, stateKey) }), 40.0)
	}
}

func TestImportRefusesContradictions(t *testing.T) {
	for name, change := range map[string]func(*State){
		"received beyond the end":        func(st *State) { st.FinKnown, st.Fin, st.Got = true, 10, 11; st.Unread = nil },
		"more unread than received":      func(st *State) { st.Got, st.Unread = 3, []byte("four") },
		"no peer":                        func(st *State) { st.Peer = gid.ProcessID{} },
		"no identity":                    func(st *State) { st.GID = gid.GID{} },
		"epoch 0":                        func(st *State) { st.Epoch = 0 },
		"sealed, and the process is not": func(st *State) { st.Sealed = true },
	} {
		t.Run(name, func(t *testing.T) {
			st := someState()
			change(st)
			pool := NewPool(0)
			_, err := Import(st, Config{}, fakeEnv{}, pool)
			require.Error(t, err)
			require.Zero(t, pool.Used())
		})
	}
}

// TestImportWrapsAround: counters at the end of their range contradict themselves too: the next step would make them zero.
func TestImportWrapsAround(t *testing.T) {
	for name, change := range map[string]func(*State){
		"epoch":    func(st *State) { st.Epoch = math.MaxUint64 },
		"unacked":  func(st *State) { st.Acked = math.MaxUint64 - 3 },
		"fin seen": func(st *State) { st.FinSent, st.FinSeen = false, true },
		"link":     func(st *State) { st.LinkNo = math.MaxUint64 },
		"received": func(st *State) { st.Got, st.FinKnown = math.MaxUint64, false },
	} {
		t.Run(name, func(t *testing.T) {
			st := someState()
			change(st)
			s, err := Import(st, Config{Linger: time.Millisecond}, fakeEnv{}, NewPool(0))
			if err == nil {
				finish(t, s, nil)
			}
			require.Error(t, err)
		})
	}
}

// TestImportGoesOn: what an imported end holds is what was exported, and it tells the peer so.
func TestImportGoesOn(t *testing.T) {
	st := someState()
	st.FinSent, st.PeerClose = false, false
	pool := NewPool(0)
	s, err := Import(st, Config{Linger: time.Millisecond}, fakeEnv{}, pool)
	require.NoError(t, err)
	sn := s.Snapshot()
	require.Equal(t, uint64(516), sn.Sent)
	require.Equal(t, uint64(500), sn.Acked)
	require.Equal(t, uint64(1000), sn.Received)
	require.Equal(t, uint64(8), sn.Unread)
	require.Equal(t, uint64(4), sn.Epoch)
	p := make([]byte, 100)
	n, err := s.Read(p)
	require.NoError(t, err)
	require.Equal(t, "not read", string(p[:n]))
	_, err = s.Write([]byte(", and more"))
	require.NoError(t, err)

	again, err := s.Export(t.Context())
	require.NoError(t, err)
	require.Equal(t, "not acknowledged, and more", string(again.Unacked))
	require.Empty(t, again.Unread)
	require.Equal(t, uint64(4), again.Epoch)
	_, err = s.Read(p)
	require.ErrorIs(t, err, ErrExported)
	require.ErrorIs(t, s.Close(), ErrExported)
}

func FuzzState(f *testing.F) {
	good := someState()
	f.Add(good.Encode(stateKey), false)
	f.Add(good.Encode(stateKey)[len(stateMagic)+1:len(good.Encode(stateKey))-sha256.Size], true)
	bare := (&State{GID: testGID, Peer: testPeer, Epoch: 1, PeerEpoch: 1}).Encode(stateKey)
	f.Add(bare[len(stateMagic)+1:len(bare)-sha256.Size], true)
	f.Add([]byte(stateMagic), false)
	f.Fuzz(func(t *testing.T, b []byte, mac bool) {
		if mac {
			b = reMAC(b)
		}
		st, err := DecodeState(b, stateKey)
		if err != nil {
			return
		}
		out := st.Encode(stateKey)
		again, err := DecodeState(out, stateKey)
		if err != nil || !reflect.DeepEqual(st, again) {
			t.Fatalf("%+v, then %+v, %v", st, again, err)
		}
		if len(out) != len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(out))
		}
		importAndUse(t, st)
	})
}

// importAndUse imports what was decoded, as far as it may be, and uses it.
func importAndUse(t *testing.T, st *State) {
	pool := NewPool(0)
	s, err := Import(st, Config{Seal: st.Sealed, Linger: time.Millisecond, Patience: time.Hour}, fakeEnv{}, pool)
	if err != nil {
		if pool.Used() != 0 {
			t.Fatal("a refused state holds memory")
		}
		return
	}
	if most := int64(len(st.Unacked) + len(st.Unread) + 4*largeBlock); pool.Used() > most {
		t.Fatalf("%d bytes in use, at most %d expected", pool.Used(), most)
	}
	s.Snapshot()
	s.mu.Lock()
	_ = s.readErr()
	s.mu.Unlock()
	s.SetReadDeadline(time.Unix(1, 0)) // no Read waits
	s.OnRecord(&wire.Record{Type: wire.TypeState, GID: st.GID, Ack: st.Acked, Sent: st.Fin})
	s.SetReadDeadline(time.Now().Add(time.Hour))
	s.SetLinger(1)
	if len(st.Unread) > 0 {
		p := make([]byte, len(st.Unread))
		if _, err := io.ReadFull(s, p); err != nil || !bytes.Equal(p, st.Unread) {
			t.Fatalf("unread: % x, %v", p, err)
		}
	}
	// A link to a peer that stands at the acknowledged byte.
	l := newFakeLink(nil)
	nl := NewLink{Link: l, Name: "fake", LinkNo: st.LinkNo, Peer: wire.Setup{Proc: st.Peer, Epoch: st.PeerEpoch, LinkNo: st.LinkNo, Got: st.Acked, Limit: math.MaxUint64}}
	if st.Sealed || s.Bind(nl) != nil {
		l = nil
	}
	finish(t, s, l)
}
