package integration

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/clearway/clearway/integration/kubeapi"
	"github.com/clearway/clearway/integration/lab"
)

func TestMain(m *testing.M) {
	lab.ServeChild()
	kubeapi.Main()
	code := m.Run()
	if code == 0 {
		for _, err := range []error{goleak.Find(), lab.Leftovers()} {
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// built makes the binaries once for all tests.
var built = sync.OnceValues(func() (string, error) { return lab.Build(context.Background()) })
