//go:build !linux || !cgo

package libibverbs

import (
	"fmt"
	"runtime"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// New returns the provider. It is the same all the time.
func New() verbs.Provider { return none{} }

type none struct{}

func (none) Name() string { return "libibverbs" }

func why() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%w: only on Linux, not on %s", verbs.ErrUnavailable, runtime.GOOS)
	}
	return fmt.Errorf("%w: this program was built without cgo", verbs.ErrUnavailable)
}

func (none) Devices() ([]verbs.DeviceInfo, error) {
	return nil, &verbs.Error{Op: "list devices", Err: why()}
}

func (none) Open(name string) (verbs.Device, error) {
	return nil, &verbs.Error{Op: "open", Device: name, Err: why()}
}
