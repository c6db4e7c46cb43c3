package ctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

const filesHelp = "`FILE` of resources in YAML or JSON, a folder of them, or - for standard input; may be repeated"

// readFiles reads the resources of all files. Every fault of every file is told at once.
func readFiles(names []string, stdin io.Reader) ([]manifest.Item, error) {
	var items []manifest.Item
	var faults []error
	paths, err := expand(names)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		found, err := readFile(path, stdin)
		if err != nil {
			faults = append(faults, err)
		}
		items = append(items, found...)
	}
	faults = append(faults, manifest.Unique(items))
	switch err := errors.Join(faults...); {
	case err != nil:
		return nil, fmt.Errorf("nothing was done:\n%w", err)
	case len(items) == 0:
		return nil, fmt.Errorf("there are no resources in %s", strings.Join(names, ", "))
	}
	return items, nil
}

func readFile(path string, stdin io.Reader) ([]manifest.Item, error) {
	if path == "-" {
		return manifest.Read("stdin", stdin)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return manifest.Read(path, file)
}

// expand replaces folders by the manifests in them, in order of names.
func expand(names []string) ([]string, error) {
	var paths []string
	for _, name := range names {
		if info, err := os.Stat(name); name == "-" || err != nil || !info.IsDir() {
			paths = append(paths, name)
			continue
		}
		found, err := manifests(name)
		if err != nil {
			return nil, err
		}
		paths = append(paths, found...)
	}
	if slices.Index(paths, "-") != lastIndex(paths, "-") {
		return nil, daemon.Usage("standard input (-) can be read once only")
	}
	return paths, nil
}

func manifests(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, entry := range entries {
		switch filepath.Ext(entry.Name()) {
		case ".yaml", ".yml", ".json":
			if !entry.IsDir() {
				paths = append(paths, filepath.Join(folder, entry.Name()))
			}
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("folder %s has no .yaml, .yml or .json file", folder)
	}
	return paths, nil
}

func lastIndex(values []string, wanted string) int {
	for i := len(values) - 1; i >= 0; i-- {
		if values[i] == wanted {
			return i
		}
	}
	return -1
}

func resources(items []manifest.Item) []*clearwayv1.Resource {
	var list []*clearwayv1.Resource
	for _, item := range items {
		list = append(list, clearwayv1.Wrap(item.Object))
	}
	return list
}
