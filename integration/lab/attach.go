package lab

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Attach runs a command in a node of any lab on this host, with this process's own terminal, and waits for it.
func Attach(node RunningNode, argv []string) error {
	fd, err := unix.PidfdOpen(node.PID, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", node.Node, err)
	}
	c := &child{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	defer c.pidfd.Close()
	cmd := &exec.Cmd{
		Args: argv, Dir: "/", Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Env: append(os.Environ(), "PATH="+nodePATH, "HOME=/", "PS1=["+node.Node+"] # "),
	}
	err = c.inside(nil, func() error {
		if cmd.Path, err = lookPath(argv[0]); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", node.Node, err)
	}
	return cmd.Wait()
}
