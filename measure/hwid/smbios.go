package hwid

import (
	"bytes"
	"fmt"
	"strings"
)

// The types of SMBIOS structures that the stub looks for (DMTF DSP0134 3.7,
// section 7).
const (
	typeSystem     = 1
	typeBaseboard  = 2
	typeOEMStrings = 11
	typeEnd        = 127
)

// The shortest formatted areas in which the stub looks for strings, in bytes
// (systemd 262, src/boot/smbios.c, smbios_raw_info_populate).
const (
	minSystem    = 27
	minBaseboard = 8
	oemStrings   = 5 // exactly that: the stub expects the strings there
)

// cmdlineExtra begins the OEM string that holds a command line (systemd 262,
// src/boot/stub.c, cmdline_append_and_measure_smbios).
const cmdlineExtra = "io.systemd.stub.kernel-cmdline-extra="

// A structure is one SMBIOS structure.
type structure struct {
	formatted []byte // with the header; at least 4 bytes
	strings   []string
}

// parseStructure parses the structure that b begins with, and returns what is
// behind it: the formatted area, whose size is its second byte, then the strings,
// each with a NUL, and a NUL; two NULs if there is no string (DSP0134 3.7,
// sections 6.1.2 and 6.1.3).
func parseStructure(b []byte) (s structure, rest []byte, err error) {
	if len(b) < 4 {
		return s, nil, fmt.Errorf("%d bytes: no header", len(b))
	}
	size := int(b[1])
	if size < 4 || size > len(b) {
		return s, nil, fmt.Errorf("type %d: formatted area of %d bytes: not 4 to the %d that there are", b[0], size, len(b))
	}
	s.formatted, rest = b[:size], b[size:]
	if text, ok := bytes.CutPrefix(rest, []byte{0, 0}); ok {
		return s, text, nil
	}
	for {
		text, behind, terminated := bytes.Cut(rest, []byte{0})
		if !terminated {
			return s, nil, fmt.Errorf("type %d: string %d: no NUL before the end", b[0], len(s.strings)+1)
		}
		if rest = behind; len(text) == 0 {
			break
		}
		s.strings = append(s.strings, string(text))
	}
	if len(s.strings) == 0 {
		return s, nil, fmt.Errorf("type %d: one NUL where two mean that there is no string", b[0])
	}
	return s, rest, nil
}

// text returns the string whose number is the byte at off, "" for number 0 and for
// a number that no string has, as the stub and Linux do.
func (s structure) text(off int) string {
	n := int(s.formatted[off])
	if n == 0 || n > len(s.strings) {
		return ""
	}
	return s.strings[n-1]
}

// parseTable finds the first structures of the types that the stub looks for in
// an SMBIOS table. Others of the same type are never looked at (systemd 262,
// src/boot/smbios.c, get_smbios_table).
func parseTable(table []byte) (map[byte]structure, error) {
	first := map[byte]structure{}
	for b := table; len(b) > 0; {
		s, rest, err := parseStructure(b)
		if err != nil {
			return nil, fmt.Errorf("SMBIOS table: offset %d: %w", len(table)-len(b), err)
		}
		t := s.formatted[0]
		if t == typeEnd {
			break
		}
		if _, seen := first[t]; !seen && (t == typeSystem || t == typeBaseboard || t == typeOEMStrings) {
			first[t] = s
		}
		b = rest
	}
	return first, nil
}

// smbiosFacts returns the strings in the first structures of a table. A structure
// that is shorter than the stub expects is as good as none.
func smbiosFacts(first map[byte]structure) SMBIOS {
	fact := func(typ byte, size, off int) Fact {
		s, ok := first[typ]
		if !ok || len(s.formatted) < size {
			return Known("")
		}
		return textFact(s.text(off))
	}
	return SMBIOS{
		Manufacturer:          fact(typeSystem, minSystem, 4),
		ProductName:           fact(typeSystem, minSystem, 5),
		SKU:                   fact(typeSystem, minSystem, 25),
		Family:                fact(typeSystem, minSystem, 26),
		BaseboardManufacturer: fact(typeBaseboard, minBaseboard, 4),
		BaseboardProduct:      fact(typeBaseboard, minBaseboard, 5),
	}
}

// textFact returns the fact that a string is s, or an unknown one where the stub
// would convert it with loss.
func textFact(s string) Fact {
	if checkText(s) != nil {
		return nil
	}
	return Known(s)
}

// oemString returns what follows key in the OEM strings, "" if there is none. The
// first string that begins so counts (systemd 262, src/boot/smbios.c,
// smbios_find_oem_string). A structure whose count of strings, its fifth byte,
// is wrong is refused: the stub does not look at it.
func oemString(s structure, key string) (string, error) {
	if len(s.formatted) != oemStrings {
		return "", fmt.Errorf("OEM strings: formatted area of %d bytes: not %d", len(s.formatted), oemStrings)
	}
	if count := int(s.formatted[4]); count != len(s.strings) {
		return "", fmt.Errorf("OEM strings: says that it has %d strings, but has %d", count, len(s.strings))
	}
	for _, text := range s.strings {
		if extra, ok := strings.CutPrefix(text, key); ok {
			return extra, nil
		}
	}
	return "", nil
}
