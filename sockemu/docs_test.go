package sockemu

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
