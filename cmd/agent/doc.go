// Command clearway-agent runs on each node: it hands addresses to Pods over a unix socket, advertises the node's blocks
// by BGP and programs what it learns into the kernel.
//
// This package is wiring: it reads the settings, joins the rooms of ipam and bgp, which do not know each other, and
// serves what they answer.
package main
