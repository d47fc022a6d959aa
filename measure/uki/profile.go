package uki

import (
	"fmt"
	"strings"
)

// maxText bounds the sections that are read as text, in bytes.
const maxText = 1 << 20

// A Profile is a range of the section table: from a .profile header up to the
// next one. Its sections replace those of the same name in the base, the
// sections before the first .profile (UAPI Group Specification "UKI",
// "Multi-Profile UKIs").
type Profile struct {
	// ID and Title are the values of ID= and TITLE= in .profile, "" if absent.
	ID, Title string
	// Sections begins with .profile.
	Sections []*Section
}

// Profiles splits the section table. Without any .profile header all sections
// are the base and there is no profile.
func (f *File) Profiles() (base []*Section, profiles []Profile, err error) {
	base = f.Sections
	for i := len(f.Sections) - 1; i >= 0; i-- {
		s := f.Sections[i]
		if s.Name != ".profile" {
			continue
		}
		fields, err := s.fields()
		if err != nil {
			return nil, nil, err
		}
		p := Profile{ID: fields["ID"], Title: fields["TITLE"], Sections: base[i:]}
		base = base[:i]
		profiles = append([]Profile{p}, profiles...)
	}
	return base, profiles, nil
}

// Text returns the contents of a section that holds text, up to the first NUL.
// More than 1 MiB is an error.
func (s *Section) Text() (string, error) {
	_, backed := s.FileRange() // what is behind is NUL
	if backed > maxText {
		return "", fmt.Errorf("section %q: %d bytes: more text than %d", s.Name, backed, maxText)
	}
	b := make([]byte, backed)
	if n, err := s.ReadAt(b, 0); n < len(b) {
		return "", err
	}
	text, _, _ := strings.Cut(string(b), "\x00")
	return text, nil
}

// fields parses the section as os-release(5) does: KEY=value lines, the value
// in single or double quotes or in none. Lines that are not of that form are
// passed over, as systemd does.
func (s *Section) fields() (map[string]string, error) {
	text, err := s.Text()
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		fields[key] = value
	}
	return fields, nil
}
