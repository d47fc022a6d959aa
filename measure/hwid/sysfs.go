package hwid

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// What Linux shows of the firmware (Linux, Documentation/ABI/testing:
// sysfs-firmware-dmi-tables, sysfs-firmware-dmi-entries, sysfs-firmware-ofw).
const (
	dmiDir     = "sys/firmware/dmi"
	dmiTable   = "sys/firmware/dmi/tables/DMI" // for root only
	dmiEntries = "sys/firmware/dmi/entries"    // world-readable, but not the files named raw
	dmiID      = "sys/class/dmi/id"            // world-readable
	drmClass   = "sys/class/drm"
	liveFDT    = "sys/firmware/fdt" // for root only

	// maxSysfs bounds the files that are read, in bytes. Linux itself takes no
	// larger devicetree than 2 MiB (arch/arm64/include/asm/boot.h).
	maxSysfs = 2 << 20
)

// devicetreeDirs are where Linux shows the root node of its devicetree. The
// second is a link to the first.
var devicetreeDirs = []string{"sys/firmware/devicetree/base", "proc/device-tree"}

// errHidden is the error for a file that exists, but that only root may read.
var errHidden = errors.New("not readable")

// ReadMachine reads what a running Linux system, whose file tree is root, shows of
// the machine's firmware. What it does not show, or only to root, stays unknown;
// what it shows in an unknown form is an error.
//
// Of the firmware's devicetree and its EDID Linux does not tell whether what it
// shows is what the firmware offered to the stub. It is taken for granted only
// that the firmware offered this or nothing: the devicetree could have come from
// an image or a boot loader, the EDID could have been read by Linux only. Neither
// Secure Boot nor confidential VMs are looked for.
func ReadMachine(root fs.FS) (*Machine, error) {
	m := &Machine{}
	var err error
	if m.FirmwareDevicetree, err = readDevicetree(root); err != nil {
		return nil, err
	}
	if m.Panel, err = readPanel(root); err != nil {
		return nil, err
	}
	table, err := readFile(root, dmiTable)
	switch {
	case err == nil:
		first, err := parseTable(table)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dmiTable, err)
		}
		m.SMBIOS = smbiosFacts(first)
	case errors.Is(err, errHidden) || errors.Is(err, fs.ErrNotExist):
		if m.SMBIOS, err = readIDs(root); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if m.CmdlineExtra, err = readOEMString(root, cmdlineExtra); err != nil {
		return nil, err
	}
	return m, nil
}

// ReadBootCmdlineExtra reads what systemd-boot 256 and newer puts behind the
// options of a boot entry for a kernel: what follows
// io.systemd.boot.kernel-cmdline-extra= in the OEM strings (systemd-boot(7)).
func ReadBootCmdlineExtra(root fs.FS) (Fact, error) {
	return readOEMString(root, "io.systemd.boot.kernel-cmdline-extra=")
}

// readOEMString looks a key up in the OEM strings.
func readOEMString(root fs.FS, key string) (Fact, error) {
	table, err := readFile(root, dmiTable)
	if errors.Is(err, errHidden) || errors.Is(err, fs.ErrNotExist) {
		return readOEMStrings(root, key)
	}
	if err != nil {
		return nil, err
	}
	first, err := parseTable(table)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dmiTable, err)
	}
	s, ok := first[typeOEMStrings]
	if !ok {
		return Known(""), nil
	}
	extra, err := oemString(s, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dmiTable, err)
	}
	return Known(extra), nil
}

// readDevicetree returns what the devicetree that Linux runs with says of the
// firmware's. Without one, the firmware's may still be there: Linux ignores it
// where it uses ACPI. It then is what was handed to Linux, which Linux's own EFI
// stub makes up, with no compatible property, where there is none.
func readDevicetree(root fs.FS) (Fact, error) {
	for _, dir := range devicetreeDirs {
		name := path.Join(dir, "compatible")
		b, err := readFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, errHidden) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		first, _, terminated := bytes.Cut(b, []byte{0})
		if !terminated || len(first) == 0 {
			return nil, fmt.Errorf("%s: %.80q: not strings, each with a NUL", name, b)
		}
		return Fact{string(first), ""}, nil
	}
	if entries, err := fs.ReadDir(root, "sys/firmware"); err == nil && len(entries) == 0 {
		return nil, nil // covered, in a container
	}
	b, err := readFile(root, liveFDT)
	if errors.Is(err, fs.ErrNotExist) {
		return Known(""), nil
	}
	if errors.Is(err, errHidden) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	compatible, err := firstCompatible(measure.Bytes(b))
	if errors.Is(err, errNoCompatible) {
		return Known(""), nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", liveFDT, err)
	}
	return Fact{compatible, ""}, nil
}

