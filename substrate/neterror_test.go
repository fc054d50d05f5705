package substrate

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIsBadAddress(t *testing.T) {
	for _, tc := range []struct {
		err error
		bad bool
	}{
		{&net.AddrError{Err: "missing port", Addr: "x"}, true},
		{&net.OpError{Op: "dial", Err: &net.AddrError{}}, true},
		{&net.ParseError{Type: "IP address", Text: "1.2.3"}, true},
		{net.UnknownNetworkError("smoke"), true},
		{net.InvalidAddrError("odd"), true},
		{fmt.Errorf("look up: %w", &net.DNSError{IsNotFound: true}), true},
		{&net.DNSError{IsNotFound: true, IsTemporary: true}, false},
		{&net.DNSError{IsTimeout: true}, false},
		{syscall.ECONNREFUSED, false},
		{errors.New("else"), false},
	} {
		require.Equal(t, tc.bad, IsBadAddress(tc.err), "%#v", tc.err)
	}
}

func TestCause(t *testing.T) {
	require.Equal(t, syscall.ECONNREFUSED, Cause(fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})))
	err := errors.New("else")
	require.Equal(t, err, Cause(err))
}
