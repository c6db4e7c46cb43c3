package manifest

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// parserProblems are messages of the YAML library's parser, whose lines count from 0; its scanner's count from 1.
var parserProblems = []string{
	"did not find expected key", "did not find expected ','", "did not find expected node content",
	"did not find expected '-' indicator", "did not find expected <document start>",
}

var (
	tabIndent     = regexp.MustCompile(`^[ ]*\t`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
)

// syntaxFault turns the YAML library's "yaml: line 7: ..." into a fault, with the line where a person finds it.
func syntaxFault(file string, content []byte, err error) *Fault {
	problem := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1 // the library leaves out the first
	if _, scan := fmt.Sscanf(problem, "line %d:", &line); scan == nil {
		_, problem, _ = strings.Cut(problem, ": ")
	}
	lines := bytes.Split(bytes.TrimRight(content, "\n"), []byte("\n"))
	for _, known := range parserProblems {
		if strings.HasPrefix(problem, known) && scanned(err) {
			line++
		}
	}
	switch anchor := unknownAnchor.FindStringSubmatch(problem); {
	case anchor != nil:
		line = find(lines, 1, func(text []byte) bool { return bytes.Contains(text, []byte("*"+anchor[1])) })
	case strings.HasPrefix(problem, "found a tab"), strings.HasPrefix(problem, "found character that cannot start"):
		line = find(lines, line, tabIndent.Match)
	}
	return &Fault{File: file, Line: min(line, len(lines)), Message: "bad YAML: " + problem}
}

// scanned tells whether the library gave a line.
func scanned(err error) bool { return strings.HasPrefix(err.Error(), "yaml: line ") }

// find returns the number of the first line, from one on, that is so; else the one it began with.
func find(lines [][]byte, from int, is func([]byte) bool) int {
	for i := from; i <= len(lines); i++ {
		if is(lines[i-1]) {
			return i
		}
	}
	return from
}
