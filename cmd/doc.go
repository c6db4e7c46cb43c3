// Package cmd holds the programs, each wiring rooms together, and the tests of the house's rules: which package may
// import what (imports_test.go), and that each tells what it is for.
package cmd
