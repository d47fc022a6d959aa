package bls

import (
	"fmt"
	"io/fs"
	"runtime"
	"slices"

	"github.com/mkexec/mkexec/measure/esp"
)

// A Type is how an entry is described (UAPI.1).
type Type string

// The types of entries, as bootctl calls them.
const (
	Type1 Type = "type1" // a text file loader/entries/*.conf
	Type2 Type = "type2" // a UKI EFI/Linux/*.efi
)

// An Entry is a line of the menu. All paths are on its own partition, as they
// are spelled there, with slashes and without one at the start.
type Entry struct {
	// ID is the name of the file in lower case (ASCII), without boot counter,
	// and for a further profile of a UKI an @ and the profile's ID or number.
	ID        string
	Type      Type
	Partition esp.Type
	// Path is the .conf file, or the UKI itself.
	Path string

	Title, Version, MachineID, SortKey string

	// What is started: one of the four, for an entry that is not broken.
	Linux  string // a kernel
	UKI    string // a UKI
	EFI    string // any EFI program
	UKIURL string // a UKI to download

	// Initrds are for a kernel, in order.
	Initrds []string
	// InitrdValues are the same as the file spells them, which is how
	// systemd-boot names them to the kernel.
	InitrdValues []string
	// Options is the command line that is passed: "" for Type2, where the
	// embedded one applies, and where Type1 has none.
	Options string
	// Profile of the UKI. If it is not 0, systemd-boot passes @N before the options.
	Profile           int
	DeviceTree        string
	DeviceTreeOverlay []string
	// Extra are sidecars of this entry (systemd 261+): credentials and extensions.
	Extra []string
	// Ignored are the keys in the file that systemd-boot 262 does not know, or
	// does not use for what is started.
	Ignored []string

	// Counter is the boot counter in the name of the file, nil if there is none.
	Counter *Counter
	// Broken is why the entry cannot be used, nil if it can.
	Broken error

	// Default: this is what Menu.Default returns.
	Default bool
	// Running: systemd-boot or systemd-stub says that it started this entry.
	// After a kexec that is what was started before it, from firmware.
	Running bool

	hasSortKey bool   // an empty one counts
	file       string // what orders: the ID without the profile
	unordered  bool   // so broken that its place is not known
}

// A Menu is what systemd-boot shows.
type Menu struct {
	// Entries are in systemd-boot's order, the one to prefer first. Entries for
	// another architecture are left out.
	Entries []*Entry

	defaultErr error
}

// Default returns the entry that systemd-boot starts by itself.
func (m *Menu) Default() (*Entry, error) {
	if m.defaultErr != nil {
		return nil, fmt.Errorf("default entry: %w", m.defaultErr)
	}
	for _, e := range m.Entries {
		if e.Default {
			return e, nil
		}
	}
	return nil, fmt.Errorf("default entry: %w", ErrNoEntry)
}

// Read reads the menu. xbootldr is nil if there is no such partition. root
// holds sys/firmware/efi/efivars, and is nil to do as if no variable were set.
// An error is one of reading directories or variables; what is wrong with one
// entry is in Entry.Broken.
func Read(espFS, xbootldr, root fs.FS) (*Menu, error) {
	return readMenu(espFS, xbootldr, root, runtime.GOARCH)
}

func readMenu(espFS, xbootldr, root fs.FS, goarch string) (*Menu, error) {
	m := &Menu{}
	for _, p := range []struct {
		fsys fs.FS
		part esp.Type
	}{{espFS, esp.ESP}, {xbootldr, esp.XBOOTLDR}} {
		if p.fsys == nil {
			continue
		}
		for _, read := range []func(fs.FS, esp.Type, string) ([]*Entry, error){readType2, readType1} {
			entries, err := read(p.fsys, p.part, goarch)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.part, err)
			}
			m.Entries = append(m.Entries, entries...)
		}
	}
	slices.SortStableFunc(m.Entries, compare)
	vars, err := readVariables(root)
	if err != nil {
		return nil, err
	}
	m.markRunning(vars)
	e, err := m.choose(vars, func() (settings, error) { return readSettings(espFS) })
	if err == nil {
		err = m.checkLoader(e, espFS)
	}
	if err == nil && e.Broken != nil {
		err = fmt.Errorf("%.80q: broken: %w", e.ID, e.Broken)
	}
	if m.defaultErr = err; err == nil {
		e.Default = true
	}
	return m, nil
}

// architectures maps GOARCH to EFI's names (systemd 262, src/boot/util.h,
// EFI_MACHINE_TYPE_NAME).
var architectures = map[string]string{
	"386": "ia32", "amd64": "x64", "arm": "arm", "arm64": "aa64", "riscv64": "riscv64", "loong64": "loongarch64",
}

// readNames returns the names of the files in a directory, those that
// systemd-boot looks at: with the suffix given in either case, not hidden, and
// not beginning with the auto- of entries that it makes by itself. The order is
// that of the directory, which decides between entries that are otherwise equal.
// A directory that is not there has none.
func readNames(fsys fs.FS, dir, suffix string) (real string, names []string, err error) {
	real, entries, err := esp.ReadDir(fsys, dir)
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || name[0] == '.' || !hasSuffixFold(name, suffix) || hasPrefixFold(name, "auto-") {
			continue
		}
		names = append(names, name)
	}
	return real, names, nil
}
