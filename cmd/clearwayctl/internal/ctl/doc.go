// Package ctl is the clearwayctl command: each file is a command or a group of them. A command reads its arguments,
// makes its calls through package client within one deadline, and prints through packages view and manifest.
package ctl
