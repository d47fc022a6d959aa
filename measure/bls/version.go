package bls

import (
	"cmp"
	"strings"
)

// CompareVersions compares two versions by the rules of UAPI.10 Version Format
// (systemd 262, src/fundamental/string-util.c, strverscmp_improved): it returns
// less than 0 if a is older than b, 0 if they are the same version, and more
// than 0 if a is newer.
//
// A version is a row of segments of digits or of ASCII letters. What stands
// before a segment decides first: ~ is older than the end of the string, and
// then come the end, -, ^, . and nothing. Other characters only end a segment.
func CompareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, notInVersion), strings.TrimLeftFunc(b, notInVersion)
		for _, sign := range []string{"~", "", "-", "^", "."} {
			if sign == "" {
				if a == "" || b == "" {
					return cmp.Compare(len(a), len(b))
				}
				continue
			}
			restA, inA := strings.CutPrefix(a, sign)
			restB, inB := strings.CutPrefix(b, sign)
			if inA != inB {
				return older(inA)
			}
			a, b = restA, restB
		}
		isSegment := isLetter
		digits := startsWith(a, isDigit) || startsWith(b, isDigit)
		if digits {
			isSegment = isDigit
		}
		segA, restA := cutSegment(a, isSegment)
		segB, restB := cutSegment(b, isSegment)
		if digits {
			if segA == "" || segB == "" { // letters are older than digits
				return cmp.Compare(len(segA), len(segB))
			}
			segA, segB = strings.TrimLeft(segA, "0"), strings.TrimLeft(segB, "0")
			if c := cmp.Compare(len(segA), len(segB)); c != 0 {
				return c
			}
		}
		if c := cmp.Compare(segA, segB); c != 0 {
			return c
		}
		a, b = restA, restB
	}
}

func older(isA bool) int {
	if isA {
		return -1
	}
	return 1
}

// cutSegment splits s behind its leading characters of one class.
func cutSegment(s string, class func(rune) bool) (segment, rest string) {
	rest = strings.TrimLeftFunc(s, class)
	return s[:len(s)-len(rest)], rest
}

func startsWith(s string, class func(rune) bool) bool { return s != "" && class(rune(s[0])) }

func isDigit(r rune) bool  { return '0' <= r && r <= '9' }
func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

func notInVersion(r rune) bool {
	return !isDigit(r) && !isLetter(r) && !strings.ContainsRune("~-^.", r)
}
