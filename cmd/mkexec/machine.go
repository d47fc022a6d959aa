package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure/hwid"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/spf13/pflag"
)

// machineFlags say what is known of the machine that an image starts on.
type machineFlags struct {
	hardware   string
	smbios     string
	secureBoot string
	real       bool // the image is started, on this machine
	flags      *pflag.FlagSet
}

func (f *machineFlags) add(fl *pflag.FlagSet) {
	f.flags = fl
	fl.StringVar(&f.hardware, "hardware", "", "the machine is the one that `FILE` describes (default: this one, where that matters)")
	fl.StringVar(&f.smbios, "smbios-cmdline", "", "the machine's SMBIOS adds `STR` to the command line (default: what this machine's adds)")
}

// settle fills in what the options need to know of the machine: that of
// --hardware, or this one if the image starts here. asks tells whether
// something depends on Secure Boot; about that this machine is asked even for
// images that may start elsewhere, and for a start that is not only foretold it
// alone is.
func (f *machineFlags) settle(sys *system, here, asks bool, version int, opts *stub.Options) error {
	if !slices.Contains([]string{"yes", "no", "auto"}, f.secureBoot) {
		return fmt.Errorf("--secure-boot=%.40s: unknown (known: yes no auto)", f.secureBoot)
	}
	var err error
	if opts.Hardware, err = f.machine(sys, here); err != nil {
		return err
	}
	running := kexec.ReadMachine(sys.root)
	secureBoot, confidential := running.SecureBoot, running.ConfidentialVM
	hint := "mount -t efivarfs efivarfs /sys/firmware/efi/efivars (predict and check also take --secure-boot=yes or no)"
	if f.hardware != "" && !f.real {
		secureBoot, confidential = tristate(opts.Hardware.SecureBoot), tristate(opts.Hardware.ConfidentialVM)
		hint = "--secure-boot=yes or no, or secure-boot: in the hardware file"
	}
	if f.secureBoot != "auto" {
		secureBoot = kexec.Tristate(f.secureBoot)
	}
	opts.SecureBoot, opts.ConfidentialVM = secureBoot == kexec.Yes, confidential == kexec.Yes
	if asks && secureBoot == kexec.Unknown {
		return withHint(fmt.Errorf("whether Secure Boot is on, which decides on command lines and addons: %w", stub.ErrCannotTell), hint)
	}
	if err := f.settleSMBIOS(version, opts); err != nil {
		return err
	}
	if confidential == kexec.Unknown && (opts.SMBIOSCmdline != "" || opts.SecureBoot && opts.Cmdline != nil) {
		return withHint(fmt.Errorf("whether the machine is a confidential VM, which takes no command line from outside: %w", stub.ErrCannotTell),
			"confidential-vm: yes or no, in the hardware file")
	}
	return nil
}

// machine returns the machine, nil if it may be any.
func (f *machineFlags) machine(sys *system, here bool) (*hwid.Machine, error) {
	switch {
	case f.hardware != "":
		return readHardware(f.hardware)
	case here:
		m, err := hwid.ReadMachine(sys.root)
		if err != nil && f.flags.Changed("smbios-cmdline") {
			return nil, nil // that is what most images want to know of it
		}
		if err != nil {
			err = withHint(fmt.Errorf("this machine's hardware: %w", err), "to do without: --smbios-cmdline=STR (empty for nothing)")
		}
		return m, err
	}
	return nil, nil
}

func readHardware(path string) (*hwid.Machine, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, hwid.MaxFileSize+1))
	if err == nil && len(b) > hwid.MaxFileSize {
		err = fmt.Errorf("more than %d bytes", hwid.MaxFileSize)
	}
	if err != nil {
		return nil, inFile(path, err)
	}
	m, err := hwid.ParseMachine(b)
	return m, inFile(path, err)
}

// settleSMBIOS finds out what the SMBIOS adds to the command line. A machine
// that is not known is taken for one that adds nothing.
func (f *machineFlags) settleSMBIOS(version int, opts *stub.Options) error {
	if f.flags.Changed("smbios-cmdline") {
		opts.SMBIOSCmdline = f.smbios
		return nil
	}
	if opts.Hardware == nil || version < 254 || opts.ConfidentialVM { // the stub does not look
		return nil
	}
	text, known := opts.Hardware.CmdlineExtra.Value()
	if !known {
		return withHint(fmt.Errorf("command line: what the SMBIOS adds to it: %w", stub.ErrCannotTell),
			"run as root, or say it: --smbios-cmdline=STR (empty for nothing)")
	}
	opts.SMBIOSCmdline = text
	return nil
}

func tristate(b *bool) kexec.Tristate {
	switch {
	case b == nil:
		return kexec.Unknown
	case *b:
		return kexec.Yes
	}
	return kexec.No
}

// settleBootSMBIOS refuses to foretell what systemd-boot measures for a kernel
// of its own if the SMBIOS adds to that: older versions do not look there.
func settleBootSMBIOS(sys *system) error {
	extra, err := hwid.ReadBootCmdlineExtra(sys.root)
	if err != nil {
		return fmt.Errorf("this machine's hardware: %w", err)
	}
	if text, known := extra.Value(); !known || text != "" {
		return withHint(fmt.Errorf("what systemd-boot adds to the options from the SMBIOS (io.systemd.boot.kernel-cmdline-extra=): %w", stub.ErrCannotTell),
			"run as root; if there is such a string, boot a UKI")
	}
	return nil
}
