package bls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	efivars    = "sys/firmware/efi/efivars"
	loaderGUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // systemd 262, docs/BOOT_LOADER_INTERFACE.md

	// maxVariable bounds a variable, in bytes; firmware has less than 64 KiB.
	maxVariable = 1 << 20
)

// variables are those of the Boot Loader Interface that are read here. nil is
// one that is not set.
type variables struct {
	oneShot, preferred, def, lastBooted *string  // LoaderEntry…
	selected                            *string  // LoaderEntrySelected
	entries                             []string // LoaderEntries
	stubPath                            *string  // StubImageIdentifier
	stubProfile                         int      // StubProfile
	// unreadable: this is an EFI system whose variables cannot be read.
	unreadable bool
}

func readVariables(root fs.FS) (variables, error) {
	var v variables
	if root == nil {
		return v, nil
	}
	if _, err := fs.Stat(root, "sys/firmware/efi"); err == nil {
		// an empty directory is one that efivarfs is not mounted on
		names, err := fs.ReadDir(root, efivars)
		v.unreadable = err != nil || len(names) == 0
	}
	for name, to := range map[string]**string{
		"LoaderEntryOneShot": &v.oneShot, "LoaderEntryPreferred": &v.preferred, "LoaderEntryDefault": &v.def,
		"LoaderEntryLastBooted": &v.lastBooted, "LoaderEntrySelected": &v.selected, "StubImageIdentifier": &v.stubPath,
	} {
		values, err := readVariable(root, name)
		if err != nil {
			return v, err
		}
		if len(values) > 0 {
			*to = &values[0]
		}
	}
	var err error
	if v.entries, err = readVariable(root, "LoaderEntries"); err != nil {
		return v, err
	}
	profile, err := readVariable(root, "StubProfile")
	if err == nil && len(profile) > 0 {
		if v.stubProfile, err = strconv.Atoi(profile[0]); err != nil {
			err = fmt.Errorf("StubProfile: %.80q: not a number", profile[0])
		}
	}
	return v, err
}

// readVariable reads a variable of strings, each with a NUL behind it: none if
// it is not set. efivarfs puts four bytes of attributes before the value (Linux,
// Documentation/filesystems/efivarfs.rst).
func readVariable(root fs.FS, name string) ([]string, error) {
	f, err := root.Open(efivars + "/" + name + "-" + loaderGUID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxVariable+1))
	if err != nil {
		return nil, err
	}
	values, err := decodeStrings(b)
	if err != nil {
		return nil, fmt.Errorf("EFI variable %s: %w", name, err)
	}
	return values, nil
}

func decodeStrings(b []byte) ([]string, error) {
	switch {
	case len(b) > maxVariable:
		return nil, fmt.Errorf("more than %d bytes", maxVariable)
	case len(b) < 4 || len(b)%2 != 0:
		return nil, fmt.Errorf("%d bytes: not attributes and UTF-16", len(b))
	}
	var values []string
	var units []uint16
	for b = b[4:]; len(b) > 0; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u != 0 {
			units = append(units, u)
		}
		if u == 0 || len(b) == 2 {
			value := string(utf16.Decode(units))
			if strings.ContainsRune(value, utf8.RuneError) {
				return nil, errors.New("not UTF-16: half a pair")
			}
			values = append(values, value)
			units = nil
		}
	}
	return values, nil
}
