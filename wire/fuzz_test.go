package wire

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// The fuzzers: what is decoded encodes to something that decodes to the same, errors are of the documented kinds, and
// bytes behind a message don't change what it means.

func known(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrMagic) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrFormat) {
		t.Fatalf("undocumented error %v", err)
	}
}

func FuzzHello(f *testing.F) {
	f.Add(hello())
	f.Add(hello(set(10, 2), set(11, 3), set(8, 9, 1)))
	f.Add(Hello{Version: 1, MinVersion: 1, Kind: KindControl, NoiseLen: MaxNoise}.Append(nil))
	f.Add(Hello{Version: 1, MinVersion: 1, Kind: KindProbe, NoiseLen: 32}.Append(nil))
	f.Add(longHello)
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHello(b)
		if err != nil {
			known(t, err)
			return
		}
		if h.NoiseLen < 32 || h.NoiseLen > MaxNoise || h.Kind < KindOpen || h.Kind > KindProbe {
			t.Fatalf("out of bounds: %+v", h)
		}
		out := h.Append(nil)
		again, err := ParseHello(out)
		if err != nil || again != h {
			t.Fatalf("%+v, then %+v, %v", h, again, err)
		}
		if !bytes.Equal(out[:14], b[:14]) || !bytes.Equal(out[16:], b[16:]) {
			t.Fatalf("% x became % x", b, out)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(reply())
	f.Add(reply(set(9, byte(StatusBusy), 0, 0)))
	f.Add(reply(set(8, 2)))
	f.Add(longReply)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReply(b)
		if err != nil {
			known(t, err)
			return
		}
		if r.NoiseLen > MaxNoise || (r.Status == StatusOK) != (r.NoiseLen >= 32) {
			t.Fatalf("out of bounds: %+v", r)
		}
		again, err := ParseReply(r.Append(nil))
		if err != nil || again != r {
			t.Fatalf("%+v, then %+v, %v", r, again, err)
		}
		_ = r.Status.String()
	})
}

func FuzzSetup(f *testing.F) {
	f.Add(setup().Append(nil))
	f.Add(setup("127.0.0.1:1", "[::1]:2").Append(nil))
	f.Add(setup(slicesOf("0123456789012345678901234567890123456789012345678901234567890123", MaxAddrs)...).Append(nil))
	f.Add(longSetup)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSetup(b)
		if err != nil {
			known(t, err)
			return
		}
		total := setupFixed
		for _, a := range s.Addrs {
			if len(a) == 0 || len(a) > MaxAddrLen {
				t.Fatalf("address of %d bytes", len(a))
			}
			total += 1 + len(a)
		}
		total += 1
		for _, o := range s.Offers {
			if len(o.Substrate) == 0 || len(o.Substrate) > MaxNameLen || len(o.Addr) == 0 || len(o.Addr) > MaxOfferLen {
				t.Fatalf("offer %+v", o)
			}
			total += 2 + len(o.Substrate) + len(o.Addr)
		}
		total += 1 + len(s.Policy)
		if len(s.Addrs) > MaxAddrs || len(s.Offers) > MaxOffers || len(s.Policy) > MaxPolicyLen || s.Proc.IsZero() {
			t.Fatalf("out of bounds: %+v", s)
		}
		out := s.Append(nil)
		if !bytes.Equal(out, b[:total]) {
			t.Fatalf("% x became % x", b[:total], out)
		}
		again, err := ParseSetup(out)
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%+v, then %+v, %v", s, again, err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	all := []Record{
		{Type: TypeState, Flags: stateFlags, GID: someGID, LinkNo: 1, Ack: 2, Limit: 3, Sent: 1<<64 - 1},
		{Type: TypeAttach, GID: someGID, MAC: [MACSize]byte{1, 2}},
		{Type: TypeNak, GID: someGID, Code: StatusStale},
		{Type: TypeReset, GID: someGID, Code: StatusClosed},
		{Type: TypePing, Token: 9},
		{Type: TypePong, Token: 10},
		{Type: TypeSlot, GID: someGID, Slot: 3, Gen: 4},
	}
	var stream []byte
	for i := range all {
		f.Add(all[i].Append(nil))
		stream = all[i].Append(stream)
	}
	f.Add(stream)
	f.Add(append(head(200, 7, 9), stream...))
	f.Add([]byte{1, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			var r Record
			n, err := ParseRecord(b, &r)
			if err != nil {
				known(t, err)
				if n != 0 {
					t.Fatalf("an error and %d bytes", n)
				}
				return
			}
			if n == 0 {
				if len(b) >= MaxRecord {
					t.Fatalf("%d bytes are not enough for a record", len(b)) // a channel's buffer would fill up and stand still
				}
				return
			}
			if n < RecordHeader || n > MaxRecord || n > len(b) {
				t.Fatalf("%d bytes of %d", n, len(b))
			}
			var alone, short Record
			if m, err := ParseRecord(b[:n:n], &alone); m != n || err != nil || alone != r {
				t.Fatalf("what follows %v changes it: %v, %d, %v", &r, &alone, m, err)
			}
			if m, err := ParseRecord(b[:n-1], &short); m != 0 || err != nil {
				t.Fatalf("without its last byte: %d, %v", m, err)
			}
			out := r.Append(nil)
			if r.Type < optionalTypes && !bytes.Equal(out, b[:n]) {
				t.Fatalf("% x became % x", b[:n], out)
			}
			var again Record
			if m, err := ParseRecord(out, &again); m != len(out) || err != nil || again != r {
				t.Fatalf("%v, then %v, %d, %v", &r, &again, m, err)
			}
			_ = r.String()
			b = b[n:]
		}
	})
}

func FuzzFrameHeader(f *testing.F) {
	f.Add([]byte{1, 0, 1, 2}, false)
	f.Add([]byte{2, 1, 0, 16}, true)
	f.Add([]byte{3, 0, 0, 0}, false)
	f.Add([]byte{1, 255, 255, 255}, true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		ft, n, err := ParseFrameHeader(b, sealed)
		if err != nil {
			known(t, err)
			return
		}
		if n < 0 || n > MaxBody || !sealed && n > MaxPayload || sealed && n < TagSize {
			t.Fatalf("body of %d bytes", n)
		}
		if ft == FrameBare && (sealed || n > MaxPadding) {
			t.Fatal("bare with a body")
		}
		var out [FrameHeader]byte
		PutFrameHeader(out[:], ft, n)
		if !bytes.Equal(out[:], b[:FrameHeader]) {
			t.Fatalf("% x became % x", b, out)
		}
	})
}

func FuzzProbe(f *testing.F) {
	f.Add(Probe{Op: ProbeEcho, Len: 64}.Append(nil))
	f.Add(Probe{Op: ProbeTrain, Len: MaxProbeTrain}.Append(nil))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProbe(b)
		if err != nil {
			known(t, err)
			return
		}
		if p.Len < 0 || p.Len > MaxProbeTrain || p.Op == ProbeEcho && p.Len > MaxProbeEcho {
			t.Fatalf("out of bounds: %+v", p)
		}
		if out := p.Append(nil); !bytes.Equal(out, b) {
			t.Fatalf("% x became % x", b, out)
		}
	})
}
