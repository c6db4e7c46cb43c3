package view

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/proto/clearway/v1"
)

// Style is how a table is shown.
type Style struct {
	Wide     bool      // all columns
	NoHeader bool      // rows only
	Now      time.Time // for ages
}

// column is one column of a kind's table.
type column[T any] struct {
	head string
	wide bool
	text func(T) string
}

// Table writes objects of one kind as a table, in natural order: numbers in names by value, addresses by value. Nil
// fields are shown as they would be by default.
func Table(to io.Writer, kind string, objects []clearwayv1.Object, style Style) error {
	layout, known := layouts(style.Now)[kind]
	if !known {
		return fmt.Errorf("kind %s has no table", kind)
	}
	return Rows(to, style, layout.heads(style), layout.rows(Sorted(objects), style))
}

// layout hides the type of the objects a table is of.
type layout interface {
	heads(Style) []string
	rows([]clearwayv1.Object, Style) [][]string
}

type columns[T clearwayv1.Object] []column[T]

func (c columns[T]) heads(style Style) []string {
	var heads []string
	for _, column := range c {
		if style.Wide || !column.wide {
			heads = append(heads, column.head)
		}
	}
	return heads
}

func (c columns[T]) rows(objects []clearwayv1.Object, style Style) [][]string {
	var rows [][]string
	for _, object := range objects {
		typed, ok := object.(T)
		if !ok {
			continue
		}
		var row []string
		for _, column := range c {
			if style.Wide || !column.wide {
				row = append(row, column.text(typed))
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// Rows writes a table of plain columns, as wide as their widest cell.
func Rows(to io.Writer, style Style, heads []string, rows [][]string) error {
	table := tabwriter.NewWriter(to, 0, 8, 3, ' ', 0)
	if !style.NoHeader {
		fmt.Fprintln(table, strings.Join(heads, "\t"))
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, text := range row {
			cells[i] = cell(text)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// cell makes a text fit a table: an empty one is "-", and control characters, which a peer or a Pod may have had a
// hand in, reach neither the layout nor the terminal.
func cell(text string) string {
	if text == "" {
		return "-"
	}
	return printable(text)
}

func printable(text string) string {
	return strings.Map(func(char rune) rune {
		if !unicode.IsPrint(char) {
			return ' '
		}
		return char
	}, text)
}

// Age writes how long ago a time was, in its two largest units: "3d4h". Unknown is "".
func Age(now time.Time, at *timestamppb.Timestamp) string {
	if at == nil || at.AsTime().IsZero() || at.AsTime().Unix() <= 0 {
		return ""
	}
	return Span(now.Sub(at.AsTime()))
}

// Span writes a duration in its two largest units; a negative one (clocks differ) is "0s".
func Span(span time.Duration) string {
	seconds := max(int64(span/time.Second), 0)
	units := []struct {
		name    string
		seconds int64
	}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}}
	for i, unit := range units {
		count := seconds / unit.seconds
		if count == 0 && unit.name != "s" {
			continue
		}
		text := fmt.Sprintf("%d%s", count, unit.name)
		if i+1 < len(units) && count < 10 {
			if rest := seconds % unit.seconds / units[i+1].seconds; rest > 0 {
				text += fmt.Sprintf("%d%s", rest, units[i+1].name)
			}
		}
		return text
	}
	return "0s"
}
