package session

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPoolBudget(t *testing.T) {
	p := NewPool(largeBlock)
	require.False(t, p.full())
	x := p.Get(true)
	require.True(t, p.full())
	f := p.getFrame()
	p.Put(x)
	require.True(t, p.full())
	p.putFrame(f)
	require.False(t, p.full())
	require.Zero(t, p.Used())
	require.False(t, NewPool(0).full(), "no bound")
}
