package lab

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"
)

// image says what runs in a node: it stands for the container image of that name.
type image interface {
	// start runs the image's programs and the file's exec commands, in the order that suits them. It is called once
	// after each boot, when the node's links are there.
	start(ctx context.Context, n *Node) error
	// needs names the host's programs the image is made of.
	needs() []string
}

// imageOf chooses by the last part of the image's name, without its tag: "quay.io/frrouting/frr:10.4.1" is frr.
func imageOf(name string) image {
	base, _, _ := strings.Cut(path.Base(name), "@")
	base, _, _ = strings.Cut(base, ":")
	switch {
	case base == "frr":
		return frrImage{}
	case strings.HasPrefix(base, "bird"):
		return birdImage{}
	default:
		return hostImage{programs[base]}
	}
}

// programs are what images of other speakers are made of; cmd starts them.
var programs = map[string][]string{
	"openbgpd": {"bgpd", "bgpctl"},
	"exabgp":   {"exabgp"},
	"gobgpd":   {"gobgpd", "gobgp"},
}

// hostImage is a machine without a router's programs, or with some that cmd starts: exec gives it its addresses, then cmd
// runs. containerlab starts cmd a moment earlier; a daemon has to live with either order.
type hostImage struct{ programs []string }

func (h hostImage) needs() []string { return append([]string{"ip"}, h.programs...) }

func (hostImage) start(ctx context.Context, n *Node) error {
	if err := n.execAll(ctx); err != nil {
		return err
	}
	return n.startCommand()
}

// birdImage is BIRD as Debian packages it (bird2).
type birdImage struct{}

func (birdImage) needs() []string { return []string{"bird", "birdc", "ip"} }

func (birdImage) start(ctx context.Context, n *Node) error {
	if err := n.execAll(ctx); err != nil {
		return err
	}
	var config string
	err := n.Do(func() error {
		for _, config = range []string{"/etc/bird.conf", "/etc/bird/bird.conf"} {
			if info, err := os.Stat(config); err == nil && info.Mode().IsRegular() {
				return os.MkdirAll("/run/bird", 0o755)
			}
		}
		return fmt.Errorf("bird: neither /etc/bird.conf nor /etc/bird/bird.conf is bound")
	})
	if err != nil {
		return err
	}
	if _, err := n.Exec(ctx, "bird", "-p", "-c", config); err != nil {
		return err
	}
	bird, err := n.Start("bird", "bird", "-f", "-c", config)
	if err != nil {
		return err
	}
	return waitFor(ctx, bird, func() error {
		_, err := n.Exec(ctx, "birdc", "show", "status")
		return err
	})
}

// frrImage is FRR as Debian packages it: the daemons that /etc/frr/daemons asks for, configured from
// /etc/frr/frr.conf.
type frrImage struct{}

func (frrImage) needs() []string {
	return []string{"/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "vtysh", "ip"}
}

// frrDaemons in the order FRR's own scripts start them.
var frrDaemons = []string{
	"zebra", "bgpd", "ripd", "ripngd", "ospfd", "ospf6d", "isisd", "babeld", "pimd", "pim6d", "ldpd", "nhrpd", "eigrpd",
	"pbrd", "staticd", "bfdd", "fabricd", "vrrpd", "pathd",
}

func (frrImage) start(ctx context.Context, n *Node) error {
	var settings map[string]string
	err := n.Do(func() error {
		if err := makeOwned("frr", "/run/frr", "/var/log/frr", "/var/tmp/frr"); err != nil {
			return err
		}
		if _, err := os.Stat("/etc/frr/vtysh.conf"); err != nil {
			if err := os.WriteFile("/etc/frr/vtysh.conf", []byte("service integrated-vtysh-config\n"), 0o644); err != nil {
				return err
			}
		}
		text, err := os.ReadFile("/etc/frr/daemons")
		if err != nil {
			return fmt.Errorf("frr: %w", err)
		}
		settings, err = parseSettings(string(text))
		return err
	})
	if err != nil {
		return err
	}
	for _, daemon := range frrDaemons {
		always := daemon == "zebra" || daemon == "staticd"
		if !always && settings[daemon] != "yes" {
			continue
		}
		if err := startFRR(ctx, n, daemon, settings); err != nil {
			return err
		}
	}
	if _, err := n.Exec(ctx, "vtysh", "-b"); err != nil {
		return err
	}
	return n.execAll(ctx)
}

func startFRR(ctx context.Context, n *Node, daemon string, settings map[string]string) error {
	options, err := splitWords(settings["frr_global_options"] + " " + settings[daemon+"_options"])
	if err != nil {
		return fmt.Errorf("frr: daemons: %s_options: %w", daemon, err)
	}
	argv := []string{"/usr/lib/frr/" + daemon, "--log", "stdout"}
	if profile := settings["frr_profile"]; profile != "" {
		argv = append(argv, "-F", profile)
	}
	process, err := n.Start(daemon, append(argv, options...)...)
	if err != nil {
		return err
	}
	return waitFor(ctx, process, func() error {
		return n.Do(func() error {
			_, err := os.Stat("/run/frr/" + daemon + ".vty")
			return err
		})
	})
}

// parseSettings reads FRR's daemons file: shell assignments, nothing else.
func parseSettings(text string) (map[string]string, error) {
	settings := map[string]string{}
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		words, err := splitWords(value)
		if !found || err != nil || len(words) > 1 {
			return nil, fmt.Errorf("frr: daemons: line %d: want name=value, got %q", number+1, line)
		}
		settings[key] = strings.Join(words, "")
	}
	return settings, nil
}

// makeOwned makes folders that belong to a system user.
func makeOwned(name string, dirs ...string) error {
	owner, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			return err
		}
	}
	return nil
}
