package netns

import (
	"strconv"
	"strings"
)

// mounted reads a line of /proc/PID/mountinfo (proc(5)) for a mount of a network namespace: its number, and where.
func mounted(line string) (inode uint64, point string, ok bool) {
	const root, mountPoint = 3, 4 // fields, from 0
	fields := strings.Fields(line)
	if len(fields) <= mountPoint {
		return 0, "", false
	}
	digits, isNet := strings.CutPrefix(fields[root], "net:[")
	digits, closed := strings.CutSuffix(digits, "]")
	inode, err := strconv.ParseUint(digits, 10, 64)
	if !isNet || !closed || err != nil {
		return 0, "", false
	}
	return inode, unescape(fields[mountPoint]), true
}

// unescape undoes what the kernel does to spaces and the like: three octal digits after a backslash.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var plain strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				plain.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		plain.WriteByte(text[i])
	}
	return plain.String()
}
