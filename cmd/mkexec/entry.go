package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/mkexec/mkexec/measure/bls"
	"github.com/mkexec/mkexec/measure/stub"
)

// A bootEntry is the boot loader entry that an image is taken from.
type bootEntry struct {
	*bls.Entry
	dir string // where its partition is mounted
}

// openDefault opens what the default boot entry starts.
func (f *imageFlags) openDefault(sys *system, m *image) error {
	e, err := defaultEntry(sys, f.esp, f.xbootldr)
	if err != nil {
		return err
	}
	defer e.close()
	m.entry = &bootEntry{e.entry, e.dir}
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
	for _, name := range e.entry.Initrds {
		c, err := m.nonEmptyFile(m.entry.file(name))
		if err != nil {
			return err
		}
		m.src.Initrds = append(m.src.Initrds, c)
	}
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
	case len(e.Extra) > 0:
		return fmt.Errorf("how systemd-boot measures its extra files: %w", stub.ErrCannotTell)
	}
	return nil
}

// program returns the path of the UKI.
func (e *bootEntry) program() string {
	if e.UKI != "" {
		return e.file(e.UKI)
	}
	return e.file(e.EFI)
}

func (e *bootEntry) file(name string) string { return filepath.Join(e.dir, filepath.FromSlash(name)) }

// profile returns the profile as a flag has it, "" for the default.
func (e *bootEntry) profile() string {
	if e.Profile == 0 {
		return ""
	}
	return strconv.Itoa(e.Profile)
}

// entryID returns the ID of the boot entry, "" if the image was named.
func (m *image) entryID() string {
	if m.entry == nil {
		return ""
	}
	return m.entry.ID
}
