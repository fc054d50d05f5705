package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/gid"
)

var someGID = gid.GID{1, 2, 3, 0xff}

// hello is a good Hello, changed by the given functions.
func hello(change ...func(b []byte)) []byte {
	b := Hello{Version: Version, MinVersion: MinVersion, Kind: KindOpen, NoiseLen: 100, GID: someGID}.Append(nil)
	for _, f := range change {
		f(b)
	}
	return b
}

func set(at int, v ...byte) func([]byte) {
	return func(b []byte) { copy(b[at:], v) }
}

func TestParseHello(t *testing.T) {
	require.Len(t, hello(), HelloSize)
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"good":                  {hello(), nil},
		"resume":                {hello(set(10, 2)), nil},
		"newer, but compatible": {hello(set(8, 200)), nil},
		"reserved bytes":        {hello(set(14, 1, 1)), nil}, // for later versions
		"psk and seal":          {hello(set(11, 3)), nil},
		"shortest noise":        {hello(set(12, 0, 32)), nil},
		"longest noise":         {hello(set(12, 8, 0)), nil},
		"control":               {hello(set(10, 3), set(16, make([]byte, 16)...)), nil},
		"empty":                 {nil, ErrMagic},
		"http":                  {[]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n......"), ErrMagic},
		"one bit of the magic":  {hello(set(7, '\n'^1)), ErrMagic},
		"magic alone":           {[]byte(Magic), ErrFormat},
		"too short":             {hello()[:HelloSize-1], ErrFormat},
		"too long":              {append(hello(), 0), ErrFormat},
		"too new":               {hello(set(8, 9, Version+1)), ErrVersion},
		"too old":               {hello(set(8, 0, 0)), ErrVersion},
		"minimum above version": {hello(set(8, 1, 2)), ErrVersion},
		"kind 0":                {hello(set(10, 0)), ErrFormat},
		"kind 5":                {hello(set(10, 5)), ErrFormat},
		"unknown flag":          {hello(set(11, 4)), ErrFormat},
		"noise too short":       {hello(set(12, 0, 31)), ErrFormat},
		"noise too long":        {hello(set(12, 8, 1)), ErrFormat},
		"noise 65535":           {hello(set(12, 255, 255)), ErrFormat},
		"open without a GID":    {hello(set(16, make([]byte, 16)...)), ErrFormat},
		"control with a GID":    {hello(set(10, 3)), ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseHello(c.in)
			require.ErrorIs(t, err, c.want)
		})
	}
}

func TestHelloRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Hello{
			Version: rapid.Uint8Min(Version).Draw(t, "version"), MinVersion: MinVersion,
			Kind: Kind(rapid.Uint8Range(1, 3).Draw(t, "kind")), Flags: rapid.Uint8Range(0, 3).Draw(t, "flags"),
			NoiseLen: rapid.IntRange(32, MaxNoise).Draw(t, "noise"),
		}
		if h.Kind != KindControl {
			h.GID = drawID(t)
		}
		prefix := []byte("before")
		b := h.Append(prefix)
		require.Equal(t, "before", string(b[:len(prefix)]))
		got, err := ParseHello(b[len(prefix):])
		require.NoError(t, err)
		require.Equal(t, h, got)
	})
}

func reply(change ...func(b []byte)) []byte {
	b := Reply{Version: Version, NoiseLen: 100, Proc: gid.ProcessID(someGID)}.Append(nil)
	for _, f := range change {
		f(b)
	}
	return b
}

func TestParseReply(t *testing.T) {
	require.Len(t, reply(), ReplySize)
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"good":                            {reply(), nil},
		"refused":                         {reply(set(9, byte(StatusBusy), 0, 0)), nil},
		"unknown refusal":                 {reply(set(9, 200, 0, 0)), nil},
		"refused by another version":      {reply(set(8, 9, byte(StatusVersion), 0, 0)), nil},
		"reserved bytes":                  {reply(set(12, 1, 2, 3, 4)), nil},
		"empty":                           {nil, ErrMagic},
		"ssh":                             {[]byte("SSH-2.0-OpenSSH_9.9\r\n............"), ErrMagic},
		"too short":                       {reply()[:ReplySize-1], ErrFormat},
		"too long":                        {append(reply(), 0), ErrFormat},
		"another version":                 {reply(set(8, Version+1)), ErrVersion},
		"version 0":                       {reply(set(8, 0)), ErrVersion},
		"ok without noise":                {reply(set(10, 0, 0)), ErrFormat},
		"ok with too little noise":        {reply(set(10, 0, 31)), ErrFormat},
		"ok with too much noise":          {reply(set(10, 8, 1)), ErrFormat},
		"ok with 65535 bytes of noise":    {reply(set(10, 255, 255)), ErrFormat},
		"refusal with a noise message":    {reply(set(9, byte(StatusBusy))), ErrFormat},
		"other version and bad noise len": {reply(set(8, Version+1), set(10, 255, 255)), ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseReply(c.in)
			require.ErrorIs(t, err, c.want)
		})
	}
}

func TestReplyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Reply{Version: Version, Status: Status(rapid.Byte().Draw(t, "status")), Proc: gid.ProcessID(drawID(t))}
		if r.Status == StatusOK {
			r.NoiseLen = rapid.IntRange(32, MaxNoise).Draw(t, "noise")
		} else {
			r.Version = rapid.Uint8().Draw(t, "version") // who refuses may be of any version
		}
		got, err := ParseReply(r.Append(nil))
		require.NoError(t, err)
		require.Equal(t, r, got)
	})
}

func setup(addrs ...string) Setup {
	return Setup{Proc: gid.ProcessID(someGID), Epoch: 1, LinkNo: 2, Got: 3, Limit: 4, Addrs: addrs}
}

func TestParseSetup(t *testing.T) {
	two := setup("h:1", "[::1]:2").Append(nil)
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"good":                     {two, nil},
		"for later versions":       {append(bytes.Clone(two), 1, 2, 3), nil},
		"no address":               {setup().Append(nil), nil},
		"empty":                    {nil, ErrFormat},
		"no count":                 {two[:setupFixed-1], ErrFormat},
		"no first address":         {two[:setupFixed], ErrFormat},
		"half an address":          {two[:setupFixed+2], ErrFormat},
		"one of two":               {two[:setupFixed+4], ErrFormat},
		"nine addresses":           {append(bytes.Clone(two[:setupFixed-1]), bytes.Repeat([]byte{9, 1, 'a'}, 20)...), ErrFormat},
		"255 addresses":            {append(bytes.Clone(two[:setupFixed-1]), 255), ErrFormat},
		"an empty address":         {append(bytes.Clone(two[:setupFixed-1]), 1, 0), ErrFormat},
		"an address of 65 bytes":   {append(append(bytes.Clone(two[:setupFixed-1]), 1, 65), make([]byte, 65)...), ErrFormat},
		"an address of 255 bytes":  {append(append(bytes.Clone(two[:setupFixed-1]), 1, 255), make([]byte, 300)...), ErrFormat},
		"nobody":                   {Setup{Epoch: 1}.Append(nil), ErrFormat},
		"no offers said":           {two[:len(two)-2], ErrFormat},
		"no policy said":           {two[:len(two)-1], ErrFormat},
		"too many offers":          {append(bytes.Clone(two[:len(two)-2]), MaxOffers+1), ErrFormat},
		"a long name":              {append(append(bytes.Clone(two[:len(two)-2]), 1, 9), make([]byte, 20)...), ErrFormat},
		"an offer without a place": {append(bytes.Clone(two[:len(two)-2]), 1, 1, 'a', 0), ErrFormat},
		"a long policy":            {append(append(bytes.Clone(two[:len(two)-1]), 65), make([]byte, 65)...), ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSetup(c.in)
			require.ErrorIs(t, err, c.want)
		})
	}
}

// TestSetupLeavesOut: what the peer would refuse is not sent.
func TestSetupLeavesOut(t *testing.T) {
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("host:%d", i))
	}
	got, err := ParseSetup(setup(many...).Append(nil))
	require.NoError(t, err)
	require.Equal(t, many[:MaxAddrs], got.Addrs)

	long := strings.Repeat("x", MaxAddrLen)
	got, err = ParseSetup(setup("", long+"x", long, "a:1").Append(nil))
	require.NoError(t, err)
	require.Equal(t, []string{long, "a:1"}, got.Addrs)

	offer := Offer{Substrate: "12345678", Addr: strings.Repeat("y", MaxOfferLen)}
	full := setup(slicesOf(long, MaxAddrs)...)
	full.Policy = strings.Repeat("p", MaxPolicyLen)
	for range 2 * MaxOffers {
		full.Offers = append(full.Offers, offer, Offer{Substrate: "123456789", Addr: "a"}, Offer{Substrate: "tcp"}, Offer{Substrate: "a", Addr: offer.Addr + "y"})
	}
	got, err = ParseSetup(full.Append(nil))
	require.NoError(t, err)
	require.Len(t, got.Offers, MaxOffers)
	require.Equal(t, offer, got.Offers[MaxOffers-1])
	require.LessOrEqual(t, 32+len(full.Append(nil))+TagSize, MaxNoise, "the longest Setup fits a Noise message")
	full.Policy += "p"
	got, err = ParseSetup(full.Append(nil))
	require.NoError(t, err)
	require.Empty(t, got.Policy)
}

