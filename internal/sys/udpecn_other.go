//go:build !linux

package sys

import (
	"errors"
	"fmt"
	"net/netip"
)

// ReceiveUDPECN is known on Linux only.
func ReceiveUDPECN(uintptr, bool) error { return fmt.Errorf("ECN: %w", errors.ErrUnsupported) }

// UDPECN is known on Linux only.
func UDPECN([]byte) byte { return NotECT }

// AppendUDPECN is known on Linux only.
func AppendUDPECN(ctl []byte, _ netip.Addr, _ byte) []byte { return ctl }
