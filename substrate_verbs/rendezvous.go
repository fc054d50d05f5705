package verbs

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// What is said on the TCP connection, in turn. Each message is u8 kind, u8 code, u16 length of the body (little-endian), body:
//
//	hello    dialer    code 0          magic (8), instance (16)
//	welcome  acceptor  code verdict    instance (16), token (u64); or words, why not
//	offer    dialer    code Kind       secret (16), what the Half says
//	         or        code 0          nothing: the two have a queue pair already
//	answer   acceptor  code Kind       secret (16), what the Half says
//	         or        code 0          words, why not
//
// After that nothing is said, and the queue pair must prove itself.
const (
	sayHello = iota + 1
	sayWelcome
	sayOffer
	sayAnswer
)

// Verdicts of a welcome.
const (
	verdictOK   = iota
	verdictBusy // come back later
)

// magic is how a hello begins; the last byte is the version.
const magic = "sockvrb\x02"

const (
	instanceLen = 16
	secretLen   = 16
	wordsMost   = 256
	bodyMost    = secretLen + MaxInfo
)

// An instance is the random name of a Substrate in a process.
type instance [instanceLen]byte

func newInstance() (id instance) {
	rand.Read(id[:])
	return id
}

type hello struct{ instance instance }

type welcome struct {
	verdict  uint8
	instance instance
	token    uint64
}

type offer struct {
	join   bool
	kind   Kind
	secret [secretLen]byte
	info   []byte
}

type answered struct {
	kind   Kind // 0: refused
	secret [secretLen]byte
	info   []byte
	why    string
}

var errRendezvous = errors.New("not what was to be said at a rendezvous")

func say(w io.Writer, kind, code uint8, body ...[]byte) error {
	b := bytes.Join(append([][]byte{{kind, code, 0, 0}}, body...), nil)
	binary.LittleEndian.PutUint16(b[2:], uint16(len(b)-4))
	_, err := w.Write(b)
	return err
}

// hear reads a message of a kind. The body has at most bodyMost bytes.
func hear(r io.Reader, kind uint8) (code uint8, body []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.LittleEndian.Uint16(head[2:]))
	if head[0] != kind || n > bodyMost {
		return 0, nil, fmt.Errorf("%w: message of kind %d with %d bytes", errRendezvous, head[0], n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return head[1], body, err
}

func (h hello) say(w io.Writer) error { return say(w, sayHello, 0, []byte(magic), h.instance[:]) }

func parseHello(code uint8, body []byte) (h hello, err error) {
	if len(body) != len(magic)+instanceLen || code != 0 || string(body[:len(magic)-1]) != magic[:len(magic)-1] {
		return h, errRendezvous
	}
	if body[len(magic)-1] != magic[len(magic)-1] {
		return h, fmt.Errorf("%w: version %d, here %d", errRendezvous, body[len(magic)-1], magic[len(magic)-1])
	}
	copy(h.instance[:], body[len(magic):])
	return h, nil
}

func (m welcome) say(w io.Writer) error {
	return say(w, sayWelcome, m.verdict, m.instance[:], binary.LittleEndian.AppendUint64(nil, m.token))
}

func parseWelcome(code uint8, body []byte) (m welcome, err error) {
	if len(body) != instanceLen+8 || code > verdictBusy {
		return m, errRendezvous
	}
	m.verdict = code
	copy(m.instance[:], body)
	m.token = binary.LittleEndian.Uint64(body[instanceLen:])
	return m, nil
}

func (o offer) say(w io.Writer) error {
	if o.join {
		return say(w, sayOffer, 0)
	}
	return say(w, sayOffer, uint8(o.kind), o.secret[:], o.info)
}

func parseOffer(code uint8, body []byte) (o offer, err error) {
	if code == 0 {
		if len(body) > 0 {
			return o, errRendezvous
		}
		return offer{join: true}, nil
	}
	if len(body) < secretLen {
		return o, errRendezvous
	}
	copy(o.secret[:], body)
	o.kind, o.info = Kind(code), body[secretLen:]
	return o, nil
}

func (a answered) say(w io.Writer) error {
	if a.kind == 0 {
		return say(w, sayAnswer, 0, []byte(a.why[:min(len(a.why), wordsMost)]))
	}
	return say(w, sayAnswer, uint8(a.kind), a.secret[:], a.info)
}

func parseAnswer(code uint8, body []byte) (a answered, err error) {
	if code == 0 {
		if len(body) > wordsMost {
			return a, errRendezvous
		}
		a.why = printable(body)
		return a, nil
	}
	if len(body) < secretLen {
		return a, errRendezvous
	}
	copy(a.secret[:], body)
	a.kind, a.info = Kind(code), body[secretLen:]
	return a, nil
}

// printable is what another host says, fit for logs and terminals.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' && r < 0xa0 || r == '\ufffd' {
			return '?'
		}
		return r
	}, string(b))
}

// mismatch says that the two ends can't be joined.
func mismatch(here, there Kind) error {
	return fmt.Errorf("%v here, %v there", here, there)
}

func newSecret() (s [secretLen]byte) {
	rand.Read(s[:])
	return s
}

// addrPair are the addresses of a rendezvous.
func addrPair(c net.Conn) (local, remote addr) {
	return addrOf(c.LocalAddr()), addrOf(c.RemoteAddr())
}
