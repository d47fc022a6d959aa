package stub

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/mkexec/mkexec/measure/uki"
)

// features are texts in the stub's own code that tell whether it knows
// something, with the version that knew it first. Distributions patch stubs
// without changing the number. The names of sections are looked for as well.
var features = []struct {
	text  string // UTF-16 in the code
	since int
}{
	{SuffixAddon, 254},
	{SuffixConfext, 256},
	{"StubProfile", 257},
	{`\loader\extensions`, 258},
}

// ErrFeatures is wrapped in the error for a stub whose code does not fit its
// version. It is an ErrCannotTell.
var ErrFeatures = fmt.Errorf("whose rules it follows: %w", ErrCannotTell)

// maxCode bounds the sections that are looked at as code, in bytes; those of
// systemd-stub have less than a fifth of it.
const maxCode = 1 << 20

// checkFeatures compares what the stub's code knows with what its version says,
// and cannot tell the rules where they differ. An image without readable code,
// such as one for tests, is taken by its version.
func checkFeatures(f *uki.File, v uki.Stub) error {
	var code []byte
	for _, s := range f.Sections {
		payload := slices.ContainsFunc(canonicalOrder, func(known section) bool { return known.name == s.Name })
		_, size := s.FileRange()
		if payload || size > maxCode || len(code) > maxCode {
			continue
		}
		b := make([]byte, size)
		if _, err := s.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		code = append(append(code, b...), 0)
	}
	has := func(text []byte) bool { return bytes.Contains(code, text) }
	if !has([]byte(".linux\x00")) || !has([]byte(".pcrpkey\x00")) {
		return nil
	}
	check := func(what string, known bool, since int) error {
		switch {
		case known && since > v.Major:
			return fmt.Errorf("%s knows %s, which came with version %d; %w", v, what, since, ErrFeatures)
		case !known && since <= v.Major:
			return fmt.Errorf("%s does not know %s, which version %d has; %w", v, what, since, ErrFeatures)
		}
		return nil
	}
	for _, s := range canonicalOrder {
		if err := check("section "+s.name, has([]byte(s.name+"\x00")), s.since); err != nil {
			return err
		}
	}
	for _, x := range features {
		if err := check(x.text, has(utf16z(toUTF16(x.text))), x.since); err != nil {
			return err
		}
	}
	return nil
}
