package cniinstall

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Conflist is what is to be known of a network's configuration.
type Conflist struct {
	Name       string
	CNIVersion string
	// Plugins are the programs that it names, each once.
	Plugins []string
}

type pluginConf struct {
	Type string `json:"type"`
	IPAM struct {
		Type string `json:"type"`
	} `json:"ipam"`
}

// ParseConflist reads a configuration list (CNI specification, section 1). The error tells all that is wrong with it.
func ParseConflist(text []byte) (Conflist, error) {
	var read struct {
		Name       string       `json:"name"`
		CNIVersion string       `json:"cniVersion"`
		Plugins    []pluginConf `json:"plugins"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return Conflist{}, fmt.Errorf("it is no JSON of a configuration list: %w", err)
	}
	var faults []error
	if read.Name == "" {
		faults = append(faults, errors.New("name is missing"))
	}
	if read.CNIVersion == "" {
		faults = append(faults, errors.New("cniVersion is missing"))
	}
	if len(read.Plugins) == 0 {
		faults = append(faults, errors.New("plugins names none"))
	}
	list := Conflist{Name: read.Name, CNIVersion: read.CNIVersion}
	for i, p := range read.Plugins {
		if p.Type == "" {
			faults = append(faults, fmt.Errorf("plugins[%d].type is missing", i))
		}
		for _, name := range []string{p.Type, p.IPAM.Type} {
			switch {
			case name == "" || slices.Contains(list.Plugins, name):
			case name != filepath.Base(name) || name[0] == '.':
				faults = append(faults, fmt.Errorf("plugins[%d] names program %q; it must be a file's name without a folder", i, name))
			default:
				list.Plugins = append(list.Plugins, name)
			}
		}
	}
	return list, errors.Join(faults...)
}
