package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/sockemu/sockemu"

// A rule forbids imports. Patterns are import paths relative to the module when they begin with "./", else absolute; one that
// ends in "/..." stands for the path itself and everything below it.
type rule struct {
	from   []string // the packages held to the rule
	except []string // and those among them that aren't
	to     []string // what they must not import
	// deep: not even through another package. A standard package is only ever forbidden directly: fmt imports os.
	deep   bool
	reason string
}

var rules = []rule{
	{
		from:   []string{"./gid/...", "./wire/...", "./internal/blocks/..."},
		to:     []string{"net", "net/...", "os", "os/...", "time", "syscall"},
		reason: "pure packages are given bytes and time: they can be fuzzed, simulated and run on any system",
	},
	{
		from: []string{"./gid/..."},
		to:   []string{"./..."}, deep: true,
		reason: "an identity is a leaf: everything names connections, so it can depend on nothing of ours",
	},
	{
		from: []string{"./internal/blocks/..."},
		to:   []string{"./..."}, deep: true,
		reason: "bytes of a stream lie in blocks whoever sends them: sessions and links alike build on it",
	},
	{
		from: []string{"./wire/..."}, except: []string{"./gid/..."},
		to: []string{
			"./substrate/...", "./substrate_tcp/...", "./substrate_udp/...", "./substrate_shm/...", "./substrate_verbs/...",
			"./internal/...", "./sockemu/...", "./agent/...", "./selector/...", "./adapt/...", "./intercept/...", "./bench/...", "./cmd/...",
		}, deep: true,
		reason: "a codec knows the bytes and the identities in them, not who sends them",
	},
	{
		from: []string{"./substrate/...", "./substrate_tcp/...", "./substrate_udp/...", "./substrate_shm/...", "./substrate_verbs/..."},
		to:   []string{"./internal/session/...", "./sockemu/...", "./selector/...", "./agent/...", "./bench/...", "./cmd/..."}, deep: true,
		reason: "a substrate moves bytes for whoever asks: sessions, offsets and replay live above it",
	},
	{
		from: []string{"./activemsg/verbs/..."},
		to: []string{
			"./activemsg", "./activemsg/rdma/...", "./substrate/...", "./substrate_verbs/...", "./internal/session/...", "./sockemu/...",
		}, deep: true,
		reason: "a provider of verbs knows queue pairs, not the messages that go over them",
	},
	{
		from: []string{"./activemsg/..."},
		to:   []string{"./internal/session/...", "./internal/endpoint/...", "./sockemu/...", "./selector/...", "./agent/..."}, deep: true,
		reason: "active messages are for programs without sockets, too",
	},
	{
		from: []string{"./activemsg"},
		to: []string{
			"./activemsg/rdma/...", "./activemsg/verbs/...", "./substrate_tcp/...", "./substrate_udp/...", "./substrate_shm/...",
			"./substrate_verbs/...", "./internal/...",
		}, deep: true,
		reason: "an endpoint knows the contract of carriers, not the kinds: those are handed to it",
	},
	{
		from: []string{"./internal/session/..."},
		to:   []string{"./sockemu/...", "./agent/...", "./intercept/...", "./bench/...", "./cmd/..."}, deep: true,
		reason: "the session is the core: the library, agents and commands are built on it, never the other way round",
	},
	{
		from:   []string{"./selector/..."},
		to:     []string{"net", "os", "os/...", "syscall", "./internal/...", "./wire/...", "./gid/...", "./sockemu/...", "./substrate_tcp/..."},
		reason: "the selector decides on figures that it is given: it can be run on any history of measurements",
	},
	{
		from: []string{"./internal/session/..."},
		to:   []string{"./substrate_tcp/...", "./substrate_udp/...", "./substrate_shm/...", "./substrate_verbs/..."}, deep: true,
		reason: "a session knows the contract of links, not the kinds: those are handed to it",
	},
	{
		from: []string{"./..."}, except: []string{"./internal/sys/...", "./cmd/...", "./bench/..."},
		to:     []string{"golang.org/x/sys/..."},
		reason: "the library's system calls live in internal/sys alone, with their fallbacks for systems that lack them",
	},
	{
		from: []string{"./..."}, except: []string{"./cmd/...", "./bench/..."},
		to: []string{"./cmd/...", "./bench/...", "github.com/alecthomas/kong", "charm.land/...", "github.com/quic-go/..."}, deep: true,
		reason: "who imports the library gets no command line, no terminal view and no benchmark with it",
	},
	{
		from: []string{"./..."}, except: []string{"./cmd/...", "./bench/...", "./internal/..."},
		to: []string{"./internal/relay/...", "./internal/netem/...", "testing", "github.com/stretchr/testify/..."}, deep: true,
		reason: "helpers of tests and of the demo stay out of programs that use the library",
	},
}

