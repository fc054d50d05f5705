package sockemu

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLogLinesAreDocumented: docs/operations.md has every message that the library logs.
func TestLogLinesAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	found := 0
	for _, dir := range []string{".", "../internal/endpoint", "../internal/session"} {
		files, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			source, err := os.ReadFile(f)
			require.NoError(t, err)
			for _, m := range regexp.MustCompile(`\blog(?:ger\(\))?\.(?:Debug|Info|Warn|Error|Log)\((?:ctx, level, )?"([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
				assert.Contains(t, string(b), m[1], f)
				found++
			}
		}
	}
	require.Greater(t, found, 15)
}

// TestOperationsAreDocumented: docs/operations.md has a row for every field of Config, and names every metric.
func TestOperationsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	rows := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 {
			for name := range strings.SplitSeq(cells[1], ",") {
				rows[strings.TrimSpace(name)] = true
			}
		}
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		assert.True(t, rows[f.Name], "Config.%s has no row", f.Name)
	}
	e, err := NewEndpoint(Config{Private: true})
	require.NoError(t, err)
	defer e.Close()
	var metrics strings.Builder
	require.NoError(t, e.WritePrometheus(&metrics))
	for _, m := range regexp.MustCompile(`(?m)^# TYPE sockemu_(\w+) `).FindAllStringSubmatch(metrics.String(), -1) {
		assert.Regexp(t, `\b`+m[1]+`\b`, string(b), "the metric isn't named")
	}
}
