package stub

import (
	"fmt"
	"io"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/uki"
)

// Bare returns what starting a kernel that is in no UKI does: it is measured as
// the newest stub would measure a UKI with the sections .linux, .cmdline and
// .initrd. Several initrds are one section, each padded to a multiple of 4, as
// ukify joins them. An empty command line is, as every empty section, not
// measured. An empty kernel or initrd is an error.
func Bare(linux measure.Content, initrds []measure.Content, cmdline string) (*Boot, error) {
	if linux.Size() == 0 {
		return nil, fmt.Errorf("kernel: empty")
	}
	if err := CheckCmdline(cmdline); err != nil {
		return nil, err
	}
	var parts [][]measure.Content
	for i, c := range initrds {
		if c.Size() == 0 {
			return nil, fmt.Errorf("initrd %d: empty", i+1)
		}
		parts = append(parts, []measure.Content{c})
	}
	b := &Boot{Stub: uki.Stub{Kind: uki.StubKindStub, Version: fmt.Sprint(NewestVersion), Major: NewestVersion}}
	b.Kernel = linux
	b.Cmdline = toUTF8(mangle(fromUTF8(cmdline), b.Stub))
	b.Initrd = join(parts)

	b.measureSection(".linux", linux)
	if cmdline != "" {
		b.measureSection(".cmdline", measure.Bytes([]byte(cmdline)))
	}
	if len(b.Initrd) > 0 {
		b.measureSection(".initrd", concat(b.Initrd))
	}
	return b, nil
}

// concat returns contents, one directly behind the other, as one.
func concat(parts []measure.Content) measure.Content {
	if len(parts) == 1 {
		return parts[0]
	}
	c := &concatenation{parts: parts}
	for _, p := range parts {
		c.size += p.Size()
	}
	return c
}

type concatenation struct {
	parts []measure.Content
	size  int64
}

func (c *concatenation) Size() int64 { return c.size }

func (c *concatenation) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for _, p := range c.parts {
		if off >= p.Size() {
			off -= p.Size()
			continue
		}
		want := b[n:][:min(int64(len(b)-n), p.Size()-off)]
		got, err := p.ReadAt(want, off)
		n += got
		if got < len(want) {
			return n, err
		}
		if n == len(b) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}
