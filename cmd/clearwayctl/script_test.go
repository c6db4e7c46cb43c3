package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/proto/manifest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"clearwayctl": main})
}

// TestScripts runs the real command against a server in memory. Beside testscript's own commands, a script has:
//
//	ctl CODE ARG...      runs clearwayctl; its exit code must be CODE
//	seed FILE            stores resources as they stand, of any kind
//	fail CODE MESSAGE    every call to the server fails so (INTERNAL, ...) from now on; "fail OK" ends that
//	warn MESSAGE         every list has a warning
//	calls WANT...        one of the calls made so far has this text
//	follower ADDR [N]    starts a server at $FOLLOWER that names ADDR as its leader, after N times of knowing none
//	agent                starts an agent's socket at $SOCKET: the same resources, and no IPAMService
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) < 8 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("UPDATE_GOLDEN") != "",
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ctl": ctlCommand, "seed": seedCommand, "fail": failCommand, "warn": warnCommand, "calls": callsCommand,
			"follower": followerCommand, "agent": agentCommand,
		},
	})
}

type stage struct{ server *fake }

func setup(env *testscript.Env) error {
	scene := &stage{server: newFake()}
	address, stop, err := scene.server.serve("tcp", "127.0.0.1:0", true)
	if err != nil {
		return err
	}
	env.Defer(stop)
	env.Values["stage"] = scene
	env.Setenv("CLEARWAY_SERVER", address)
	env.Setenv("CLEARWAY_INSECURE", "true")
	return nil
}

func scene(ts *testscript.TestScript) *stage { return ts.Value("stage").(*stage) }

func ctlCommand(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec("clearwayctl", args[1:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func seedCommand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		items, err := manifest.ReadBack(name, strings.NewReader(ts.ReadFile(name)))
		ts.Check(err)
		for _, item := range items {
			scene(ts).server.seed(item.Object)
		}
	}
}

func failCommand(ts *testscript.TestScript, _ bool, args []string) {
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(strconv.Quote(args[0]))); err != nil {
		ts.Fatalf("%v", err)
	}
	server := scene(ts).server
	server.mu.Lock()
	defer server.mu.Unlock()
	server.failure = status.Error(code, strings.Join(args[1:], " "))
}

func warnCommand(ts *testscript.TestScript, _ bool, args []string) {
	server := scene(ts).server
	server.mu.Lock()
	defer server.mu.Unlock()
	server.warnings = args
}

func callsCommand(ts *testscript.TestScript, neg bool, args []string) {
	server := scene(ts).server
	server.mu.Lock()
	defer server.mu.Unlock()
	if got := strings.Join(server.calls, "\n"); strings.Contains(got, strings.Join(args, " ")) == neg {
		ts.Fatalf("calls:\n%s", got)
	}
}

func followerCommand(ts *testscript.TestScript, _ bool, args []string) {
	follower := newFake()
	follower.leader = args[0]
	if len(args) > 1 {
		leaderless, err := strconv.Atoi(args[1])
		ts.Check(err)
		follower.leaderless = leaderless
	}
	address, stop, err := follower.serve("tcp", "127.0.0.1:0", true)
	ts.Check(err)
	ts.Defer(stop)
	ts.Setenv("FOLLOWER", address)
}

func agentCommand(ts *testscript.TestScript, _ bool, _ []string) {
	// Sockets' paths are short; a test's folder is not always.
	folder, err := os.MkdirTemp("", "ctl")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(folder) })
	path := filepath.Join(folder, "agent.sock")
	_, stop, err := scene(ts).server.serve("unix", path, false)
	ts.Check(err)
	ts.Defer(stop)
	ts.Setenv("SOCKET", path)
}
