//go:build !race

package sockemu_test

// pace: see race_test.go.
const pace = 1
