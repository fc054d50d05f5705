package main

import (
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/sockemu/sockemu/wire"
)

type versionCmd struct {
	JSON bool `help:"Print one JSON object." name:"json"`
}

// buildVersion is what this binary was built from.
type buildVersion struct {
	Version  string `json:"version"`            // of the module; (devel) if it was built from a checkout
	Revision string `json:"revision,omitempty"` // of the checkout, if it is known
	Modified bool   `json:"modified,omitempty"` // the checkout had changes on top of it
	Time     string `json:"time,omitempty"`     // of the revision
	Go       string `json:"go"`
	Protocol int    `json:"protocol"`
}

func readVersion() buildVersion {
	v := buildVersion{Version: "unknown", Protocol: wire.Version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// Run prints the version.
func (c *versionCmd) Run(std *stdio) error {
	v := readVersion()
	if c.JSON {
		return json.NewEncoder(std.out).Encode(v)
	}
	revision := "unknown revision"
	if v.Revision != "" {
		revision = "revision " + v.Revision
	}
	if v.Modified {
		revision += " with changes"
	}
	_, err := fmt.Fprintf(std.out, "sockemu %s, %s, protocol %d, %s\n", v.Version, revision, v.Protocol, v.Go)
	return err
}
