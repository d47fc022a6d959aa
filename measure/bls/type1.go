package bls

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/esp"
)

const (
	// maxText bounds the text files, in bytes. A few hundred are usual.
	maxText = 64 << 10
	// maxName is the longest file name on FAT, in UTF-16 units.
	maxName = 255
	// maxProfile is the last profile of a UKI (systemd 262,
	// src/fundamental/uki.h, UNIFIED_PROFILES_MAX).
	maxProfile = 255
)

// errOtherArch is the error of an entry that is for another machine.
var errOtherArch = errors.New("for another architecture")

// readType1 reads the entries loader/entries/*.conf of a partition.
func readType1(fsys fs.FS, part esp.Type, goarch string) ([]*Entry, error) {
	dir, names, err := readNames(fsys, "loader/entries", ".conf")
	if err != nil {
		return nil, err
	}
	var entries []*Entry
	for _, name := range names {
		e := newEntry(Type1, part, dir, name, ".conf")
		if e.Broken != nil {
			// nothing more is read
		} else if text, err := readText(fsys, e.Path); err != nil {
			e.Broken, e.unordered = err, true
		} else if pairs, err := parsePairs(text, " \t"); err != nil {
			e.Broken, e.unordered = err, true
		} else if err := e.parse(pairs, goarch); errors.Is(err, errOtherArch) {
			continue
		} else if e.Broken = err; err == nil {
			e.Broken = e.find(fsys)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// newEntry returns an entry with what the name of its file says. A name that
// FAT cannot have makes it broken.
func newEntry(t Type, part esp.Type, dir, name, suffix string) *Entry {
	e := &Entry{Type: t, Partition: part, Path: path.Join(dir, name)}
	switch {
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		e.Broken, e.unordered = errors.New("file name: not UTF-8, or with control characters"), true
	case len(utf16.Encode([]rune(name))) > maxName:
		e.Broken, e.unordered = fmt.Errorf("file name: more than %d characters", maxName), true
	}
	name, e.Counter = splitCounter(name, suffix)
	e.file = lower(name)
	e.ID = e.file
	return e
}

// readText reads a small text file.
func readText(fsys fs.FS, name string) (string, error) {
	f, err := esp.Open(fsys, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := measure.ReadAll(f, maxText)
	return string(b), err
}

// parse sets what the lines say. The whole file is parsed, so that the keys that
// order the menu are known even where an error is returned, the first one.
// A key given again replaces the value before, if it is not one of a list.
func (e *Entry) parse(pairs []pair, goarch string) error {
	var errs []error
	what := ""
	program := func(p pair, to *string, value string, err error) error {
		if what != "" && what != p.key {
			return fmt.Errorf("both %s and %s", what, p.key)
		}
		what, *to = p.key, value
		return err
	}
	for _, p := range pairs {
		var err error
		switch p.key {
		case "title":
			e.Title = p.value
		case "version":
			e.Version = p.value
		case "machine-id":
			e.MachineID = p.value
		case "sort-key":
			e.SortKey, e.hasSortKey = p.value, true
		case "architecture":
			if lower(p.value) != architectures[goarch] {
				return errOtherArch
			}
		case "linux", "uki", "efi":
			to := map[string]*string{"linux": &e.Linux, "uki": &e.UKI, "efi": &e.EFI}[p.key]
			name, bad := parsePath(p.value)
			err = program(p, to, name, bad)
		case "uki-url":
			if err = program(p, &e.UKIURL, p.value, nil); err == nil && strings.HasPrefix(p.value, ":") {
				err = fmt.Errorf("%.80q: relative to where the boot loader was downloaded from", p.value)
			}
		case "initrd":
			e.InitrdValues = append(e.InitrdValues, p.value)
			err = appendPath(&e.Initrds, p.value)
		case "extra":
			err = appendPath(&e.Extra, p.value)
		case "devicetree":
			e.DeviceTree, err = parsePath(p.value)
		case "devicetree-overlay":
			for value := range strings.FieldsSeq(p.value) {
				err = errors.Join(err, appendPath(&e.DeviceTreeOverlay, value))
			}
		case "options":
			if e.Options != "" {
				e.Options += " "
			}
			e.Options += strings.Map(onlyUCS2, p.value)
		case "profile":
			e.Profile, err = parseProfile(p.value)
		default:
			if !slices.Contains(e.Ignored, p.key) {
				e.Ignored = append(e.Ignored, p.key)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %.80q: %w", p.line, p.key, err))
		}
	}
	if len(errs) > 0 {
		return errs[0]
	}
	if what != "linux" && len(e.Initrds) > 0 { // systemd-boot loads them for a kernel only
		e.Initrds, e.Ignored = nil, append(e.Ignored, "initrd")
	}
	if what == "" {
		return errors.New("none of linux, uki, uki-url and efi")
	}
	return nil
}

// onlyUCS2 drops what systemd-boot drops of a file's text (systemd 262,
// src/boot/efi-string.c, xstrn8_to_16). Of names and titles it is kept: they are
// not measured.
func onlyUCS2(r rune) rune {
	if r > 0xFFFF {
		return -1
	}
	return r
}

func parseProfile(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%.80q: not a number", s)
	}
	if n > maxProfile {
		return 0, fmt.Errorf("%d: more than %d", n, maxProfile)
	}
	return int(n), nil
}

func appendPath(to *[]string, value string) error {
	name, err := parsePath(value)
	*to = append(*to, name)
	return err
}

// parsePath makes a value a path on the partition. Both slashes count and
// doubled ones as one (systemd 262, src/boot/util.c, convert_efi_path). UAPI.1
// allows no . and .. in it.
func parsePath(value string) (string, error) {
	parts := strings.FieldsFunc(value, func(r rune) bool { return r == '/' || r == '\\' })
	name := strings.Join(parts, "/")
	if !fs.ValidPath(name) || name == "." {
		return "", fmt.Errorf("%.80q: not the path of a file on the partition", value)
	}
	return name, nil
}

// find looks for the files that the entry names, and spells them as they are
// spelled on the partition.
func (e *Entry) find(fsys fs.FS) error {
	names := []*string{&e.Linux, &e.UKI, &e.EFI, &e.DeviceTree}
	for _, list := range [][]string{e.Initrds, e.DeviceTreeOverlay, e.Extra} {
		for i := range list {
			names = append(names, &list[i])
		}
	}
	for _, name := range names {
		if *name == "" {
			continue
		}
		f, err := esp.Open(fsys, *name)
		if err != nil {
			return err
		}
		*name = f.Path
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
