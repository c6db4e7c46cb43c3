// Package view is how clearwayctl shows resources to people: kinds by the names that people type, tables of plain
// columns, and descriptions. It is pure: resources in, text out.
package view
