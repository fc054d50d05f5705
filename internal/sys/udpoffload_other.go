//go:build !linux

package sys

import (
	"errors"
	"fmt"
)

// UDPOffload is known on Linux only.
func UDPOffload() (gso, gro bool, err error) {
	return false, false, fmt.Errorf("UDP offload: %w", errors.ErrUnsupported)
}
