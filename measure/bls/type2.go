package bls

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/mkexec/mkexec/measure/esp"
	"github.com/mkexec/mkexec/measure/uki"
)

// readType2 reads the UKIs EFI/Linux/*.efi of a partition, each with an entry
// for each profile (systemd 262, src/boot/boot.c, boot_entry_add_type2). A PE
// file without .osrel section is not a UKI and no entry.
func readType2(fsys fs.FS, part esp.Type, goarch string) ([]*Entry, error) {
	dir, names, err := readNames(fsys, "EFI/Linux", ".efi")
	if err != nil {
		return nil, err
	}
	var entries []*Entry
	for _, name := range names {
		e := newEntry(Type2, part, dir, name, ".efi")
		e.UKI = e.Path
		var profiles []*Entry
		if e.Broken == nil {
			if profiles, err = e.readUKI(fsys, goarch); err != nil {
				e.Broken, e.unordered = err, true
			}
		}
		if e.Broken != nil {
			profiles = []*Entry{e}
		}
		entries = append(entries, profiles...)
	}
	return entries, nil
}

// readUKI returns an entry for each profile of the UKI, based on e; none if it is
// for another architecture.
func (e *Entry) readUKI(fsys fs.FS, goarch string) ([]*Entry, error) {
	f, err := esp.Open(fsys, e.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	u, err := uki.Open(f, f.Size())
	if err != nil {
		return nil, err
	}
	if u.Machine.Arch() != goarch {
		return nil, nil
	}
	base, profiles, err := u.Profiles()
	if err != nil {
		return nil, err
	}
	if len(profiles) == 0 {
		profiles = []uki.Profile{{}}
	}
	var entries []*Entry
	for i, p := range profiles[:min(len(profiles), maxProfile+1)] {
		osrel := section(".osrel", p.Sections, base)
		if osrel == nil {
			continue
		}
		entry := *e
		entry.Profile = i
		release, err := readRelease(osrel)
		if err != nil {
			return nil, err
		}
		profile := map[string]string{}
		if s := section(".profile", p.Sections, base); s != nil {
			if profile, err = readRelease(s); err != nil {
				return nil, err
			}
		}
		entry.Broken = entry.describe(release, profile)
		entries = append(entries, &entry)
	}
	return entries, nil
}

// section returns the first section of a name in a profile, or else in the base,
// nil if there is none. One without contents hides that of the base.
func section(name string, ranges ...[]*uki.Section) *uki.Section {
	for _, sections := range ranges {
		for _, s := range sections {
			if s.Name == name && s.Size() == 0 {
				return nil
			}
			if s.Name == name {
				return s
			}
		}
	}
	return nil
}

// readRelease reads a section of the form of os-release(5).
func readRelease(s *uki.Section) (map[string]string, error) {
	text, err := s.Text()
	if err != nil {
		return nil, err
	}
	pairs, err := parsePairs(text, "=")
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", s.Name, err)
	}
	values := map[string]string{}
	for _, p := range pairs {
		values[p.key] = p.value
	}
	return values, nil
}

// describe sets what the sections .osrel and .profile say (systemd 262,
// src/fundamental/bootspec.c, bootspec_pick_name_version_sort_key).
func (e *Entry) describe(release, profile map[string]string) error {
	name, named := first(release, "PRETTY_NAME", "IMAGE_ID", "NAME", "ID")
	e.Title = name
	e.Version, _ = first(release, "IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")
	e.SortKey, e.hasSortKey = first(release, "IMAGE_ID", "ID")
	id, title := profile["ID"], profile["TITLE"]
	if e.Profile > 0 {
		e.ID = e.file + "@" + lower(cmp.Or(id, strconv.Itoa(e.Profile)))
		title = cmp.Or(title, id, fmt.Sprintf("Profile #%d", e.Profile+1))
	}
	if title != "" {
		e.Title += " (" + title + ")"
	}
	if !named {
		return errors.New("section .osrel: none of PRETTY_NAME, IMAGE_ID, NAME and ID")
	}
	return nil
}

// first returns the value of the first key that is there, be it empty.
func first(values map[string]string, keys ...string) (string, bool) {
	for _, k := range keys {
		if v, ok := values[k]; ok {
			return v, true
		}
	}
	return "", false
}
