package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/wire"
)

func TestVersion(t *testing.T) {
	status, out, errs := output(t, "version")
	assert.Equal(t, exitOK, status, errs)
	assert.Regexp(t, `^sockemu \S+, .*revision.*, protocol \d+, go\S+\n$`, out)
	assert.Contains(t, out, runtime.Version())

	status, out, errs = output(t, "version", "--json")
	assert.Equal(t, exitOK, status, errs)
	var v buildVersion
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	assert.Equal(t, runtime.Version(), v.Go)
	assert.Equal(t, wire.Version, v.Protocol)
}

func TestErrorText(t *testing.T) {
	err := errors.Join(errors.New("dial over shm with h:/\x1b[2J\a: refused – µs\t"), errors.New("and more"))
	assert.Equal(t, "dial over shm with h:/?[2J?: refused – µs?\nand more", errorText(err))
}

func TestExitStatus(t *testing.T) {
	assert.Equal(t, exitOK, exitStatus(nil))
	assert.Equal(t, exitFailed, exitStatus(errors.New("x")))
	assert.Equal(t, exitUsage, exitStatus(fmt.Errorf("while: %w", usageError{errors.New("x")})))
	assert.ErrorContains(t, usageError{errors.New("x")}, "x")
}
