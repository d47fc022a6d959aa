package policy

import "strings"

// ReadRelease returns what the text of .osrel (os-release(5)) says an image is:
// IMAGE_ID and IMAGE_VERSION, or ID and VERSION_ID if there is no IMAGE_ID. The
// two pairs are not mixed: the version of a distribution is not that of an image
// which is made of it. The last line with a key counts.
//
// A value is letters, digits and . _ + - ^ ~, in quotes or not. One that is
// anything else counts as not said, and what is not said is "".
func ReadRelease(osrel string) (id, version string) {
	values := map[string]string{}
	for line := range strings.Lines(osrel) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = unquote(value)
		}
	}
	id, version = values["IMAGE_ID"], values["IMAGE_VERSION"]
	if id == "" {
		id, version = values["ID"], values["VERSION_ID"]
	}
	if !isReleaseWord(id) {
		return "", ""
	}
	if !isReleaseWord(version) {
		version = ""
	}
	return id, version
}

// unquote takes one pair of quotes off a value.
func unquote(s string) string {
	if n := len(s); n > 1 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		return s[1 : n-1]
	}
	return s
}

// isReleaseWord tells whether s is an ID or a version: what os-release(5) allows
// in them, upper case, and what UAPI.10 Version Format gives a meaning.
func isReleaseWord(s string) bool {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._+-^~", r)) {
			return false
		}
	}
	return s != ""
}
