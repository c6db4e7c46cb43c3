// Command clearwayctl is the operator's hand and eye.
package main

import (
	"github.com/clearway/clearway/cmd/clearwayctl/internal/ctl"
	"github.com/clearway/clearway/cmd/internal/daemon"
)

func main() {
	daemon.Main(ctl.New())
}
