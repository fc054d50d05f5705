//go:build !linux || !cgo

package ucx

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Available says why there is no UCX here.
func Available() error {
	return fmt.Errorf("UCX needs Linux and a build with cgo: %w", errors.ErrUnsupported)
}

// A Transport can't be used here.
type Transport struct{}

// Over returns a Transport whose methods fail with the error of Available.
func Over(string) *Transport { return nil }

// Dial fails.
func (*Transport) Dial(context.Context, string, string) (net.Conn, error) { return nil, Available() }

// Listen fails.
func (*Transport) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, Available()
}
