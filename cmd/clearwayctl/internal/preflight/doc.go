// Package preflight tells what of a host will keep Pods from their roads, before anything is installed on it. Gather reads
// the host's own files and changes nothing; Judge decides, without looking at anything but what was gathered.
package preflight
