package main

import (
	"errors"
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
// images that may start elsewhere.
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
	if f.hardware != "" {
		secureBoot, confidential = tristate(opts.Hardware.SecureBoot), tristate(opts.Hardware.ConfidentialVM)
	}
	if f.secureBoot != "auto" {
		secureBoot = kexec.Tristate(f.secureBoot)
	}
	opts.SecureBoot, opts.ConfidentialVM = secureBoot == kexec.Yes, confidential == kexec.Yes
	if asks && secureBoot == kexec.Unknown {
		return withHint(fmt.Errorf("whether Secure Boot is on, which decides on command lines and addons: %w", stub.ErrCannotTell),
			"mount -t efivarfs efivarfs /sys/firmware/efi/efivars (predict and check also take --secure-boot=yes or no)")
	}
	return f.settleSMBIOS(version, opts)
}

// machine returns the machine, nil if it may be any.
func (f *machineFlags) machine(sys *system, here bool) (*hwid.Machine, error) {
	switch {
	case f.hardware != "":
		return readHardware(f.hardware)
	case here:
		return hwid.ReadMachine(sys.root)
	}
	return nil, nil
}

// maxHardware bounds the size of a description of a machine, in bytes.
const maxHardware = 64 << 10

func readHardware(path string) (*hwid.Machine, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHardware+1))
	if err == nil && len(b) > maxHardware {
		err = errors.New("more than 64 KiB")
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
