// Package cniinstall puts CNI plugins and a network's configuration into a host's folders, and takes them out again.
//
// Each file appears whole or not at all, the configuration last: a runtime that sees it finds all that it names. What
// was put there is kept in a record beside the plugins, with checksums, so that files of others are never replaced or
// removed.
package cniinstall
