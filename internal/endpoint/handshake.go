package endpoint

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/flynn/noise"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// Every link begins with one Noise handshake, pattern NNpsk0 (noiseprotocol.org, section 7.4 and 9): ephemeral X25519 keys
// on both sides and a pre-shared key. For open and control links that key comes from the cluster key (zeros without one);
// for resume links it is the session's secret, which is thereby proved by both sides, over fresh keys. A third message
// (Confirm) proves to the server that the dialer is live and not a recording.
var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256)

// ErrNotSockemu: the peer answers, but doesn't speak sockemu.
var ErrNotSockemu = errors.New("the peer does not speak sockemu")

// ErrUnanswered: the link ended before the peer's first word, or it stayed silent for request.answer. A peer with sockemu that has too much to do looks like
// that, too.
var ErrUnanswered = errors.New("no answer")

// unanswered is an error that matches ErrUnanswered besides, in its own words.
type unanswered struct{ error }

func (u unanswered) Unwrap() error      { return u.error }
func (unanswered) Is(target error) bool { return target == ErrUnanswered }

// agreed is what both sides have after a handshake.
type agreed struct {
	out, in *noise.CipherState
	binding []byte        // unique to this handshake
	rtt     time.Duration // how long the other end's answer took
}

func newAgreed(hs *noise.HandshakeState, out, in *noise.CipherState) agreed {
	return agreed{out: out, in: in, binding: hs.ChannelBinding()}
}

// secret derives the secret of a new session.
func (a agreed) secret(initiator bool) [32]byte {
	k1, k2 := a.out.UnsafeKey(), a.in.UnsafeKey()
	if !initiator {
		k1, k2 = k2, k1
	}
	return derive(append(k1[:], k2[:]...), a.binding, "sockemu 1 session secret")
}

func derive(key, salt []byte, info string) [32]byte {
	b, err := hkdf.Key(sha256.New, key, salt, info, 32)
	if err != nil {
		panic("endpoint: " + err.Error()) // only for an impossible length
	}
	return [32]byte(b)
}

// clusterPSK turns the cluster key into the pre-shared key of open and control links.
func clusterPSK(key []byte) [32]byte {
	if len(key) == 0 {
		return [32]byte{}
	}
	return derive(key, nil, "sockemu 1 cluster key")
}

// resumePSK turns a session's secret into the pre-shared key of its resume links.
func resumePSK(secret [32]byte) [32]byte { return derive(secret[:], nil, "sockemu 1 resume") }

func newHandshake(initiator bool, psk [32]byte, prologue []byte) (*noise.HandshakeState, error) {
	return noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Random: rand.Reader, Pattern: noise.HandshakeNN, Initiator: initiator,
		Prologue: prologue, PresharedKey: psk[:], PresharedKeyPlacement: 0,
	})
}

// guard bounds a handshake on link by ctx. The returned function ends the guard; it reports whether ctx was still good.
func guard(ctx context.Context, link substrate.Link) func() bool {
	if d, ok := ctx.Deadline(); ok {
		link.SetSendDeadline(d)
		link.SetRecvDeadline(d)
	}
	stop := context.AfterFunc(ctx, link.Interrupt)
	return func() bool {
		ok := stop()
		link.SetSendDeadline(time.Time{})
		link.SetRecvDeadline(time.Time{})
		return ok
	}
}

func sendAll(link substrate.Link, b []byte) error {
	_, err := link.Send(substrate.Unkept, [][]byte{b})
	return err
}

