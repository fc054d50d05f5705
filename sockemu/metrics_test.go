package sockemu

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMetrics(t *testing.T) {
	a, err := NewEndpoint(Config{})
	require.NoError(t, err)
	b, err := NewEndpoint(Config{})
	require.NoError(t, err)
	defer b.Close()
	defer a.Close()
	l, err := b.Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, err := a.Dial(context.Background(), "tcp", l.Addr().String())
	require.NoError(t, err)
	s, err := l.AcceptConn()
	require.NoError(t, err)
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 5))
	require.NoError(t, err)

	m := a.Metrics()
	require.Equal(t, 1, m.Connections)
	require.EqualValues(t, 1, m.Opened)
	require.EqualValues(t, 5, m.SentBytes)
	require.EqualValues(t, 5, b.Metrics().ReceivedBytes)
	_, err = json.Marshal(m)
	require.NoError(t, err)

	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
	<-c.s.Done()
	require.EqualValues(t, 1, a.Metrics().EndedOK)
	require.EqualValues(t, 5, a.Metrics().SentBytes, "ended connections still count")

	var out bytes.Buffer
	require.NoError(t, a.WritePrometheus(&out))
	line := regexp.MustCompile(`^(# (HELP|TYPE) sockemu_[a-z_]+ .+|sockemu_[a-z_]+(\{how="[a-z]+"\})? \d+)$`)
	for _, l := range bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n")) {
		require.Regexp(t, line, string(l))
	}
	require.Contains(t, out.String(), `sockemu_ended_total{how="ok"} 1`)
}
