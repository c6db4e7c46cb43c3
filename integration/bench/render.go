package bench

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// WriteText writes the report for a terminal.
func (r *Report) WriteText(w io.Writer) error { return r.write(w, textStyle{}) }

// WriteMarkdown writes it as docs/benchmarks.md keeps it.
func (r *Report) WriteMarkdown(w io.Writer) error { return r.write(w, markdownStyle{}) }

// style is how the parts of a report look.
type style interface {
	heading(string) string
	bullet(string) string
	table(table.Writer) string
}

func (r *Report) write(w io.Writer, as style) error {
	var out strings.Builder
	fmt.Fprint(&out, as.heading("The machine, "+r.Time.Format("2006-01-02")))
	fmt.Fprintln(&out, as.table(r.Machine.table()))
	for _, result := range r.Results {
		fmt.Fprint(&out, as.heading(result.Title))
		for _, sentence := range result.Method {
			fmt.Fprintln(&out, as.bullet(sentence))
		}
		for _, compared := range result.Tables {
			fmt.Fprintf(&out, "\n%s\n", as.table(compared.writer()))
		}
		if len(result.Targets) > 0 {
			fmt.Fprintf(&out, "\n%s\n", as.table(targetTable(result.Targets)))
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// writer lays a Table out: a column for each contender, then one for the ratio to each rival.
func (t Table) writer() table.Writer {
	made := table.NewWriter()
	header := table.Row{t.Title}
	for _, name := range t.Contenders {
		header = append(header, name)
	}
	for _, name := range t.Contenders[1:] {
		header = append(header, "vs "+name)
	}
	made.AppendHeader(header)
	for _, each := range t.Rows {
		made.AppendRow(each.cells(len(t.Contenders)))
	}
	numbersRight(made, len(header))
	return made
}

func (r Row) cells(contenders int) table.Row {
	cells := table.Row{r.label()}
	for i := range contenders {
		if i < len(r.Values) {
			cells = append(cells, formatNumber(float64(r.Values[i])))
		} else {
			cells = append(cells, "")
		}
	}
	for i := 1; i < contenders; i++ {
		cells = append(cells, formatRatio(r.ratio(i)))
	}
	return cells
}

func (r Row) label() string {
	if r.MoreIsBetter {
		return fmt.Sprintf("%s (%s, more is better)", r.Metric, r.Unit)
	}
	return fmt.Sprintf("%s (%s)", r.Metric, r.Unit)
}

func targetTable(targets []Target) table.Writer {
	made := table.NewWriter()
	made.AppendHeader(table.Row{"Target", "wanted", "measured", ""})
	for _, target := range targets {
		verdict := "reached"
		if !target.Met {
			verdict = "MISSED"
		}
		made.AppendRow(table.Row{target.Name, target.Want, target.Got, verdict})
	}
	return made
}

func numbersRight(made table.Writer, columns int) {
	var configs []table.ColumnConfig
	for number := 2; number <= columns; number++ {
		configs = append(configs, table.ColumnConfig{Number: number, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	made.SetColumnConfigs(configs)
}

// formatNumber keeps three significant digits, or the whole number where that has more.
func formatNumber(value float64) string {
	switch size := math.Abs(value); {
	case math.IsNaN(value):
		return "-"
	case size >= 100:
		return groupThousands(int64(math.Round(value)))
	case size >= 10:
		return fmt.Sprintf("%.1f", value)
	case size >= 1:
		return fmt.Sprintf("%.2f", value)
	default:
		return fmt.Sprintf("%.3f", value)
	}
}

func groupThousands(value int64) string {
	if value < 0 {
		return "-" + groupThousands(-value)
	}
	if value < 1000 {
		return fmt.Sprint(value)
	}
	return fmt.Sprintf("%s,%03d", groupThousands(value/1000), value%1000)
}

func formatRatio(value float64) string {
	if math.IsNaN(value) {
		return "-"
	}
	return fmt.Sprintf("%.2fx", value)
}

type textStyle struct{}

func (textStyle) heading(title string) string { return "\n" + text.Bold.Sprint(title) + "\n" }
func (textStyle) bullet(sentence string) string {
	lines := strings.Split(text.WrapSoft(sentence, 110), "\n")
	for i, line := range lines {
		lines[i] = "    " + strings.TrimRight(line, " ")
	}
	lines[0] = "  - " + strings.TrimLeft(lines[0], " ")
	return strings.Join(lines, "\n")
}

func (textStyle) table(made table.Writer) string {
	made.SetStyle(table.StyleLight)
	made.Style().Format.Header = text.FormatDefault
	return made.Render()
}

type markdownStyle struct{}

func (markdownStyle) heading(title string) string   { return "\n## " + title + "\n\n" }
func (markdownStyle) bullet(sentence string) string { return "* " + sentence }

func (markdownStyle) table(made table.Writer) string {
	made.Style().Format.Header = text.FormatDefault
	return made.RenderMarkdown()
}
