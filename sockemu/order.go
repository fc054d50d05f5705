//go:build !race

package sockemu

func ordered() {}
func orders()  {}
