package sockemu_test

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMessageIsOrder: who has read a message may read what its sender wrote to memory before, and the race detector knows it (`go test -race`), as with TCP.
func TestMessageIsOrder(t *testing.T) {
	for _, path := range []string{"tcp", "shm"} {
		t.Run(path, func(t *testing.T) {
			_, _, a, b := couple(t, "pin:"+path, "pin:"+path)
			require.Equal(t, path, a.Stats().Substrate)
			written := 0
			go func() {
				written = 1
				b.Write([]byte{0})
			}()
			<-time.After(20 * time.Millisecond) // a message that has to wake its reader would be order enough
			var one [1]byte
			_, err := io.ReadFull(a, one[:])
			require.NoError(t, err)
			require.Equal(t, 1, written)
		})
	}
}
