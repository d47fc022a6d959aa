// Package efivar reads the EFI variables that say what this machine trusts, and
// the signature lists in them.
//
// A variable counts only if it is what firmware or shim makes. Root cannot
// change those, but can create variables of the same name where they are
// missing; the attributes then give them away (spec: UEFI 2.11, "GetVariable";
// Linux, Documentation/filesystems/efivarfs.rst).
package efivar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Attributes are the bits that a variable has (UEFI 2.11, "GetVariable").
type Attributes uint32

// The attributes that are looked at.
const (
	NonVolatile           Attributes = 0x01
	BootserviceAccess     Attributes = 0x02
	RuntimeAccess         Attributes = 0x04
	TimeBasedAuthenticate Attributes = 0x20

	// Volatile is what firmware and shim give to variables that they make anew
	// at each boot. An operating system cannot make such a variable.
	Volatile = BootserviceAccess | RuntimeAccess
	// Authenticated is what the signature databases have.
	Authenticated = NonVolatile | BootserviceAccess | RuntimeAccess | TimeBasedAuthenticate
)

// The vendor GUIDs, as efivarfs spells them.
const (
	GlobalGUID   = "8be4df61-93ca-11d2-aa0d-00e098032b8c" // EFI_GLOBAL_VARIABLE
	DatabaseGUID = "d719b2cb-3d3a-4596-a3bc-dad00e67656f" // EFI_IMAGE_SECURITY_DATABASE_GUID
	ShimGUID     = "605dab50-e046-4300-abb6-3dd810dd8b23" // SHIM_LOCK_GUID
)

const (
	dir    = "sys/firmware/efi/efivars"
	mokDir = "sys/firmware/efi/mok-variables"
	// maxSize bounds a variable in bytes. The largest, dbx, has some 30 KiB.
	maxSize = 4 << 20
)

// Read reads a variable below root, the file system's root directory, and
// checks that it has exactly the attributes wanted. A variable that is not
// there is fs.ErrNotExist.
func Read(root fs.FS, name, guid string, want Attributes) ([]byte, error) {
	b, err := readFile(root, dir+"/"+name+"-"+guid)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("EFI variable %s: %d bytes: too short for its attributes", name, len(b))
	}
	if got := Attributes(binary.LittleEndian.Uint32(b)); got != want {
		return nil, fmt.Errorf("EFI variable %s: attributes 0x%x: not what firmware makes (0x%x)", name, uint32(got), uint32(want))
	}
	return b[4:], nil
}

// ReadFlag reads a variable of one byte that is 0 or 1. One that is not there is false.
func ReadFlag(root fs.FS, name, guid string, want Attributes) (bool, error) {
	b, err := Read(root, name, guid, want)
	return flag(name, b, err)
}

func flag(name string, b []byte, err error) (bool, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case len(b) != 1 || b[0] > 1:
		return false, fmt.Errorf("EFI variable %s: %.8x: neither 00 nor 01", name, b)
	}
	return b[0] == 1, nil
}

// A Shim reads the variables that shim mirrors for the operating system.
type Shim struct {
	root  fs.FS
	table bool
}

// OpenShim finds where they are: Linux shows shim's configuration table, which
// has all of them whole and cannot be forged, as files (since 5.10,
// drivers/firmware/efi/mokvar-table.c). Where there is none, they are volatile
// EFI variables.
func OpenShim(root fs.FS) (*Shim, error) {
	_, err := fs.Stat(root, mokDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Shim{root, err == nil}, nil
}

// Read reads a variable. One that is not there is fs.ErrNotExist.
func (s *Shim) Read(name string) ([]byte, error) {
	if s.table {
		return readFile(s.root, mokDir+"/"+name)
	}
	return Read(s.root, name, ShimGUID, Volatile)
}

// ReadFlag reads a variable of one byte that is 0 or 1. One that is not there is false.
func (s *Shim) ReadFlag(name string) (bool, error) {
	b, err := s.Read(name)
	return flag(name, b, err)
}

// ReadDatabase reads a variable of signature lists. shim splits one that is too
// large for the firmware into NAME, NAME1, NAME2 and so on (mok.c,
// mirror_mok_db). One that is not there is empty.
func (s *Shim) ReadDatabase(name string) (Database, error) {
	var d Database
	part := name
	for n := 1; ; n++ {
		b, err := s.Read(part)
		if errors.Is(err, fs.ErrNotExist) {
			return d, nil
		}
		if err != nil {
			return Database{}, err
		}
		if err := d.add(b); err != nil {
			return Database{}, fmt.Errorf("EFI variable %s: %w", part, err)
		}
		if s.table {
			return d, nil
		}
		part = fmt.Sprintf("%s%d", name, n)
	}
}

// ReadDatabase reads one of firmware's signature databases, db or dbx. One that
// is not there is empty.
func ReadDatabase(root fs.FS, name string) (Database, error) {
	b, err := Read(root, name, DatabaseGUID, Authenticated)
	if errors.Is(err, fs.ErrNotExist) {
		return Database{}, nil
	}
	if err != nil {
		return Database{}, err
	}
	d, err := ParseDatabase(b)
	if err != nil {
		return Database{}, fmt.Errorf("EFI variable %s: %w", name, err)
	}
	return d, nil
}

// Present tells whether the variables can be read at all below root: it is an
// error if there is EFI, but efivarfs is not mounted.
func Present(root fs.FS) (bool, error) {
	if _, err := fs.Stat(root, "sys/kernel"); err != nil {
		return false, fmt.Errorf("sysfs is not mounted: %w", err)
	}
	if _, err := fs.Stat(root, "sys/firmware/efi"); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	d, err := root.Open(dir)
	if err != nil {
		return false, fmt.Errorf("efivarfs is not mounted: %w", err)
	}
	defer d.Close()
	rd, ok := d.(fs.ReadDirFile)
	if !ok {
		return false, fmt.Errorf("%s: not a directory", dir)
	}
	if _, err := rd.ReadDir(1); err != nil { // firmware always has variables
		return false, fmt.Errorf("efivarfs is not mounted: %s: %w", dir, err)
	}
	return true, nil
}

func readFile(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxSize)
	}
	return b, nil
}
