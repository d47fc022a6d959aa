package stub

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/hwid"
	"github.com/mkexec/mkexec/measure/uki"
)

// The versions of systemd-stub whose rules are known.
const (
	oldestVersion = 252
	NewestVersion = 262
)

// A section is a name that the stub knows, and the version that knew it first.
type section struct {
	name  string
	since int
}

// canonicalOrder is the sections that systemd-stub knows, in the order in which
// it measures them (systemd 262, src/fundamental/uki.h; older versions by their own uki.h). New sections were
// only ever put between or behind old ones.
var canonicalOrder = []section{
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
var ErrCannotTell = measure.ErrCannotTell

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
// by a prefix of the header's name, and the last one in the file counts; from
// 257 on by the whole name, and the first one in each of the ranges counts, that
// of a later range before that of an earlier one (systemd 262, src/boot/pe.c,
// pe_locate_sections_internal; 256, src/boot/efi/pe.c).
func selectSections(f *uki.File, major int, ranges [][]*uki.Section, machine *hwid.Machine) (selection, error) {
	sel := selection{}
	for _, name := range knownSections(major) {
		var found *uki.Section
		var err error
		if major < 257 {
			found = lastWithPrefix(f.Sections, name)
		} else if found, err = firstNamed(name, ranges, machine, major); err != nil {
			return nil, err
		}
		if found == nil || found.Size() == 0 {
			continue
		}
		if o := f.Overlapping(found); o != nil {
			return nil, fmt.Errorf("section %s: overlaps with section %q in memory at 0x%x", name, o.Name, max(o.VirtualAddress, found.VirtualAddress))
		}
		sel[name] = found
	}
	return sel, nil
}

func lastWithPrefix(sections []*uki.Section, name string) (found *uki.Section) {
	for _, s := range sections {
		if strings.HasPrefix(s.Name, name) {
			found = s
		}
	}
	return found
}

func firstNamed(name string, ranges [][]*uki.Section, machine *hwid.Machine, major int) (found *uki.Section, err error) {
	for _, sections := range ranges {
		if name == ".dtbauto" || name == ".efifw" {
			s, err := selectForHardware(name, sections, machine, major)
			if err != nil {
				return nil, err
			}
			if s != nil {
				found = s
			}
		} else if i := slices.IndexFunc(sections, func(s *uki.Section) bool { return s.Name == name }); i >= 0 {
			found = sections[i]
		}
	}
	return found, nil
}

// chosenProfile returns the name of the profile that the options name, and the
// choice of it as load options spell it, "" for the usual way.
func chosenProfile(opts Options) (name, choice string, err error) {
	if opts.Choice == "" {
		return opts.Profile, "", nil
	}
	number, rest, ok := SplitProfile(opts.Choice)
	if !ok || rest != "" {
		return "", "", fmt.Errorf("choice of a profile %.40q: not @ and a number", opts.Choice)
	}
	return number, opts.Choice, nil
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