func recvFull(link substrate.Link, b []byte) error {
	for n := 0; n < len(b); {
		k, err := link.Recv(b[n:])
		if n += k; err != nil && n < len(b) {
			if err == io.EOF && n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// request describes the link a dialer asks for.
type request struct {
	kind     wire.Kind
	gid      gid.GID
	psk      [32]byte
	key      bool // psk comes from a cluster key
	seal     bool
	acceptor bool // we are the end that had accepted the connection
	standby  bool // the link shall wait while another one is in use
	my       wire.Setup
	addr     string
	home     string // by which the policy for the peer is found; "": addr

	claim  func(peer wire.Setup) error // called before the proof of life is sent, with what the peer says; nil: nothing to check
	answer time.Duration               // how long the peer may be silent before it is taken for a plain one; 0: no such limit
}

// handshakeTime bounds a handshake, and with it, where ctx says nothing else, what comes before it.
func (e *Endpoint) handshakeTime(ctx context.Context) (context.Context, context.CancelFunc) {
	d := e.cfg.HandshakeTimeout
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("not done within %v (HandshakeTimeout): %w", d, context.DeadlineExceeded))
}

// confirmTime bounds the sending of a Confirm, whose 18 bytes should find room at once.
const confirmTime = time.Second

// dialHandshake performs the dialer's side on a fresh link. The caller closes the link on error.
func dialHandshake(ctx context.Context, link substrate.Link, q request) (wire.Setup, agreed, error) {
	var none agreed
	done := guard(ctx, link)
	fail := func(err error) (wire.Setup, agreed, error) {
		done()
		if d, ok := ctx.Deadline(); ok && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(d) {
			<-ctx.Done() // the link was faster
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return wire.Setup{}, none, fmt.Errorf("%v handshake with %s: %w", q.kind, q.addr, err)
	}
	h := wire.Hello{Version: wire.Version, MinVersion: wire.MinVersion, Kind: q.kind, GID: q.gid}
	if q.key {
		h.Flags |= wire.HelloPSK
	}
	if q.seal {
		h.Flags |= wire.HelloSeal
	}
	if q.acceptor {
		h.Flags |= wire.HelloAcceptor
	}
	if q.standby {
		h.Flags |= wire.HelloStandby
	}
	payload := q.my.Append(nil)
	h.NoiseLen = 32 + len(payload) + wire.TagSize
	fixed := h.Append(nil)
	hs, err := newHandshake(true, q.psk, fixed)
	if err != nil {
		return fail(err)
	}
	msg, _, _, err := hs.WriteMessage(fixed, payload)
	if err != nil {
		return fail(err)
	}
	asked := time.Now()
	// A peer that is busy answers without waiting for us and may have closed the link: its answer says more than our error.
	sendErr := sendAll(link, msg)

	var rb [wire.ReplySize]byte
	limit, _ := ctx.Deadline()
	silence := false // what ends the wait is the peer's silence, not the caller's deadline
	if q.answer > 0 {
		if d := time.Now().Add(q.answer); limit.IsZero() || d.Before(limit) {
			silence = true
			link.SetRecvDeadline(d)
		}
	}
	if err := recvFull(link, rb[:len(wire.Magic)]); err != nil {
		if sendErr != nil && q.answer == 0 {
			return fail(unanswered{sendErr})
		}
		if silence && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			return fail(unanswered{fmt.Errorf("%w: it said nothing for %v", ErrNotSockemu, q.answer)})
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fail(err)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || q.answer > 0 && errors.Is(err, syscall.ECONNRESET) {
			err = fmt.Errorf("%w: it closed the link (%w)", ErrNotSockemu, err)
		}
		return fail(unanswered{err})
	}
	if string(rb[:len(wire.Magic)]) != wire.Magic {
		return fail(fmt.Errorf("%w: it answered %q", ErrNotSockemu, rb[:len(wire.Magic)]))
	}
	rtt := time.Since(asked)
	link.SetRecvDeadline(limit)
	if err := recvFull(link, rb[len(wire.Magic):]); err != nil {
		return fail(err)
	}
	if string(rb[:]) == string(fixed[:wire.HelloSize]) {
		return fail(fmt.Errorf("%w: it echoes", ErrNotSockemu))
	}
	r, err := wire.ParseReply(rb[:])
	if err != nil {
		return fail(err)
	}
	if r.Status != wire.StatusOK {
		return fail(&session.RefusedError{Status: r.Status, Proc: r.Proc, Addr: q.addr})
	}
	body := make([]byte, r.NoiseLen)
	if err := recvFull(link, body); err != nil {
		return fail(err)
	}
	plain, out, in, err := hs.ReadMessage(nil, body)
	if err != nil || out == nil {
		return fail(fmt.Errorf("%w: the answer is not authentic (wrong cluster key?)", substrate.ErrProtocol))
	}
	peer, err := wire.ParseSetup(plain)
	if err != nil {
		return fail(err)
	}
	a := newAgreed(hs, out, in)
	a.rtt = rtt
	// From the proof of life on the listener has the connection or the new link. Whoever gives up does so before: it would wait for a dialer
	// that has gone.
	if !done() {
		return fail(context.Cause(ctx))
	}
	if q.claim != nil {
		if err := q.claim(peer); err != nil {
			return fail(err)
		}
	}
	tag, err := out.Encrypt(nil, nil, nil)
	if err != nil {
		return fail(err)
	}
	link.SetSendDeadline(time.Now().Add(confirmTime))
	if err := sendAll(link, append([]byte{0, byte(len(tag))}, tag...)); err != nil {
		return fail(err)
	}
	link.SetSendDeadline(time.Time{})
	return peer, a, nil
}

// offer is a dialer's first message, opened.
type offer struct {
	hello wire.Hello
	peer  wire.Setup
	hs    *noise.HandshakeState
}

// readOffer reads the rest of a Hello, whose fixed part is given, and its Noise message.
func readOffer(link substrate.Link, fixed []byte, h wire.Hello, psk [32]byte) (offer, wire.Status, error) {
	body := make([]byte, h.NoiseLen)
	if err := recvFull(link, body); err != nil {
		return offer{}, wire.StatusFormat, err
	}
	hs, err := newHandshake(false, psk, fixed)
	if err != nil {
		return offer{}, wire.StatusFormat, err
	}
	plain, _, _, err := hs.ReadMessage(nil, body)
	if err != nil {
		return offer{}, wire.StatusKey, fmt.Errorf("%v request is not authentic: %w", h.Kind, err)
	}
	peer, err := wire.ParseSetup(plain)
	if err != nil {
		return offer{}, wire.StatusFormat, err
	}
	return offer{hello: h, peer: peer, hs: hs}, wire.StatusOK, nil
}

// acceptOffer answers with our Setup and waits for the dialer's proof of life.
func acceptOffer(link substrate.Link, o offer, my wire.Setup) (agreed, error) {
	payload := my.Append(nil)
	head := wire.Reply{Version: wire.Version, Status: wire.StatusOK, NoiseLen: 32 + len(payload) + wire.TagSize, Proc: my.Proc}.Append(nil)
	msg, in, out, err := o.hs.WriteMessage(head, payload)
	if err != nil {
		return agreed{}, err
	}
	a := newAgreed(o.hs, out, in)
	asked := time.Now()
	if err := sendAll(link, msg); err != nil {
		return agreed{}, err
	}
	var cb [wire.ConfirmSize]byte
	if err := recvFull(link, cb[:]); err != nil {
		return agreed{}, err
	}
	a.rtt = time.Since(asked)
	if _, err := in.Decrypt(nil, nil, cb[2:]); err != nil || cb[0] != 0 || cb[1] != wire.TagSize {
		return agreed{}, fmt.Errorf("%w: the dialer could not confirm (a replayed request?)", substrate.ErrProtocol)
	}
	return a, nil
}
