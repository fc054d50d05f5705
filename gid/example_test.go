package gid_test

import (
	"encoding/json"
	"fmt"

	"github.com/sockemu/sockemu/gid"
)

// A GID is text in logs, flags and JSON.
func Example() {
	g, err := gid.Parse("0123456789abcdef0123456789abcdef")
	if err != nil {
		fmt.Println(err)
		return
	}
	b, _ := json.Marshal(map[string]gid.GID{"gid": g})
	fmt.Println(g.Short(), string(b))
	fmt.Println(gid.New() == g, gid.GID{}.IsZero())

	_, err = gid.Parse("0123")
	fmt.Println(err)
	// Output:
	// 01234567 {"gid":"0123456789abcdef0123456789abcdef"}
	// false true
	// gid: "0123" has 4 characters, want 32 hexadecimal digits
}
