//go:build !linux

package sys

import (
	"errors"
	"fmt"
	"os"
)

// NewNetNS returns an error that wraps errors.ErrUnsupported.
func NewNetNS() (*os.File, error) {
	return nil, fmt.Errorf("network namespace: %w", errors.ErrUnsupported)
}

// InNetNS returns an error that wraps errors.ErrUnsupported.
func InNetNS(*os.File, func() error) error {
	return fmt.Errorf("network namespace: %w", errors.ErrUnsupported)
}
