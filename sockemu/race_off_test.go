//go:build !race

package sockemu_test

// See race_on_test.go.
const (
	raced = false
	pace  = 1
)
