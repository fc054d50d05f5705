package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The byte form of a State, version 1 (docs/protocol.md, "Exported state"):
//
//	8 bytes  magic
//	1 byte   version
//	then fixed fields, then strings and byte strings, each after its length
//	32 bytes HMAC-SHA256 of all before, under a key derived from the cluster key (or a fixed one without a cluster key: then it
//	         detects damage, not forgery)
const (
	stateMagic   = "\xf5SOCKST\n"
	stateVersion = 1
)

// Errors of DecodeState and Import.
var (
	// ErrStateDamaged: truncated, corrupted, or made under another cluster key.
	ErrStateDamaged = errors.New("the exported state is damaged, or was exported under another cluster key")
	// ErrStateVersion: made by an incompatible version.
	ErrStateVersion = errors.New("the exported state has an unknown version")
	// ErrStateReplayed: this connection was imported here before, from this or a later state.
	ErrStateReplayed = errors.New("the exported state was used before")
)

var be = binary.BigEndian

func stateMAC(key, b []byte) []byte {
	h := hmac.New(sha256.New, append([]byte("sockemu 1 exported state"), key...))
	h.Write(b)
	return h.Sum(nil)
}

// Encode returns the byte form of st, authenticated with key.
func (st *State) Encode(key []byte) []byte {
	b := make([]byte, 0, 512+len(st.Unacked)+len(st.Unread))
	b = append(b, stateMagic...)
	var flags byte
	for i, f := range []bool{st.Initiator, st.FinSent, st.FinSeen, st.FinKnown, st.PeerClose, st.Sealed} {
		if f {
			flags |= 1 << i
		}
	}
	b = append(b, stateVersion, flags)
	b = append(b, st.GID[:]...)
	b = append(b, st.Secret[:]...)
	b = append(b, st.Peer[:]...)
	for _, v := range []uint64{st.Epoch, st.PeerEpoch, st.LinkNo, st.Got, st.Acked, st.PeerLimit, st.Fin, uint64(st.Linger)} {
		b = be.AppendUint64(b, v)
	}
	b = be.AppendUint32(b, uint32(len(st.PeerAddrs)))
	for _, s := range append(st.PeerAddrs[:len(st.PeerAddrs):len(st.PeerAddrs)], st.Home, st.Local, st.Remote) {
		b = be.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	for _, s := range [][]byte{st.Unacked, st.Unread} {
		b = be.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return append(b, stateMAC(key, b)...)
}

// stateReader takes fields off the front; the first failure sticks.
type stateReader struct {
	b   []byte
	bad bool
}

func (r *stateReader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *stateReader) u64() uint64 {
	if b := r.take(8); b != nil {
		return be.Uint64(b)
	}
	return 0
}

func (r *stateReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

func (r *stateReader) bytes() []byte { return r.take(int(r.u32())) }

// DecodeState is the inverse of Encode. The result refers to b.
func DecodeState(b, key []byte) (*State, error) {
	if len(b) < len(stateMagic)+1+sha256.Size || string(b[:len(stateMagic)]) != stateMagic {
		return nil, fmt.Errorf("%w: no exported state", ErrStateDamaged)
	}
	if v := b[len(stateMagic)]; v != stateVersion {
		return nil, fmt.Errorf("%w: %d, this process knows %d", ErrStateVersion, v, stateVersion)
	}
	body, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(mac, stateMAC(key, body)) {
		return nil, ErrStateDamaged
	}
	r := &stateReader{b: body[len(stateMagic)+1:]}
	st := &State{}
	if f := r.take(1); f != nil {
		for i, p := range []*bool{&st.Initiator, &st.FinSent, &st.FinSeen, &st.FinKnown, &st.PeerClose, &st.Sealed} {
			*p = f[0]&(1<<i) != 0
		}
	}
	copy(st.GID[:], r.take(len(st.GID)))
	copy(st.Secret[:], r.take(len(st.Secret)))
	copy(st.Peer[:], r.take(len(st.Peer)))
	for _, p := range []*uint64{&st.Epoch, &st.PeerEpoch, &st.LinkNo, &st.Got, &st.Acked, &st.PeerLimit, &st.Fin} {
		*p = r.u64()
	}
	st.Linger = time.Duration(r.u64())
	n := r.u32()
	if n > 64 {
		return nil, fmt.Errorf("%w: %d addresses", ErrStateDamaged, n)
	}
	for range n {
		st.PeerAddrs = append(st.PeerAddrs, string(r.bytes()))
	}
	for _, p := range []*string{&st.Home, &st.Local, &st.Remote} {
		*p = string(r.bytes())
	}
	st.Unacked, st.Unread = r.bytes(), r.bytes()
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: truncated", ErrStateDamaged)
	}
	return st, nil
}
