// Command pod is what the tests' containers run: the sandbox's first process, which does nothing, and with "serve" a server
// that tells whoever connects to port 8080 the name of its Pod.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// A first process of a PID namespace ends by no signal that it does not ask for.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		go serve()
	}
	<-stop
}

func serve() {
	name, err := os.Hostname()
	if err != nil {
		fail(err)
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		fail(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fail(err)
		}
		fmt.Fprintln(conn, name)
		conn.Close()
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "pod:", err)
	os.Exit(1)
}
