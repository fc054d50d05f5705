package sockemu_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/substrate"
)

// TestMisconfiguredEnvironment: what an operator has misspelt in the environment is an error of the calls that need the Default endpoint, which
// programs handle, and no panic.
func TestMisconfiguredEnvironment(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=misconfigured")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// misconfigured is that program. It returns its exit status.
func misconfigured() int {
	os.Setenv("SOCKEMU_SUBSTRATE", "pin:carrier-pigeon")
	ctx := context.Background()
	failed := 0
	check := func(op string, err error) {
		oe, ok := errors.AsType[*net.OpError](err)
		if named := op == "import" || op == "inherit" || ok && oe.Op == op; !named || !errors.Is(err, substrate.ErrConfig) {
			fmt.Printf("%s: %v\n", op, err)
			failed = 1
		}
	}
	_, err := sockemu.Dial(ctx, "tcp", "127.0.0.1:1")
	check("dial", err)
	_, err = new(sockemu.Dialer).DialContext(ctx, "tcp", "127.0.0.1:1")
	check("dial", err)
	_, err = sockemu.Listen(ctx, "tcp", "127.0.0.1:0")
	check("listen", err)
	_, err = new(sockemu.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	check("listen", err)
	_, err = sockemu.Import(ctx, nil)
	check("import", err)
	_, err = sockemu.Inherit(ctx)
	check("inherit", err)
	return failed
}
