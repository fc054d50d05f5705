package main

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPatternIsTheSameHoweverItIsCut(t *testing.T) {
	p := pattern(42)
	whole := make([]byte, 1000)
	p.fill(whole, 0)
	for range 1000 {
		from := rand.IntN(len(whole))
		part := make([]byte, rand.IntN(len(whole)-from+1))
		p.fill(part, uint64(from))
		require.True(t, bytes.Equal(whole[from:from+len(part)], part), "from %d, %d bytes", from, len(part))
	}
}

func TestPatternTellsWhereAByteBelongs(t *testing.T) {
	for range 1000 {
		p := pattern(rand.Uint64())
		i := rand.Uint64()
		require.Equal(t, i, p.index(p.word(i)))
		at := rand.Uint64N(1 << 40)
		b := make([]byte, 15)
		p.fill(b, at)
		got, ok := p.locate(b)
		require.True(t, ok)
		require.Equal(t, at, got)
	}
}

func TestVerifyNamesTheFault(t *testing.T) {
	stream := make([]byte, 4096)
	pattern(7).fill(stream, 0)
	at := func() *tally {
		r := newTally(7)
		require.NoError(t, r.verify(stream[:1001]))
		return r
	}
	require.NoError(t, at().verify(stream[1001:2000]))
	require.EqualError(t, at().verify(stream[1501:2000]),
		"at byte 1001 the stream goes on with byte 1501: 500 bytes are lost or out of order")
	require.EqualError(t, at().verify(stream[900:2000]), "at byte 1001 the stream goes on with byte 900: 101 bytes are repeated")
	bad := bytes.Clone(stream[1001:1100])
	bad[50] ^= 1
	require.ErrorContains(t, at().verify(bad), "byte 1051 is 0x")
	require.ErrorContains(t, at().verify(append(bytes.Clone(stream[1001:1200]), stream[1300:1400]...)), "at byte 1200 the stream goes on with byte 1300")
}

func TestTallyGoesOnInAnotherProcess(t *testing.T) {
	stream := make([]byte, 4096)
	pattern(7).fill(stream, 0)
	whole, part := newTally(7), newTally(7)
	require.NoError(t, whole.verify(stream))
	require.NoError(t, part.verify(stream[:999]))
	state, err := part.export()
	require.NoError(t, err)
	moved, err := state.restore()
	require.NoError(t, err)
	require.NoError(t, moved.verify(stream[999:]))
	require.Equal(t, whole.digest(), moved.digest())
	require.NotEqual(t, part.digest(), moved.digest())
}

func BenchmarkVerify(b *testing.B) {
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		t := newTally(7)
		t.produce(buf)
		if err := t.verify(buf); err != nil {
			b.Fatal(err)
		}
	}
}
