package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure/bls"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
)

// A bootEntry is the boot loader entry that an image is taken from.
type bootEntry struct {
	*bls.Entry
	dir     string // where its partition is mounted, or copied to
	esp     string // where that with systemd-boot is
	mounted bool   // it is one of this machine
}

// openDefault opens what the default boot entry starts.
func (f *imageFlags) openDefault(sys *system, m *image) error {
	e, err := defaultEntry(sys, f.esp, f.xbootldr)
	if err != nil {
		return err
	}
	defer e.close()
	m.entry = &bootEntry{e.entry, e.dir, e.partitions.espDir, e.partitions.vars != nil}
	if err := m.entry.check(f.via); err != nil {
		return fmt.Errorf("default entry %.80q: %w", e.entry.ID, err)
	}
	if e.entry.Linux == "" {
		return m.openUKI(m.entry.program())
	}
	m.path = m.entry.file(e.entry.Linux)
	if m.src.Linux, err = m.nonEmptyFile(m.path); err != nil {
		return err
	}
	if isUKI(m.src.Linux) {
		return fmt.Errorf("default entry %.80q: it starts a UKI as a kernel: name the UKI by itself", e.entry.ID)
	}
	for _, name := range e.entry.Initrds {
		c, err := m.nonEmptyFile(m.entry.file(name))
		if err != nil {
			return err
		}
		m.src.Initrds = append(m.src.Initrds, c)
	}
	m.ignoreExtra()
	m.src.Cmdline = e.entry.Options
	if f.cmd.Flags().Changed("cmdline") {
		m.src.Cmdline = f.cmdline
	}
	m.src.Cmdline = stub.Join(m.src.Cmdline, f.append)
	return f.onlyUKI()
}

// check refuses entries that do more than can be followed.
func (e *bootEntry) check(via string) error {
	switch {
	case e.UKIURL != "":
		return errors.New("it is downloaded (uki-url)")
	case via == string(stub.ViaKexec) && (e.DeviceTree != "" || len(e.DeviceTreeOverlay) > 0):
		return errors.New("it has a devicetree, which a kexec cannot give to the kernel; name the image by itself")
	case e.Linux != "" && e.Profile > 0:
		return errors.New("it has a profile, but a kernel that is not a UKI")
	}
	return nil
}

// openExtra opens the extra files of the entry, which systemd-boot takes since
// 261. Where there is none it is taken for a newer one.
func (m *image) openExtra(into *stub.Sidecars) error {
	if m.entry == nil || len(m.entry.Extra) == 0 {
		return nil
	}
	loader, err := m.loader()
	if err != nil {
		return err
	}
	for _, name := range m.entry.Extra {
		if loader.Major > 0 && loader.Major < stub.ExtraSince {
			m.ignored = append(m.ignored, fmt.Sprintf("extra file %s: %s does not know that", path.Base(name), loader))
			continue
		}
		c, err := m.file(m.entry.file(name))
		if err != nil {
			return err
		}
		into.Entry = append(into.Entry, stub.File{Name: path.Base(name), Content: c})
	}
	return nil
}

// ignoreExtra notes the extra files of an entry for a kernel that is not a UKI:
// systemd-boot 262 hands them over to UKIs only (TestVMSystemdBoot).
func (m *image) ignoreExtra() {
	for _, name := range m.entry.Extra {
		m.ignored = append(m.ignored, fmt.Sprintf("extra file %s: systemd-boot takes it for UKIs only", path.Base(name)))
	}
}

// program returns the path of the UKI.
func (e *bootEntry) program() string {
	if e.UKI != "" {
		return e.file(e.UKI)
	}
	return e.file(e.EFI)
}

func (e *bootEntry) file(name string) string { return filepath.Join(e.dir, filepath.FromSlash(name)) }

// apply has the image started as the entry says, where no flag says it: what it
// passes and the image does not accept is ignored, as it would be by the stub. A
// profile may also be named at the beginning of the options.
func (e *bootEntry) apply(opts *stub.Options) {
	options := e.Options
	profile, choice := "", ""
	if e.Profile > 0 {
		profile = strconv.Itoa(e.Profile)
	} else if _, rest, ok := stub.SplitProfile(options); ok {
		choice, options = strings.TrimSuffix(options, rest), rest
	}
	if opts.Profile == "" {
		opts.Profile, opts.Choice = profile, choice
	}
	if options != "" {
		opts.Cmdline, opts.IgnoreRefused = &options, true
	}
}

// checkLoader refuses to foretell what a systemd-boot does that passes the
// embedded command line as if it were an option (up to 254: systemd issue
// tracker, pull request 28924). Where there is none it is taken for a newer one.
func (m *image) checkLoader() error {
	loader, err := m.loader()
	if err != nil || loader.Major == 0 || loader.Major >= 255 {
		return err
	}
	return withHint(fmt.Errorf("%s passes the command line that it finds in the image, and measures it: %w", loader, stub.ErrCannotTell),
		"to say which one that is: --cmdline=STR")
}

// loader returns the oldest systemd-boot on the ESP of the entry, or on the
// partition of the image; the zero Stub if there is none, or the partition is not
// known.
func (m *image) loader() (uki.Stub, error) {
	dir := m.dir
	if m.entry != nil {
		dir = m.entry.esp
	}
	if dir == "" {
		return uki.Stub{}, nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return uki.Stub{}, err
	}
	defer root.Close()
	loader, err := bls.Loader(root.FS())
	return loader, inFile(dir, err)
}

// entryID returns the ID of the boot entry, "" if the image was named.
func (m *image) entryID() string {
	if m.entry == nil {
		return ""
	}
	return m.entry.ID
}
