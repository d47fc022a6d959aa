package stub

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure/uki"
)

// The versions of systemd-stub whose rules are known.
const (
	oldestVersion = 252
	NewestVersion = 262
)

// canonicalOrder is the sections that systemd-stub knows, in the order in which
// it measures them, with the version that knew them first (systemd 262,
// src/fundamental/uki.h; older versions by their own uki.h). New sections were
// only ever put between or behind old ones.
var canonicalOrder = []struct {
	name  string
	since int
}{
	{".linux", 252},
	{".osrel", 252},
	{".cmdline", 252},
	{".initrd", 252},
	{".ucode", 256},
	{".splash", 252},
	{".dtb", 252},
	{".uname", 254},
	{".sbat", 254},
	{".pcrsig", 252}, // used, never measured: it signs the others
	{".pcrpkey", 252},
	{".profile", 257},
	{".dtbauto", 257},
	{".hwids", 257},
	{".efifw", 258},
}

// ErrCannotTell is the error, or wrapped in it, when what the stub does depends
// on something that is not known.
var ErrCannotTell = errors.New("cannot tell")

// knownSections returns the names that a version knows, in canonical order.
func knownSections(major int) []string {
	var names []string
	for _, s := range canonicalOrder {
		if s.since <= major {
			names = append(names, s.name)
		}
	}
	return names
}

// selection is the sections that the stub uses, by name. Sections without
// contents are not in it.
type selection map[string]*uki.Section

// selectSections finds the sections as the stub of that version does: until 256
// by a prefix of the header's name, and the last one counts; from 257 on by the
// whole name, and the first one in the base or in the profile counts, the
// profile's before the base's (systemd 262, src/boot/pe.c,
// pe_locate_sections_internal; 256, src/boot/efi/pe.c).
func selectSections(f *uki.File, major int, profile []*uki.Section, base []*uki.Section) (selection, error) {
	sel := selection{}
	for _, name := range knownSections(major) {
		var found *uki.Section
		if major < 257 {
			for _, s := range f.Sections {
				if strings.HasPrefix(s.Name, name) {
					found = s
				}
			}
		} else {
			matches := func(s *uki.Section) bool { return s.Name == name }
			for _, r := range [][]*uki.Section{base, profile} {
				if name == ".dtbauto" || name == ".efifw" { // the first one that the hardware is for counts
					if slices.ContainsFunc(r, func(s *uki.Section) bool { return matches(s) && s.Size() > 0 }) {
						return nil, fmt.Errorf("section %s: whether it is used depends on the hardware: %w", name, ErrCannotTell)
					}
					continue
				}
				if i := slices.IndexFunc(r, matches); i >= 0 {
					found = r[i]
				}
			}
		}
		if found == nil || found.Size() == 0 {
			continue
		}
		if o := f.Overlapping(found); o != nil {
			return nil, fmt.Errorf("section %s: overlaps with section %q in memory at 0x%x", name, o.Name, max(o.VirtualAddress, found.VirtualAddress))
		}
		sel[name] = found
	}
	if sel[".linux"] == nil {
		return nil, fmt.Errorf("no .linux section: not a UKI")
	}
	return sel, nil
}

// findProfile returns the number and the sections of the profile that name
// selects: a number, or the ID of a profile. The empty name is profile 0, which
// an image without profiles has too, with no sections of its own.
func findProfile(profiles []uki.Profile, name string) (int, []*uki.Section, error) {
	n := 0
	if name != "" {
		var err error
		if n, err = profileNumber(profiles, name); err != nil {
			return 0, nil, err
		}
	}
	if n < len(profiles) {
		return n, profiles[n].Sections, nil
	}
	if n == 0 {
		return 0, nil, nil
	}
	return 0, nil, unknownProfile(profiles, name)
}

func profileNumber(profiles []uki.Profile, name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		if n > 0 && n >= uint64(len(profiles)) {
			return 0, unknownProfile(profiles, name)
		}
		return int(n), nil
	}
	found := -1
	for i, p := range profiles {
		if p.ID != name {
			continue
		}
		if found >= 0 {
			return 0, fmt.Errorf("profile %.80q: profiles %d and %d both have this ID", name, found, i)
		}
		found = i
	}
	if found < 0 {
		return 0, unknownProfile(profiles, name)
	}
	return found, nil
}

func unknownProfile(profiles []uki.Profile, name string) error {
	if len(profiles) == 0 {
		return fmt.Errorf("profile %.80q: the image has no profiles", name)
	}
	var known []string
	for i, p := range profiles {
		known = append(known, strings.TrimSpace(fmt.Sprintf("%d %.40s", i, p.ID)))
	}
	return fmt.Errorf("profile %.80q: unknown (the image has: %s)", name, strings.Join(known, ", "))
}
