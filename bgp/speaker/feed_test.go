package speaker

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// birdFeed is BIRD with n routes, each of its own MED where alone: then no two of them fit in one UPDATE, as it is
// with blocks that each have a next hop of their own.
func birdFeed(n int, alone bool) string {
	var routes strings.Builder
	for i := range n {
		attribute := ""
		if alone {
			attribute = fmt.Sprintf(" { bgp_med = %d; }", i+1)
		}
		fmt.Fprintf(&routes, "route 10.%d.%d.%d/26 blackhole%s;\n", i>>10, i>>2&255, i&3<<6, attribute)
	}
	return strings.Replace(birdConf, "route 10.244.9.0/26 blackhole; route 0.0.0.0/0 blackhole;", routes.String(), 1)
}

// All routes of a peer arrive, many in an UPDATE or one; the time is logged. CLEARWAY_FEED sets how many.
func TestFeedFromBIRD(t *testing.T) {
	n := 10000
	if text := os.Getenv("CLEARWAY_FEED"); text != "" {
		n, _ = strconv.Atoi(text)
	}
	for name, alone := range map[string]bool{"ManyInAnUpdate": false, "OneInAnUpdate": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.bird(birdFeed(n, alone))
			node := l.speaker(false)
			node.set(t, nodeDesired("10.200.0.0/26"))
			eventually(t, 60*time.Second, func() bool {
				return node.sees().Prefixes == n+1 && node.established()
			}, func() any { return node.sees().Prefixes })
			rss, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", node.cmd.Process.Pid))
			for _, line := range strings.Split(string(rss), "\n") {
				if strings.HasPrefix(line, "VmRSS") {
					t.Logf("%d routes in %s; %s", n, node.sees().Took.Round(time.Millisecond), line)
					node.stdin.Close()
					node.cmd.Wait()
				}
			}
		})
	}
}
