package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
)

// keyFile is the flag for the key that the processes of a cluster share.
type keyFile struct {
	KeyFile string `type:"existingfile" placeholder:"FILE" help:"File with the key that both ends share; others are refused."`
}

// maxKey bounds a key file, in bytes: what is larger is no key, but a file that was named by mistake, or a device without end.
const maxKey = 4 << 10

// key reads the key; nil if no file was named. White space around it doesn't count: an editor may have put a line end there.
func (f keyFile) key(log *slog.Logger) ([]byte, error) {
	if f.KeyFile == "" {
		return nil, nil
	}
	file, err := os.Open(f.KeyFile)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	key, err := io.ReadAll(io.LimitReader(file, maxKey+1))
	switch {
	case err != nil:
		return nil, err
	case len(key) > maxKey:
		return nil, usageError{fmt.Errorf("%s is no key: it has more than %d bytes", f.KeyFile, maxKey)}
	}
	if key = bytes.TrimSpace(key); len(key) == 0 {
		return nil, usageError{fmt.Errorf("%s holds no key", f.KeyFile)}
	}
	if st, err := file.Stat(); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o044 != 0 {
		log.Warn("others may read the key: chmod go= "+f.KeyFile, "mode", st.Mode())
	}
	return key, nil
}
