package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/clearway/clearway/cmd/internal/daemon"
)

// pluginProgram is the CNI plugin's name.
const pluginProgram = "clearway-ipam"

// callers is the agent's socket, and looks at the processes that call on it. A runtime's plugin runs where the
// runtime does: whether its process is visible here tells whether the machine's are.
type callers struct {
	net.Listener
	// seen is told the plugin's process, or 0 when the caller's is not visible here.
	seen func(pid int32)
	// known: a plugin's process was visible.
	known bool
}

// Accept implements net.Listener.
func (c *callers) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if peer, err := daemon.SocketPeer(conn); err == nil {
		c.judge(peer.Pid)
	}
	return conn, nil
}

func (c *callers) judge(pid int32) {
	switch {
	case pid == 0:
		c.known = false
	case c.known || !isPlugin(pid):
		return
	default:
		c.known = true
	}
	c.seen(pid)
}

func isPlugin(pid int32) bool {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && filepath.Base(program) == pluginProgram
}
