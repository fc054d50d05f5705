package wire

import (
	"fmt"

	"github.com/sockemu/sockemu/gid"
)

// A Kind says what a new link is for.
type Kind uint8

// The kinds of links.
const (
	KindOpen    Kind = 1 // the first data link of a new connection
	KindResume  Kind = 2 // another data link for an existing connection
	KindControl Kind = 3 // the control channel between two processes
	KindProbe   Kind = 4 // a link that is only measured
)

// String names the kind for logs and errors.
func (k Kind) String() string {
	switch k {
	case KindOpen:
		return "open"
	case KindResume:
		return "resume"
	case KindControl:
		return "control"
	case KindProbe:
		return "probe"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Flags of a Hello.
const (
	HelloPSK      = 1 << 0 // the cluster key is mixed into the handshake
	HelloSeal     = 1 << 1 // every frame of the link is encrypted and authenticated
	HelloAcceptor = 1 << 2 // resume: the dialer is the end that had accepted the connection
	HelloStandby  = 1 << 3 // resume: the link is made ready while another one is in use; see Go
)

// Sizes of the set-up messages.
const (
	HelloSize   = 32   // fixed part of a Hello
	ReplySize   = 32   // fixed part of a Reply
	ConfirmSize = 18   // 2 bytes of length, 16 bytes of tag: a Confirm carries nothing
	MaxNoise    = 2048 // longest Noise message that is accepted
)

// Hello begins a link: the fixed part, in clear but bound into the Noise transcript, before the first Noise message.
type Hello struct {
	Version, MinVersion uint8
	Kind                Kind
	Flags               uint8
	NoiseLen            int
	GID                 gid.GID // zero for KindControl and KindProbe
}

// Append appends the fixed part of h to b.
func (h Hello) Append(b []byte) []byte {
	b = append(b, Magic...)
	b = append(b, h.Version, h.MinVersion, byte(h.Kind), h.Flags)
	b = be.AppendUint16(b, uint16(h.NoiseLen))
	b = be.AppendUint16(b, 0)
	return append(b, h.GID[:]...)
}

// ParseHello decodes the fixed part of a Hello. It reports ErrMagic, ErrVersion or ErrFormat.
func ParseHello(b []byte) (Hello, error) {
	var h Hello
	if len(b) < len(Magic) || string(b[:len(Magic)]) != Magic {
		return h, ErrMagic
	}
	if len(b) != HelloSize {
		return h, formatError("hello of %d bytes, want %d", len(b), HelloSize)
	}
	h = Hello{Version: b[8], MinVersion: b[9], Kind: Kind(b[10]), Flags: b[11], NoiseLen: int(be.Uint16(b[12:]))}
	copy(h.GID[:], b[16:])
	switch {
	case h.MinVersion > Version || h.Version < MinVersion || h.MinVersion > h.Version:
		return h, fmt.Errorf("wire: %w: peer speaks %d..%d, we speak %d..%d", ErrVersion, h.MinVersion, h.Version, MinVersion, Version)
	case h.Kind < KindOpen || h.Kind > KindProbe:
		return h, formatError("unknown link kind %d", h.Kind)
	case h.Flags&^(HelloPSK|HelloSeal|HelloAcceptor|HelloStandby) != 0, h.Flags&(HelloAcceptor|HelloStandby) != 0 && h.Kind != KindResume:
		return h, formatError("unknown flags %#x", h.Flags)
	case h.NoiseLen < 32 || h.NoiseLen > MaxNoise:
		return h, formatError("noise message of %d bytes, want 32..%d", h.NoiseLen, MaxNoise)
	case (h.Kind == KindControl || h.Kind == KindProbe) != h.GID.IsZero():
		return h, formatError("%v link with GID %s", h.Kind, h.GID)
	}
	return h, nil
}

// A Status is the answer to a Hello.
type Status uint8

// The answers. All but StatusOK end the link.
const (
	StatusOK         Status = 0
	StatusVersion    Status = 1  // no common version
	StatusBusy       Status = 2  // too many handshakes in progress; try again
	StatusKey        Status = 3  // wrong or missing cluster key, or proof of the session's secret failed
	StatusUnknown    Status = 4  // this process has no connection of that GID
	StatusStale      Status = 5  // an older epoch, or another process's: somebody else holds the connection
	StatusClosed     Status = 6  // that connection has ended here
	StatusNoListener Status = 7  // nobody accepts new connections here (any more)
	StatusFormat     Status = 8  // malformed message
	StatusOvertaken  Status = 10 // that link number was used already: try a higher one
	StatusPolicy     Status = 9  // refused by configuration (encryption demanded on one side only)
	StatusPath       Status = 11 // not over this substrate: try another one
)

// String says what a refusal means, for errors.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusVersion:
		return "no common protocol version"
	case StatusBusy:
		return "busy: too many handshakes in progress"
	case StatusKey:
		return "wrong or missing key"
	case StatusUnknown:
		return "no such connection in that process"
	case StatusStale:
		return "stale: another process holds that end of the connection"
	case StatusOvertaken:
		return "overtaken by another link"
	case StatusClosed:
		return "the connection has ended there"
	case StatusNoListener:
		return "not accepting new connections"
	case StatusFormat:
		return "malformed message"
	case StatusPath:
		return "this substrate is not admitted there"
	case StatusPolicy:
		return "security policies differ (is encryption or a cluster key demanded on one side only?)"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Reply answers a Hello: the fixed part, before the second Noise message. Proc is a hint in clear; the authenticated one is
// in the Setup inside the Noise message.
type Reply struct {
	Version  uint8
	Status   Status
	NoiseLen int // 0 unless StatusOK
	Proc     gid.ProcessID
}

// Append appends the fixed part of r to b.
func (r Reply) Append(b []byte) []byte {
	b = append(b, Magic...)
	b = append(b, r.Version, byte(r.Status))
	b = be.AppendUint16(b, uint16(r.NoiseLen))
	b = be.AppendUint32(b, 0)
	return append(b, r.Proc[:]...)
}

// ParseReply decodes the fixed part of a Reply. It reports ErrMagic, ErrVersion or ErrFormat.
func ParseReply(b []byte) (Reply, error) {
	var r Reply
	if len(b) < len(Magic) || string(b[:len(Magic)]) != Magic {
		return r, ErrMagic
	}
	if len(b) != ReplySize {
		return r, formatError("reply of %d bytes, want %d", len(b), ReplySize)
	}
	r = Reply{Version: b[8], Status: Status(b[9]), NoiseLen: int(be.Uint16(b[10:]))}
	copy(r.Proc[:], b[16:])
	switch {
	case r.Status == StatusOK && (r.NoiseLen < 32 || r.NoiseLen > MaxNoise):
		return r, formatError("noise message of %d bytes, want 32..%d", r.NoiseLen, MaxNoise)
	case r.Status != StatusOK && r.NoiseLen != 0:
		return r, formatError("refusal with a noise message")
	case r.Status == StatusOK && (r.Version < MinVersion || r.Version > Version):
		return r, fmt.Errorf("wire: %w: peer chose %d, we speak %d..%d", ErrVersion, r.Version, MinVersion, Version)
	}
	return r, nil
}

// Bounds of a Setup.
const (
	MaxAddrs     = 8
	MaxAddrLen   = 64
	MaxOffers    = 6
	MaxNameLen   = 8
	MaxOfferLen  = 120
	MaxPolicyLen = 64
	setupFixed   = gid.Size + 5*8 + 1
)

// An Offer says how a process can be reached over a substrate other than the one of its listeners.
type Offer struct {
	Substrate string
	Addr      string // in the substrate's own form
}

// Setup is the payload of both Noise messages of a handshake: who I am and where the connection stands with me.
type Setup struct {
	Proc   gid.ProcessID
	Epoch  uint64 // fencing epoch of the sender's end of the connection
	LinkNo uint64 // number of this link, chosen by the dialer; rises with every attempt
	Seen   uint64 // number of the last link that was in use at the sender's end
	Got    uint64 // the sender's session has every byte before this stream offset
	Limit  uint64 // in record mode the peer may send up to this stream offset
	Addrs  []string
	Offers []Offer
	Policy string // which substrates the process admits, in the selector's words; "" is any
}

// Append appends s to b. Addresses and offers beyond the bounds are left out.
func (s Setup) Append(b []byte) []byte {
	b = append(b, s.Proc[:]...)
	b = be.AppendUint64(b, s.Epoch)
	b = be.AppendUint64(b, s.LinkNo)
	b = be.AppendUint64(b, s.Seen)
	b = be.AppendUint64(b, s.Got)
	b = be.AppendUint64(b, s.Limit)
	at := len(b)
	b = append(b, 0)
	for _, a := range s.Addrs {
		if b[at] == MaxAddrs {
			break
		}
		if len(a) == 0 || len(a) > MaxAddrLen {
			continue
		}
		b[at]++
		b = appendString(b, a)
	}
	at = len(b)
	b = append(b, 0)
	for _, o := range s.Offers {
		if b[at] == MaxOffers {
			break
		}
		if len(o.Substrate) == 0 || len(o.Substrate) > MaxNameLen || len(o.Addr) == 0 || len(o.Addr) > MaxOfferLen {
			continue
		}
		b[at]++
		b = appendString(appendString(b, o.Substrate), o.Addr)
	}
	if len(s.Policy) > MaxPolicyLen {
		return append(b, 0)
	}
	return appendString(b, s.Policy)
}

func appendString(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// cutString takes a string of min..max bytes with its length in front.
func cutString(b []byte, min, max int) (s string, rest []byte, err error) {
	if len(b) == 0 || int(b[0]) < min || int(b[0]) > max || len(b) < 1+int(b[0]) {
		return "", nil, formatError("truncated or oversized text in a setup")
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], nil
}

// ParseSetup decodes a Setup. Bytes after it are left for later versions and ignored.
func ParseSetup(b []byte) (Setup, error) {
	var s Setup
	if len(b) < setupFixed {
		return s, formatError("setup of %d bytes, want at least %d", len(b), setupFixed)
	}
	copy(s.Proc[:], b)
	s.Epoch, s.LinkNo, s.Seen, s.Got, s.Limit = be.Uint64(b[16:]), be.Uint64(b[24:]), be.Uint64(b[32:]), be.Uint64(b[40:]), be.Uint64(b[48:])
	n := int(b[56])
	if n > MaxAddrs {
		return s, formatError("%d addresses, at most %d", n, MaxAddrs)
	}
	b = b[setupFixed:]
	var err error
	for range n {
		var a string
		if a, b, err = cutString(b, 1, MaxAddrLen); err != nil {
			return s, err
		}
		s.Addrs = append(s.Addrs, a)
	}
	if len(b) == 0 || int(b[0]) > MaxOffers {
		return s, formatError("more than %d offers, or none said", MaxOffers)
	}
	n, b = int(b[0]), b[1:]
	for range n {
		var o Offer
		if o.Substrate, b, err = cutString(b, 1, MaxNameLen); err != nil {
			return s, err
		}
		if o.Addr, b, err = cutString(b, 1, MaxOfferLen); err != nil {
			return s, err
		}
		s.Offers = append(s.Offers, o)
	}
	if s.Policy, _, err = cutString(b, 0, MaxPolicyLen); err != nil {
		return s, err
	}
	if s.Proc.IsZero() {
		return s, formatError("setup without a process identity")
	}
	return s, nil
}
