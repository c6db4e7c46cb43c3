package lab

import (
	"fmt"
	"strings"
)

// splitWords cuts a command line into words as a POSIX shell would, without expanding anything: containerlab does
// the same with exec, cmd and entrypoint, so a shell must be asked for by name ("sh -c '...'").
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	var quote rune // the open quote, or 0
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			// Within double quotes a backslash is taken away only before these (POSIX 2.2.3).
			if quote == '"' && !strings.ContainsRune("\"\\$`", r) {
				word.WriteRune('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case strings.ContainsRune(" \t\n\r", r):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("command %q: the quote %c is not closed", line, quote)
	}
	if escaped {
		return nil, fmt.Errorf("command %q ends in a backslash", line)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
