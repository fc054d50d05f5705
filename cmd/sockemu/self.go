package main

import (
	"encoding/json"
	"io"

	"github.com/sockemu/sockemu/internal/inventory"
)

// printSelf writes what this host has to connect with: one JSON object, or text.
func printSelf(w io.Writer, asJSON bool) error {
	v := inventory.Host()
	if asJSON {
		return json.NewEncoder(w).Encode(v)
	}
	return v.WriteText(w)
}
