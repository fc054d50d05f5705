package main

import (
	"bytes"
	"fmt"
	"os"
)

// keyFile is the flag for the key that the processes of a cluster share.
type keyFile struct {
	KeyFile string `type:"existingfile" placeholder:"FILE" help:"File with the key that both ends share; others are refused."`
}

// key reads the key; nil if no file was named. White space around it doesn't count: an editor may have put a line end there.
func (f keyFile) key() ([]byte, error) {
	if f.KeyFile == "" {
		return nil, nil
	}
	key, err := os.ReadFile(f.KeyFile)
	if err != nil {
		return nil, err
	}
	if key = bytes.TrimSpace(key); len(key) == 0 {
		return nil, usageError{fmt.Errorf("%s holds no key", f.KeyFile)}
	}
	return key, nil
}
