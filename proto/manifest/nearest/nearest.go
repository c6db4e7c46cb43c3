// Package nearest finds the known word that a mistyped one most likely meant, for "did you mean" in messages.
package nearest

import "strings"

// longest bounds the work on hostile input: nobody mistypes a name longer than this.
const longest = 64

// Name returns the candidate nearest to word, or "" when none is near. Case is ignored at no cost, a swap of two
// neighbours costs one, and at most a third of the word may differ. Of equally near ones the first wins.
func Name(word string, candidates []string) string {
	if len(word) > longest {
		return ""
	}
	best, limit := "", len(word)/3+1
	for _, candidate := range candidates {
		if len(candidate) > longest {
			continue
		}
		if cost := distance(strings.ToLower(word), strings.ToLower(candidate)); cost < limit {
			best, limit = candidate, cost
		}
	}
	return best
}

// Hint returns `; did you mean "X"?` for the nearest candidate, or "" when none is near.
func Hint(word string, candidates []string) string {
	name := Name(word, candidates)
	if name == "" {
		return ""
	}
	return `; did you mean "` + name + `"?`
}

// distance is Damerau's and Levenshtein's, with adjacent swaps (optimal string alignment), in three rows.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
