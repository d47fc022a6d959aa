package bls

// match tells whether a pattern matches all of a name, as systemd-boot does
// (systemd 262, src/boot/efi-string.c, efi_fnmatch): * is any number of
// characters, ? is one, [abc] and [a-c] is one of a set, and a backslash takes
// the next character as it is. There are no classes and no negation; a set that
// is not closed matches nothing.
func match(pattern, name string) bool {
	p, n := []rune(pattern), []rune(name)
	pi, ni := 0, 0
	star, mark := -1, 0 // behind the last *, and where it has got to
	for {
		if pi < len(p) && p[pi] == '*' {
			pi++
			star, mark = pi, ni
			continue
		}
		if pi == len(p) && ni == len(n) {
			return true
		}
		if ni < len(n) {
			if width := matchOne(p[pi:], n[ni]); width > 0 {
				pi += width
				ni++
				continue
			}
		}
		if star < 0 || mark >= len(n) {
			return false
		}
		mark++
		pi, ni = star, mark
	}
}

// matchOne returns how much of the pattern matches one character, 0 if it does not.
func matchOne(p []rune, c rune) int {
	if len(p) == 0 {
		return 0
	}
	switch p[0] {
	case '?':
		return 1
	case '\\':
		if len(p) > 1 && p[1] == c {
			return 2
		}
		return 0
	case '[':
		return matchSet(p, c)
	}
	if p[0] == c {
		return 1
	}
	return 0
}

// matchSet is for a pattern that begins with a set. A ] that comes first is in
// the set, as is a - that comes first or last or behind a range.
func matchSet(p []rune, c rune) int {
	found, canRange := false, true
	for i := 1; i < len(p); i++ {
		switch {
		case p[i] == ']' && i > 1:
			if !found {
				return 0
			}
			return i + 1
		case p[i] == '-' && canRange && i > 1 && i+1 < len(p) && p[i+1] != ']':
			low := p[i-1]
			i++
			if p[i] == '\\' {
				i++
			}
			if i == len(p) {
				return 0
			}
			found = found || low <= c && c <= p[i]
			canRange = false
			continue
		case p[i] == '\\':
			if i++; i == len(p) {
				return 0
			}
		}
		found = found || p[i] == c
		canRange = true
	}
	return 0
}
