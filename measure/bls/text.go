package bls

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A pair is a line of a text file: a key and a value.
type pair struct {
	key, value string
	line       int // from 1
}

// parsePairs splits a text into lines, and those at the first character of sep
// into key and value. Empty lines, comments and lines without a separator, thus
// keys without a value, are passed over. A value in single or double quotes
// loses them. A carriage return ends a line too (systemd 262,
// src/boot/efi-string.c, line_get_key_value).
//
// A NUL byte, where systemd-boot would stop and bootctl goes on, and text that
// is not UTF-8, of which systemd-boot drops bytes, are errors.
func parsePairs(text, sep string) ([]pair, error) {
	const blank = " \t"
	var pairs []pair
	for i, line := range strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n") {
		if strings.Contains(line, "\x00") {
			return nil, fmt.Errorf("line %d: NUL in a text file", i+1)
		}
		if !utf8.ValidString(line) {
			return nil, fmt.Errorf("line %d: not UTF-8", i+1)
		}
		line = strings.Trim(line, blank)
		end := strings.IndexAny(line, sep)
		if end < 0 || line[0] == '#' {
			continue
		}
		value := strings.TrimLeft(line[end+1:], sep)
		if n := len(value); n > 0 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			if n == 1 { // systemd-boot 262 reads on behind the end of it
				return nil, fmt.Errorf("line %d: %.80q: a quote alone", i+1, line)
			}
			value = value[1 : n-1]
		}
		pairs = append(pairs, pair{line[:end], value, i + 1})
	}
	return pairs, nil
}

// lower maps upper case ASCII letters to lower case, as systemd-boot does
// (src/boot/efi-string.c, strtolower16).
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func hasPrefixFold(s, prefix string) bool { return strings.HasPrefix(lower(s), prefix) }
func hasSuffixFold(s, suffix string) bool { return strings.HasSuffix(lower(s), suffix) }
