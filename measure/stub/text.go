package stub

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure/uki"
)

// utf16z returns text in UTF-16LE with a NUL behind it, as EFI strings are and
// as command lines are measured.
func utf16z(units []uint16) []byte {
	var b []byte
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, 0, 0)
}

// fromUTF8 converts as the stub converts .cmdline: up to the first NUL, and
// without what is not valid UTF-8 or is beyond U+FFFF (systemd 262,
// src/boot/efi-string.c, xstrn8_to_16).
func fromUTF8(s string) []uint16 {
	s, _, _ = strings.Cut(s, "\x00")
	var units []uint16
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size <= 1 {
				continue
			}
		}
		if r <= 0xFFFF {
			units = append(units, uint16(r))
		}
	}
	return units
}

func toUTF16(s string) []uint16 { return utf16.Encode([]rune(s)) }

func toUTF8(units []uint16) string { return string(utf16.Decode(units)) }

// mangle makes a command line of text that was passed or embedded (systemd 262,
// src/boot/util.c, mangle_stub_cmdline; 252.3 to 254 keep leading spaces and do
// not know DEL; before 252.3 nothing is changed).
func mangle(units []uint16, v uki.Stub) []uint16 {
	if v.Major == 252 && v.Minor < 3 {
		return units
	}
	blank := func(u uint16) bool { return u <= 0x20 || u == 0x7F }
	if v.Major < 255 {
		blank = func(u uint16) bool { return u <= 0x1F }
	}
	out := make([]uint16, 0, len(units))
	for _, u := range units {
		switch {
		case v.Major >= 255 && len(out) == 0 && blank(u):
			continue
		case blank(u):
			u = ' '
		}
		out = append(out, u)
	}
	for len(out) > 0 && out[len(out)-1] == ' ' {
		out = out[:len(out)-1]
	}
	return out
}

// isGarbage tells whether the stub of that version takes LoadOptions for
// something other than text and ignores them (systemd 257 and 262,
// src/boot/stub.c, process_arguments). When that changed is known no better
// than: after 257, before 261.
func isGarbage(units []uint16, v uki.Stub) (bool, error) {
	first, any := false, false
	for i, u := range units {
		if u <= 0x1F {
			any = true
			first = first || i == 0
		}
	}
	switch {
	case v.Major <= 257 || first:
		return first, nil
	case v.Major >= 261 || !any:
		return any, nil
	}
	return false, fmt.Errorf("load options: control characters: whether %s ignores all of the options for them: %w", v, ErrCannotTell)
}

// SplitProfile splits the choice of a profile off the beginning of load options
// as the stub does since 257: "@", digits, and then the end or a space, which
// goes too (systemd 262, src/boot/stub.c, parse_profile_from_cmdline). ok is
// false if they do not choose one.
func SplitProfile(options string) (number, rest string, ok bool) {
	number, ok = strings.CutPrefix(options, "@")
	number, rest, _ = strings.Cut(number, " ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return "", options, false
	}
	return number, rest, true
}
