package main

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
)

// A pattern is an endless byte stream in which every position has its own value, so that a receiver can check each byte without
// having seen the ones before, and can say what happened when one is wrong: word i is the i-th output of the SplitMix64 generator
// (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), a bijection of i.
type pattern uint64 // the seed

const (
	golden    = 0x9e3779b97f4a7c15
	goldenInv = 0xf1de83e19937733d // golden * goldenInv == 1 mod 2^64
)

// word returns the i-th 8 bytes, little-endian.
func (p pattern) word(i uint64) uint64 {
	z := uint64(p) + (i+1)*golden
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// index is the inverse of word.
func (p pattern) index(w uint64) uint64 {
	z := w ^ w>>31 ^ w>>62
	z *= 0x319642b2d24d8ec3 // the inverses of word's multipliers
	z = z ^ z>>27 ^ z>>54
	z *= 0x96de1b173f119089
	z = z ^ z>>30 ^ z>>60
	return (z-uint64(p))*goldenInv - 1
}

// fill writes the bytes of the stream from position pos on into b.
func (p pattern) fill(b []byte, pos uint64) {
	i := pos / 8
	if skip := int(pos % 8); skip != 0 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], p.word(i))
		b = b[copy(b, w[skip:]):]
		i++
	}
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, p.word(i))
		i++
	}
	if len(b) > 0 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], p.word(i))
		copy(b, w[:])
	}
}

// locate returns the position that b, at least 15 bytes cut from the stream anywhere below 2^48, was cut from.
func (p pattern) locate(b []byte) (pos uint64, ok bool) {
	for skip := 0; skip < 8 && skip+8 <= len(b); skip++ {
		i := p.index(binary.LittleEndian.Uint64(b[skip:]))
		if i < 1<<45 && i*8 >= uint64(skip) {
			return i*8 - uint64(skip), true
		}
	}
	return 0, false
}

// A tally is one direction of the stream at one end: how far it has come and what has been through it.
type tally struct {
	pattern pattern
	pos     uint64
	sum     hash.Hash
	want    []byte // scratch of verify
}

func newTally(seed uint64) *tally { return &tally{pattern: pattern(seed), sum: sha256.New()} }

// produce fills b with the next bytes to send; count says how many of them were accepted.
func (t *tally) produce(b []byte) { t.pattern.fill(b, t.pos) }

// count moves on over b, which was sent, or received and verified.
func (t *tally) count(b []byte) {
	t.sum.Write(b)
	t.pos += uint64(len(b))
}

// verify checks that b are the next bytes of the stream and counts them.
func (t *tally) verify(b []byte) error {
	if len(t.want) < len(b) {
		t.want = make([]byte, len(b))
	}
	want := t.want[:len(b)]
	t.pattern.fill(want, t.pos)
	if bytes.Equal(b, want) {
		t.count(b)
		return nil
	}
	at := 0
	for b[at] == want[at] {
		at++
	}
	pos := t.pos + uint64(at)
	switch from, ok := t.pattern.locate(b[at:]); {
	case !ok || from == pos:
		return fmt.Errorf("byte %d is %#02x, want %#02x", pos, b[at], want[at])
	case from > pos:
		return fmt.Errorf("at byte %d the stream goes on with byte %d: %d bytes are lost or out of order", pos, from, from-pos)
	default:
		return fmt.Errorf("at byte %d the stream goes on with byte %d: %d bytes are repeated", pos, from, pos-from)
	}
}

// digest returns the SHA-256 of everything counted, in hexadecimal.
func (t *tally) digest() string { return hex.EncodeToString(t.sum.Sum(nil)) }

// tallyState is a tally on its way to another process.
type tallyState struct {
	Seed, Pos uint64
	Sum       []byte
}

func (t *tally) export() (tallyState, error) {
	sum, err := t.sum.(encoding.BinaryMarshaler).MarshalBinary()
	return tallyState{Seed: uint64(t.pattern), Pos: t.pos, Sum: sum}, err
}

func (s tallyState) restore() (*tally, error) {
	t := newTally(s.Seed)
	t.pos = s.Pos
	return t, t.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.Sum)
}
