package fib

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// kernelError is the kernel's refusal of a request.
type kernelError struct {
	errno unix.Errno
	words string // the kernel's own sentence, where it gave one
}

// Error gives the refusal in words, the errno's name with them.
func (e kernelError) Error() string {
	text := fmt.Sprintf("kernel refused: %s (%s)", e.errno.Error(), unix.ErrnoName(e.errno))
	if e.words != "" {
		text += ": " + e.words
	}
	return text
}

// Unwrap gives the errno, for errors.Is.
func (e kernelError) Unwrap() error { return e.errno }