func slicesOf(s string, n int) (list []string) {
	for range n {
		list = append(list, s)
	}
	return list
}

func TestSetupRoundTrip(t *testing.T) {
	addr := rapid.StringMatching(`[a-z0-9.:\[\]]{1,64}`)
	rapid.Check(t, func(t *rapid.T) {
		s := Setup{
			Proc: gid.ProcessID(drawID(t)), Epoch: rapid.Uint64().Draw(t, "epoch"), LinkNo: rapid.Uint64().Draw(t, "link"),
			Seen: rapid.Uint64().Draw(t, "seen"), Got: rapid.Uint64().Draw(t, "got"), Limit: rapid.Uint64().Draw(t, "limit"),
			Addrs:  rapid.SliceOfN(addr, 0, MaxAddrs).Draw(t, "addrs"),
			Offers: rapid.SliceOfN(rapid.Custom(drawOffer), 0, MaxOffers).Draw(t, "offers"),
			Policy: rapid.StringMatching(`[a-z:,!]{0,64}`).Draw(t, "policy"),
		}
		if len(s.Offers) == 0 {
			s.Offers = nil
		}
		if len(s.Addrs) == 0 {
			s.Addrs = nil
		}
		b := s.Append(nil)
		got, err := ParseSetup(append(b, rapid.SliceOf(rapid.Byte()).Draw(t, "later")...))
		require.NoError(t, err)
		require.Equal(t, s, got)
		for n := range len(b) {
			_, err := ParseSetup(b[:n])
			require.ErrorIs(t, err, ErrFormat, "%d of %d bytes", n, len(b))
		}
	})
}

func drawOffer(t *rapid.T) Offer {
	return Offer{
		Substrate: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "substrate"),
		Addr:      rapid.StringMatching(`[a-z0-9.:/]{1,120}`).Draw(t, "addr"),
	}
}

func drawID(t *rapid.T) (g gid.GID) {
	copy(g[:], rapid.SliceOfN(rapid.Byte(), gid.Size, gid.Size).Draw(t, "id"))
	if g.IsZero() {
		g[0] = 1
	}
	return g
}

// TestStrings: every value has a text, and unknown ones show their number.
func TestStrings(t *testing.T) {
	seen := map[string]Status{}
	for s := StatusOK; s <= StatusPath; s++ {
		require.NotContains(t, s.String(), "status ")
		require.NotContains(t, seen, s.String())
		seen[s.String()] = s
	}
	require.Equal(t, "status 200", Status(200).String())
	for k := KindOpen; k <= KindProbe; k++ {
		require.NotContains(t, k.String(), "kind")
	}
	require.Equal(t, "kind 9", Kind(9).String())
	for ty := TypeState; ty <= TypeSlot; ty++ {
		require.NotContains(t, (&Record{Type: ty, GID: someGID, Token: 7}).String(), "record ")
	}
	require.Equal(t, "record 130", (&Record{Type: 130}).String())
}

// TestLengthsCostNothing: a length field makes no decoder allocate more than an error, whose parts fmt takes from a pool that the race
// detector empties at random.
func TestLengthsCostNothing(t *testing.T) {
	var r Record
	state := (&Record{Type: TypeState, GID: someGID}).Append(nil)
	for name, c := range map[string]struct {
		most float64
		f    func()
	}{
		"hello":            {0, func() { ParseHello(helloBytes) }},
		"reply":            {0, func() { ParseReply(replyBytes) }},
		"record":           {0, func() { ParseRecord(state, &r) }},
		"frame":            {0, func() { ParseFrameHeader([]byte{1, 0, 255, 255}, false) }},
		"hello, 64 KiB":    {20, func() { ParseHello(longHello) }},
		"reply, 64 KiB":    {20, func() { ParseReply(longReply) }},
		"setup, 255 addrs": {20, func() { ParseSetup(longSetup) }},
		"record, 64 KiB":   {20, func() { ParseRecord([]byte{1, 0, 255, 255}, &r) }},
		"optional, 64 KiB": {20, func() { ParseRecord([]byte{200, 0, 255, 255}, &r) }},
		"frame, 16 MiB":    {20, func() { ParseFrameHeader([]byte{1, 255, 255, 255}, false) }},
	} {
		require.LessOrEqual(t, testing.AllocsPerRun(100, c.f), c.most, name)
	}
}

var (
	helloBytes = hello()
	replyBytes = reply()
	longHello  = hello(set(12, 255, 255))
	longReply  = reply(set(10, 255, 255))
	longSetup  = append(setup().Append(nil)[:setupFixed-1], 255)
)
