package stub

import (
	"fmt"
	"io"
	"strings"

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

// LinuxEntry returns what systemd-boot does with a boot entry for a kernel that
// has no stub around it (Boot Loader Specification, type 1, key linux): it
// measures the load options that it makes, which name the initrds too, and
// nothing else. The names of the initrds are those in the entry. Each initrd but
// the last is padded with zero bytes to a multiple of 4 (systemd 257,
// src/boot/boot.c, initrd_prepare, image_start).
func LinuxEntry(linux measure.Content, initrds []File, options string) (*Boot, error) {
	var contents []measure.Content
	cmdline := ""
	for _, f := range initrds {
		contents = append(contents, f.Content)
		cmdline = Join(cmdline, "initrd="+efiPath(f.Name))
	}
	b, err := Bare(linux, contents, Join(cmdline, options))
	if err != nil {
		return nil, err
	}
	b.Measurements = nil
	b.Initrd = nil
	for i, c := range contents {
		b.Initrd = append(b.Initrd, c)
		if pad := padding(c.Size()); pad != "" && i < len(contents)-1 {
			b.Initrd = append(b.Initrd, measure.Bytes([]byte(pad)))
		}
	}
	if units := toUTF16(Join(cmdline, options)); len(units) > 0 {
		b.measureText(loadOptions, units)
	}
	return b, nil
}

// efiPath spells a path as systemd-boot does: with backslashes, and one where
// there are several (systemd 262, src/boot/util.c, convert_efi_path).
func efiPath(path string) string {
	path = strings.ReplaceAll(path, "/", `\`)
	for strings.Contains(path, `\\`) {
		path = strings.ReplaceAll(path, `\\`, `\`)
	}
	return path
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
