//go:build !race

package sockemu_test

const raced = false
