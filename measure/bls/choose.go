package bls

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// The errors of Menu.Default.
var (
	// ErrNoEntry: there is no entry that systemd-boot would start by itself.
	ErrNoEntry = errors.New("there is none")
	// ErrCannotTell: which entry it is depends on what cannot be read.
	ErrCannotTell = measure.ErrCannotTell
)

// settings are the lines of loader/loader.conf that choose an entry, nil if not there.
type settings struct{ preferred, def *string }

// readSettings reads loader.conf of the ESP, the only one that systemd-boot reads.
func readSettings(fsys fs.FS) (settings, error) {
	const name = "loader/loader.conf"
	var s settings
	text, err := readText(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	pairs, err := parsePairs(text, " \t")
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	for _, p := range pairs {
		if strings.HasPrefix(p.value, "@") && lower(p.value) != saved {
			continue // systemd-boot says so and goes on
		}
		switch p.key {
		case "preferred":
			s.preferred = &p.value
		case "default":
			s.def = &p.value
		}
	}
	return s, nil
}

// saved stands for the entry in LoaderEntryLastBooted.
const saved = "@saved"

// automatic are the entries that systemd-boot makes by itself, which are not
// in the menu here (loader.conf(5)).
var automatic = []string{
	"auto-efi-default", "auto-efi-shell", "auto-osx", "auto-poweroff", "auto-reboot", "auto-reboot-to-firmware-setup", "auto-windows",
}

// choose returns the entry that systemd-boot starts by itself, broken or not
// (systemd 262, src/boot/boot.c, config_select_default_entry). Each of these is
// a pattern, and the first one that matches an entry counts: LoaderEntryOneShot;
// LoaderEntryPreferred, preferred in loader.conf; LoaderEntryDefault, default in
// loader.conf. What is preferred is not an entry without tries left. Else it is
// the first entry that is not a further profile of a UKI. (bootctl 262 puts
// LoaderEntryDefault before loader.conf's preferred, systemd-boot does not.)
func (m *Menu) choose(v variables, read func() (settings, error)) (*Entry, error) {
	if v.unreadable {
		return nil, fmt.Errorf("%w: EFI variables are not to be had (efivarfs is not mounted)", ErrCannotTell)
	}
	conf, err := read()
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		name    string
		pattern *string
		skipBad bool
	}{
		{"LoaderEntryOneShot", v.oneShot, false},
		{"LoaderEntryPreferred", v.preferred, true},
		{"preferred in loader.conf", conf.preferred, true},
		{"LoaderEntryDefault", v.def, false},
		{"default in loader.conf", conf.def, false},
	} {
		pattern := c.pattern
		if pattern != nil && lower(*pattern) == saved && c.pattern != v.oneShot {
			pattern = v.lastBooted
		}
		if pattern == nil {
			continue
		}
		if e := m.find(lower(*pattern), c.skipBad); e != nil {
			return e, nil
		}
		for _, id := range automatic {
			if match(lower(*pattern), id) && (v.entries == nil || slices.Contains(v.entries, id)) {
				return nil, fmt.Errorf("%s: %.80q: is not an entry of the Boot Loader Specification", c.name, id)
			}
		}
	}
	return m.first()
}

// checkLoader cannot tell what an older systemd-boot does that takes the entry in
// another way, or not at all. Which profile of a UKI with a boot counter does it
// start: 257 gives all of them the same name and starts the last one (measured
// with 257.13; 262 is right). Does it know the keys: 257 has neither uki nor
// uki-url nor profile in its code, 262 has; profile came with 259 (systemd NEWS).
func (m *Menu) checkLoader(e *Entry, espFS fs.FS) error {
	several := func(o *Entry) bool {
		return o != e && o.Type == Type2 && o.Partition == e.Partition && o.Path == e.Path
	}
	since, question := 0, ""
	switch {
	case e.Type == Type2 && e.Counter != nil && slices.ContainsFunc(m.Entries, several):
		since, question = 262, "which profile of a UKI with a boot counter %s starts"
	case e.Type == Type1 && (e.UKI != "" || e.UKIURL != "" || e.Profile > 0):
		since, question = 259, "whether %s takes an entry with the key uki, uki-url or profile"
	default:
		return nil
	}
	loader, err := Loader(espFS)
	if err != nil || loader.Major == 0 || loader.Major >= since {
		return err
	}
	return fmt.Errorf("%.80q: %w: "+question, e.ID, ErrCannotTell, loader)
}

func (m *Menu) find(pattern string, skipBad bool) *Entry {
	for _, e := range m.Entries {
		if match(pattern, e.ID) && !(skipBad && e.bad()) {
			return e
		}
	}
	return nil
}

// first returns the first entry that is no further profile. It cannot tell if
// the place of an entry is not known.
func (m *Menu) first() (*Entry, error) {
	for _, e := range m.Entries {
		if e.unordered {
			return nil, fmt.Errorf("%w: %s %.80q may be it, but is broken: %w", ErrCannotTell, e.Partition, e.Path, e.Broken)
		}
	}
	for _, e := range m.Entries {
		if e.Profile == 0 {
			return e, nil
		}
	}
	return nil, ErrNoEntry
}

// markRunning marks the entry that runs: the one that systemd-boot selected,
// or, without systemd-boot, the UKI that the stub was started from.
func (m *Menu) markRunning(v variables) {
	is := func(e *Entry) bool { return false }
	switch {
	case v.selected != nil:
		id := stripCounter(lower(*v.selected))
		is = func(e *Entry) bool { return e.ID == id }
	case v.stubPath != nil:
		dir, name := splitPath(*v.stubPath)
		is = func(e *Entry) bool {
			return e.Type == Type2 && e.Profile == v.stubProfile && lower(dir) == "efi/linux" && e.file == stripCounter(lower(name))
		}
	}
	var running []*Entry
	for _, e := range m.Entries {
		if is(e) {
			running = append(running, e)
		}
	}
	if len(running) == 1 { // the same name on both partitions cannot be told apart
		running[0].Running = true
	}
}

// splitPath splits a path of EFI.
func splitPath(s string) (dir, name string) {
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == '/' || r == '\\' })
	if len(parts) == 0 {
		return "", ""
	}
	return strings.Join(parts[:len(parts)-1], "/"), parts[len(parts)-1]
}

// stripCounter takes the boot counter out of an ID. systemd-boot before 259
// leaves it in, and the path in StubImageIdentifier has it.
func stripCounter(name string) string {
	for _, suffix := range []string{".conf", ".efi"} {
		name, _ = splitCounter(name, suffix)
	}
	return name
}
