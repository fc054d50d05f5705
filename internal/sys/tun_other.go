//go:build !linux

package sys

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// TUN returns an error that wraps errors.ErrUnsupported.
func TUN(string, netip.Prefix, int) (*os.File, error) {
	return nil, fmt.Errorf("TUN interface: %w", errors.ErrUnsupported)
}