// readPanel returns the panels of the connectors that have an EDID, and none.
// Without a driver for any connector nothing is known. An EDID that the stub would
// not take either counts as none.
func readPanel(root fs.FS) (Fact, error) {
	connectors, err := fs.ReadDir(root, drmClass)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", drmClass, err)
	}
	panels := Fact{""}
	seen := false
	for _, c := range connectors {
		if !strings.HasPrefix(c.Name(), "card") || !strings.Contains(c.Name(), "-") {
			continue // a card or something else: connectors are named such as card0-eDP-1
		}
		b, err := readFile(root, path.Join(drmClass, c.Name(), "edid"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a writeback connector
		}
		if errors.Is(err, errHidden) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		seen = true
		if p, err := parseEDID(b); err == nil && !slices.Contains(panels, p) {
			panels = append(panels, p)
		}
	}
	if !seen {
		return nil, nil
	}
	return panels, nil
}

// readIDs reads the SMBIOS strings that Linux shows to everybody. Linux has no
// file for a string that is beyond the end of a structure (Linux,
// drivers/firmware/dmi_scan.c, dmi_save_ident); the last file of a structure tells
// whether it is as long as the stub wants it to be.
func readIDs(root fs.FS) (s SMBIOS, err error) {
	if _, err := fs.Stat(root, dmiID); errors.Is(err, fs.ErrNotExist) {
		return SMBIOS{}, nil
	} else if err != nil {
		return s, fmt.Errorf("%s: %w", dmiID, err)
	}
	type file struct {
		name string
		fact *Fact
	}
	for _, group := range []struct {
		last  string
		files []file
	}{
		{"product_family", []file{{"sys_vendor", &s.Manufacturer}, {"product_name", &s.ProductName},
			{"product_sku", &s.SKU}, {"product_family", &s.Family}}},
		{"board_serial", []file{{"board_vendor", &s.BaseboardManufacturer}, {"board_name", &s.BaseboardProduct}}},
	} {
		_, err := fs.Stat(root, path.Join(dmiID, group.last))
		long := !errors.Is(err, fs.ErrNotExist)
		if err != nil && long && !errors.Is(err, fs.ErrPermission) {
			return s, fmt.Errorf("%s: %w", path.Join(dmiID, group.last), err)
		}
		none := !long
		for _, f := range group.files {
			name := path.Join(dmiID, f.name)
			b, err := readFile(root, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if none = false; errors.Is(err, errHidden) {
				continue
			}
			if err != nil {
				return s, err
			}
			text, ok := strings.CutSuffix(string(b), "\n")
			if !ok {
				return s, fmt.Errorf("%s: %.80q: does not end in a newline", name, b)
			}
			if long {
				*f.fact = textFact(text)
			}
		}
		if none { // there is no such structure
			for _, f := range group.files {
				*f.fact = Known("")
			}
		}
	}
	return s, nil
}

// noSMBIOS tells whether /sys is there, and has no trace of an SMBIOS. In a
// container /sys/firmware may be covered by an empty directory.
func noSMBIOS(root fs.FS) bool {
	for _, name := range []string{dmiDir, dmiID} {
		if _, err := fs.Stat(root, name); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	if entries, err := fs.ReadDir(root, "sys/firmware"); err == nil && len(entries) == 0 {
		return false
	}
	_, err := fs.Stat(root, "sys/kernel")
	return err == nil
}

// readOEMStrings reads the first structure of type 11. That there is none can be
// seen by everybody, if the kernel shows structures at all. A running system
// without any trace of an SMBIOS is taken to have none: kernels that leave the
// SMBIOS out are only built by experts (Linux, CONFIG_DMI).
func readOEMStrings(root fs.FS, key string) (Fact, error) {
	if noSMBIOS(root) {
		return Known(""), nil
	}
	entries, err := fs.ReadDir(root, dmiEntries)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dmiEntries, err)
	}
	// The number behind the dash is that of the structure among those of its type
	// (Linux, drivers/firmware/dmi-sysfs.c).
	first := fmt.Sprintf("%d-0", typeOEMStrings)
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == first }) {
		return Known(""), nil
	}
	name := path.Join(dmiEntries, first, "raw")
	b, err := readFile(root, name)
	if errors.Is(err, errHidden) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, rest, err := parseStructure(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if s.formatted[0] != typeOEMStrings || len(rest) > 0 {
		return nil, fmt.Errorf("%s: type %d with %d bytes behind it: not one structure of type %d",
			name, s.formatted[0], len(rest), typeOEMStrings)
	}
	extra, err := oemString(s, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return Known(extra), nil
}

// readFile reads a file of sysfs, whose size is not what Stat says. The error wraps
// fs.ErrNotExist or errHidden in these cases.
func readFile(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: %w", name, errHidden)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSysfs+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(b) > maxSysfs {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxSysfs)
	}
	return b, nil
}
