//go:build !linux

package inventory

import (
	"context"
	"errors"
	"fmt"
)

func watch(context.Context, func(Event)) error {
	return fmt.Errorf("watch the network: %w", errors.ErrUnsupported)
}
