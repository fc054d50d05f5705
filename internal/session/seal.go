package session

import (
	"errors"
	"fmt"

	"github.com/flynn/noise"

	"github.com/sockemu/sockemu/wire"
)

// errTamper: a sealed frame didn't open, or its header makes no sense. It costs the link, not the connection: whoever is on the
// path could else end it with one flipped bit.
var errTamper = errors.New("a sealed frame is not authentic")

func wireError(detail string) error { return fmt.Errorf("%w: %s", wire.ErrFormat, detail) }

// Seal encrypts and authenticates the frames of one link: AES-256-GCM with the keys of the link's Noise handshake, a
// counter as nonce, and the frame header as associated data. Each direction is used by one goroutine at a time.
type Seal struct {
	out, in *noise.CipherState
}

// NewSeal takes over the cipher states of a finished handshake.
func NewSeal(out, in *noise.CipherState) *Seal { return &Seal{out: out, in: in} }

// seal appends the sealed form of body to dst; body may start where dst ends.
func (s *Seal) seal(dst, head, body []byte) []byte {
	out, err := s.out.Encrypt(dst, head, body)
	if err != nil {
		panic("session: " + err.Error()) // 2^64 frames on one link
	}
	return out
}

// open decrypts body in place.
func (s *Seal) open(head, body []byte) ([]byte, error) {
	out, err := s.in.Decrypt(body[:0], head, body)
	if err != nil {
		return nil, errTamper
	}
	return out, nil
}
