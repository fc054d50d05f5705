package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/inventory"
)

func TestSelf(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, printSelf(&b, true))
	var v inventory.Inventory
	require.NoError(t, json.Unmarshal(b.Bytes(), &v))
	require.Equal(t, inventory.HostID(), v.HostID)

	b.Reset()
	require.NoError(t, printSelf(&b, false))
	require.Contains(t, b.String(), v.HostID)
	require.Regexp(t, `(?m)^lo\s+loopback\s`, b.String())
}
