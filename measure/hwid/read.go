package hwid

import (
	"fmt"
	"io"

	"github.com/mkexec/mkexec/measure"
)

// readAt fills b from c at off. A Content that ends early is an error.
func readAt(c measure.Content, b []byte, off int64) error {
	n, err := c.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at %d: %w", off, err)
}
