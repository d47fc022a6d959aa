package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrCannotTell is the error, or wrapped in it, when a question has an answer that
// depends on something which is not known. Packages that answer such questions
// have it under their own name.
var ErrCannotTell = errors.New("cannot tell")

// A Content is bytes of known size that can be read more than once. Contents
// are told apart by identity, so an implementation must be comparable; use a
// pointer.
type Content interface {
	io.ReaderAt
	// Size returns the number of bytes.
	Size() int64
}

// Bytes returns a Content that holds b.
func Bytes(b []byte) Content { return bytes.NewReader(b) }

// A Measurement is what one event hashes, before it is hashed.
type Measurement struct {
	PCR         PCR
	Type        EventType
	Data        []byte // event data, see Event.Data
	Description string
	Content     Content // what is hashed
}

// An Image is what a boot loader hands over and measures: a UKI after
// systemd-stub's rules have been applied, or a bare kernel.
type Image struct {
	// Kernel is the file that the kernel's loader gets, without the padding
	// that a PE section puts behind it.
	Kernel Content
	// Initrd is the pieces that, one after the other, are the kernel's initrd.
	// Empty if there is none.
	Initrd []Content
	// Cmdline is the final kernel command line.
	Cmdline string
	// Measurements are what is measured, in order.
	Measurements []Measurement
}

// InitrdSize returns the size of the whole initrd in bytes, 0 if there is none.
func (m *Image) InitrdSize() int64 {
	var n int64
	for _, c := range m.Initrd {
		n += c.Size()
	}
	return n
}

// ReadAll returns all bytes of c, which must not be more than limit.
func ReadAll(c Content, limit int64) ([]byte, error) {
	if c.Size() > limit {
		return nil, fmt.Errorf("%d bytes: more than %d", c.Size(), limit)
	}
	b := make([]byte, c.Size())
	if err := readFull(c, b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// readFull fills b from c at off. A Content that ends early is an error.
func readFull(c Content, b []byte, off int64) error {
	n, err := c.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
