// Command image builds Clearway's container image without Docker and without a registry: the static binaries on an
// empty base, in one layer, as an archive that "docker load", "podman load" and "ctr images import" take. Two builds of
// the same binaries give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// binaries are what the image holds, under /usr/bin: one image serves ipamd, the agent and the plugin's installer.
var binaries = []string{"clearway-ipamd", "clearway-agent", "clearway-ipam", "clearwayctl"}

// plugins are what "clearway-agent cni install" puts on a host.
var plugins = []string{"clearway-ipam", "ptp", "portmap", "bandwidth", "loopback"}

const (
	pluginFolder = "usr/lib/clearway/cni/"
	conflist     = "10-clearway.conflist"
)

// epoch stamps every file, so that the image's digest depends on its content alone.
var epoch = time.Unix(0, 0).UTC()

func main() {
	version := flag.String("version", "dev", "the image's tag")
	out := flag.String("out", "dist", "folder of the archive")
	bin := flag.String("bin", "bin", "folder of the binaries; the plugins are in cni/ in it")
	conf := flag.String("conflist", "deploy/cni/"+conflist, "file of the network's configuration")
	flag.Parse()
	if err := run(*version, *bin, *conf, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(version, bin, conf, out string) error {
	layer, err := layerOf(bin, conf)
	if err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("append layer: %w", err)
	}
	if image, err = configure(image, version); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	tag, err := name.NewTag("clearway/clearway:" + version)
	if err != nil {
		return fmt.Errorf("-version %q: %w", version, err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	archive := filepath.Join(out, "clearway-"+version+".tar")
	if err := tarball.WriteToFile(archive, tag, image); err != nil {
		return fmt.Errorf("write %s: %w", archive, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s %s %s\n", archive, tag, digest)
	return nil
}

func configure(image v1.Image, version string) (v1.Image, error) {
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = runtime.GOARCH, "linux" // of the machine that built the binaries
	file.Config.Env = []string{"PATH=/usr/bin"}
	file.Config.Labels = map[string]string{
		"org.opencontainers.image.title":    "clearway",
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	return mutate.ConfigFile(image, file)
}

func layerOf(bin, conf string) (v1.Layer, error) {
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, folder := range []string{"usr/", "usr/bin/", "usr/lib/", "usr/lib/clearway/", pluginFolder, "etc/", "run/", "tmp/", "var/", "var/lib/"} {
		header := &tar.Header{Name: folder, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: epoch, Format: tar.FormatPAX}
		if folder == "tmp/" {
			header.Mode = 0o1777
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	for _, binary := range binaries {
		if err := addFile(archive, filepath.Join(bin, binary), "usr/bin/"+binary, 0o755); err != nil {
			return nil, err
		}
	}
	for _, plugin := range plugins {
		if err := addFile(archive, filepath.Join(bin, "cni", plugin), pluginFolder+plugin, 0o755); err != nil {
			return nil, err
		}
	}
	if err := addFile(archive, conf, pluginFolder+conflist, 0o644); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	})
}

func addFile(archive *tar.Writer, path, name string, mode int64) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w (make build plugins makes it)", err)
	}
	header := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: epoch, Format: tar.FormatPAX}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = archive.Write(content)
	return err
}
