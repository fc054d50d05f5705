package substrate

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestErrorText(t *testing.T) {
	for _, tc := range []struct {
		err  *Error
		want string
	}{
		{&Error{Op: "dial", Substrate: "tcp", Peer: "b:1", Class: Refused, Err: syscall.ECONNREFUSED}, "dial over tcp with b:1: refused: connection refused"},
		{&Error{Op: "listen", Substrate: "shm", Class: Config}, "listen over shm: configuration"},
		{&Error{Op: "listen", Substrate: "tcp", Peer: ":1", Class: Config, Err: syscall.EADDRINUSE}, "listen over tcp at :1: configuration: address already in use"},
		{&Error{Op: "configure the endpoint", Class: Config, Err: errors.New("no key")}, "configure the endpoint: configuration: no key"},
		{&Error{Op: "send", Substrate: "tcp", Class: 99}, "send over tcp: class 99"},
	} {
		require.EqualError(t, tc.err, tc.want)
	}
}

// TestClasses: each class has its sentinel and no other, also through wrapping; an error without a class is a path that is down.
func TestClasses(t *testing.T) {
	sentinels := map[Class]error{
		PathSuspect: ErrPathSuspect, PathDown: ErrPathDown, PeerGone: ErrPeerGone, Refused: ErrRefused, Config: ErrConfig, Protocol: ErrProtocol,
	}
	for class, own := range sentinels {
		err := fmt.Errorf("while: %w", &Error{Class: class, Err: syscall.EPIPE})
		require.Equal(t, class, ClassOf(err))
		require.ErrorIs(t, err, syscall.EPIPE)
		for _, s := range sentinels {
			require.Equal(t, s == own, errors.Is(err, s), "%v and %v", class, s)
		}
	}
	require.NotErrorIs(t, &Error{}, ErrPathDown)
	require.Equal(t, PathDown, ClassOf(errors.New("else")))
}
