package daemon

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// version is set by the linker: -X github.com/clearway/clearway/cmd/internal/daemon.version=v1.2.3
var version string

// BuildInfo tells which build a program is.
type BuildInfo struct {
	Version  string `json:"version"`            // a release, or "devel"
	Revision string `json:"revision,omitempty"` // of the source repository; "-dirty" follows when it had changes
	Time     string `json:"time,omitempty"`     // of the revision, RFC 3339
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Version reads the program's build information.
func Version() BuildInfo {
	info := BuildInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	settings := map[string]string{}
	for _, setting := range build.Settings {
		settings[setting.Key] = setting.Value
	}
	info.Revision, info.Time = settings["vcs.revision"], settings["vcs.time"]
	if info.Revision != "" && settings["vcs.modified"] == "true" {
		info.Revision += "-dirty"
	}
	if info.Version == "" {
		info.Version = strings.Trim(build.Main.Version, "()")
	}
	if info.Version == "" {
		info.Version = "devel"
	}
	return info
}

// String writes it in one line.
func (b BuildInfo) String() string {
	text := b.Version
	if b.Revision != "" {
		text += " (" + b.Revision + ")"
	}
	return fmt.Sprintf("%s %s %s", text, b.Go, b.Platform)
}
