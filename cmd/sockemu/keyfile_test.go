package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.NoError(t, os.Chmod(path, mode)) // whatever the umask
		return path
	}
	for name, c := range map[string]struct {
		file          string
		key, warn, no string
	}{
		"none":        {file: ""},
		"private":     {file: write("private", " secret\n", 0o600), key: "secret"},
		"open":        {file: write("open", "secret", 0o644), key: "secret", warn: "chmod go= " + filepath.Join(dir, "open")},
		"the group":   {file: write("group", "secret", 0o640), key: "secret", warn: "others may read the key"},
		"largest":     {file: write("largest", strings.Repeat("k", maxKey), 0o600), key: strings.Repeat("k", maxKey)},
		"too large":   {file: write("large", strings.Repeat("k", maxKey+1), 0o600), no: "more than 4096 bytes"},
		"without end": {file: "/dev/zero", no: "more than 4096 bytes"},
		"empty":       {file: write("empty", "\n", 0o600), no: "holds no key"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			key, err := keyFile{KeyFile: c.file}.key(newLogger(&log, "info"))
			if c.no != "" {
				require.ErrorContains(t, err, c.no)
				require.Equal(t, exitUsage, exitStatus(err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.key, string(key))
			if c.warn == "" {
				require.Empty(t, log.String())
			} else {
				require.Contains(t, log.String(), c.warn)
			}
		})
	}
}
