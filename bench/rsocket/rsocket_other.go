//go:build !linux || !cgo

package rsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Available says why there are no rsockets here.
func Available() error {
	return fmt.Errorf("rsockets need Linux and a build with cgo: %w", errors.ErrUnsupported)
}

// Dial fails with the error of Available.
func Dial(context.Context, string, string) (net.Conn, error) { return nil, Available() }

// Listen fails with the error of Available.
func Listen(context.Context, string, string) (net.Listener, error) { return nil, Available() }