// exempt are packages that exist to be imported by tests, so the last rule would forbid what they are for.
var exempt = []string{"./substrate/substratetest/...", "./activemsg/verbs/verbstest/..."}

// A pkg is what go list says about one package. Tests aren't held to the rules: only what a package itself imports counts.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

// TestImports checks the rules on every system we build for: a file for one system can break one where the others don't.
func TestImports(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			for _, p := range list(t, goos) {
				for _, r := range rules {
					for _, dep := range broken(r, p) {
						t.Errorf("%s imports %s: %s", p.ImportPath, dep, r.reason)
					}
				}
			}
		})
	}
}

// TestMonotonic: where deadlines and silences are measured, nothing goes by a time of day: it jumps when somebody sets the clock. time.Since
// of what time.Now has returned doesn't, but what comes out of UnixNano has forgotten the other clock.
func TestMonotonic(t *testing.T) {
	for _, dir := range []string{"internal/session", "internal/endpoint", "selector", "substrate_tcp", "substrate_shm", "substrate_verbs", "activemsg"} {
		files, err := filepath.Glob(filepath.Join(root(t), dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			require.NotRegexp(t, `\.Unix(Nano|Micro|Milli)?\(\)`, string(text), f)
		}
	}
}

// TestRulesBite keeps the checker honest: each kind of pattern finds what it is for.
func TestRulesBite(t *testing.T) {
	r := rule{from: []string{"./a/..."}, except: []string{"./a/x"}, to: []string{"net", "./cmd/..."}}
	at := func(path string) string { return module + "/" + path }
	direct := pkg{ImportPath: at("a"), Imports: []string{"net", "net/http", "fmt", at("cmd/z")}, Deps: []string{"os", at("cmd/y")}}
	require.Equal(t, []string{"net", at("cmd/z")}, broken(r, direct))
	require.Empty(t, broken(r, pkg{ImportPath: at("ab"), Imports: []string{"net"}}))
	require.Empty(t, broken(r, pkg{ImportPath: at("a/x"), Imports: []string{"net"}}))
	r.deep = true
	require.Equal(t, []string{at("cmd/y")}, broken(r, direct)[2:])
	self := rule{from: []string{"./gid/..."}, to: []string{"./..."}}
	require.Empty(t, broken(self, pkg{ImportPath: at("gid/sub"), Imports: []string{at("gid")}}), "a folder may import its own")
}

// broken returns what p imports against r.
func broken(r rule, p pkg) []string {
	if !matchAny(r.from, p.ImportPath) || matchAny(r.except, p.ImportPath) || matchAny(exempt, p.ImportPath) {
		return nil
	}
	imports := slices.Clone(p.Imports)
	if r.deep {
		for _, d := range p.Deps {
			if strings.Contains(d, ".") && !slices.Contains(imports, d) {
				imports = append(imports, d)
			}
		}
	}
	var bad []string
	for _, dep := range imports {
		// A pattern as wide as "./..." covers the package's own folder too, which is no breach.
		if matchAny(r.to, dep) && !matchAny(r.except, dep) && !(slices.Contains(r.to, "./...") && matchAny(r.from, dep)) {
			bad = append(bad, dep)
		}
	}
	return bad
}

// matchAny reports whether one of the patterns stands for path.
func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if rest, ours := strings.CutPrefix(p, "./"); ours {
			if rest == "..." {
				return path == module || strings.HasPrefix(path, module+"/")
			}
			p = module + "/" + rest
		}
		below, tree := strings.CutSuffix(p, "/...")
		return path == below || tree && strings.HasPrefix(path, below+"/")
	})
}

// list asks the go command for every package of the module as goos sees it. Errors of single packages (-e) are the
// compiler's to report.
func list(t *testing.T, goos string) []pkg {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps,Standard", "./...")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOOS="+goos)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
	require.NotEmpty(t, pkgs)
	return pkgs
}

// root is the folder of the module's go.mod.
func root(t *testing.T) string {
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "go.mod"))
	return dir
}
