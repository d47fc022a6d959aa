package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/initrd"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy"
)

// A userspace is what is known of systemd in the initrd.
type userspace struct {
	version   string // "" if it is not known, or there is none
	separator measure.Separator
	// silent: no phase word will be extended; why says the reason.
	silent bool
	why    string // why silent, or why something is not known
}

// separatorSince is the version of systemd that came with
// systemd-pcrosseparator.service and systemd.tpm2_measured_os= (systemd NEWS, 261).
const separatorSince = 261

// nvPCRsSince is the version of systemd that came with NvPCRs, whose Names it
// extends PCR 9 with in the initrd (systemd NEWS, 259).
const nvPCRsSince = 259

// hasNvPCRs tells whether systemd in the initrd may have NvPCRs.
func (u *userspace) hasNvPCRs() bool {
	v, err := uki.ParseStub(u.version)
	return !u.silent && (err != nil || v.Major >= nvPCRsSince)
}

// findUserspace looks for systemd in the initrd, if --systemd does not say it.
// Reading an initrd takes time, so who does not need to know lets it be.
func (f *imageFlags) findUserspace(sys *system, m *image, boot *stub.Boot) (*userspace, error) {
	u := &userspace{}
	major := 0
	if f.systemd != "" {
		var err error
		if major, err = parseSystemd(f.systemd); err != nil {
			return nil, err
		}
		u.version = f.systemd
		if major >= separatorSince {
			u.separator = measure.SeparatorYes
		}
	}
	on, said := measuredOS(boot.Cmdline)
	switch {
	case m.uki == nil && m.opts.Via != stub.ViaKexec && !(said && on):
		u.separator, u.silent, u.why = measure.SeparatorNo, true, "started without systemd-stub, systemd measures nothing"
		return u, nil
	case f.systemd == "":
		var err error
		if major, err = u.inspect(boot); err != nil {
			return nil, err
		}
	}
	switch understands := major == 0 || major >= separatorSince; {
	case said && !on && understands:
		u.separator, u.silent, u.why = measure.SeparatorNo, true, "systemd.tpm2_measured_os=no on the command line"
	case f.measuresHere() && stubBooted(sys.root) == kexec.No && !(said && on && understands):
		u.separator, u.silent = measure.SeparatorNo, true
		u.why = "this machine was not started by systemd-stub; systemd 261 and newer also takes systemd.tpm2_measured_os=1 on the command line for it"
	}
	return u, nil
}

// measuresHere tells whether the image is started by a kexec of this machine.
func (f *imageFlags) measuresHere() bool {
	return f.via == string(stub.ViaKexec) && (f.real || f.from == "tpm")
}

// stubBooted tells whether systemd-stub left its variable, by which systemd
// decides, also after a kexec, whether it measures (systemd 262,
// src/shared/efi-loader.c, efi_measured_uki).
func stubBooted(root fs.FS) kexec.Tristate {
	if _, err := fs.Stat(root, "sys/firmware/efi"); errors.Is(err, fs.ErrNotExist) {
		if _, err := fs.Stat(root, "sys/kernel"); err == nil {
			return kexec.No
		}
		return kexec.Unknown
	}
	const dir = "sys/firmware/efi/efivars"
	if entries, err := fs.ReadDir(root, dir); err != nil || len(entries) == 0 { // not mounted
		return kexec.Unknown
	}
	if _, err := fs.Stat(root, dir+"/StubPcrKernelImage-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"); err != nil {
		return kexec.No
	}
	return kexec.Yes
}

// inspect searches the initrd, and returns the major version of systemd, 0 if it
// is not known. An initrd that cannot be read here may still be one that Linux
// unpacks.
func (u *userspace) inspect(boot *stub.Boot) (major int, err error) {
	found, err := initrd.Inspect(boot.Initrd...)
	if errors.Is(err, initrd.ErrUnreadable) {
		u.separator, u.why = measure.SeparatorUnknown, err.Error()
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	u.version = found.Systemd
	switch {
	case found.OSSeparator.Answer == initrd.Yes:
		u.separator = measure.SeparatorYes
	case found.OSSeparator.Answer == initrd.Unknown && (found.Major == 0 || found.Major >= separatorSince):
		u.separator, u.why = measure.SeparatorUnknown, found.OSSeparator.Why
	}
	if found.EnterInitrd.Answer == initrd.No {
		u.silent, u.why = true, found.EnterInitrd.Why
	}
	return found.Major, nil
}

func parseSystemd(version string) (major int, err error) {
	v, err := uki.ParseStub(version) // versions of systemd are all alike
	if err != nil {
		return 0, fmt.Errorf("--systemd=%.40s: not a version such as 262 or 257.13-1", version)
	}
	return v.Major, nil
}

// measuredOS tells what the command line says of systemd.tpm2_measured_os, which
// turns measurements by userspace on or off (systemd 262,
// src/shared/efi-loader.c, efi_measured_os; the last one counts). Words that are
// no boolean are passed over, as systemd does.
func measuredOS(cmdline string) (on, said bool) {
	for word := range strings.FieldsSeq(cmdline) {
		key, value, hasValue := strings.Cut(word, "=")
		if strings.ReplaceAll(key, "-", "_") != "systemd.tpm2_measured_os" {
			continue
		}
		switch value = strings.ToLower(strings.Trim(value, `"`)); {
		case !hasValue, slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, value):
			on, said = true, true
		case slices.Contains([]string{"0", "no", "n", "false", "f", "off"}, value):
			on, said = false, true
		}
	}
	return on, said
}

// String says it in one line.
func (u *userspace) String() string {
	text := u.version
	if text == "" {
		text = "not found in the initrd"
	}
	switch {
	case u.silent:
		text += "; no phase word is extended: " + u.why
	case u.separator == measure.SeparatorYes:
		text += "; extends os-separator into PCRs 12 and 13 at enter-initrd"
	case u.separator == measure.SeparatorUnknown:
		text += "; whether it extends os-separator into PCRs 12 and 13 cannot be told: " + u.why
	}
	return text
}

// A userspaceJSON is the same for predict --json.
type userspaceJSON struct {
	Version string `json:"version"` // "" if it is not known, or there is none
	// OSSeparator is yes, no or unknown.
	OSSeparator string `json:"os_separator"`
	// Silent: no phase word is extended.
	Silent bool   `json:"silent"`
	Why    string `json:"why,omitempty"`
}

func (u *userspace) json() *userspaceJSON {
	word := map[measure.Separator]string{measure.SeparatorNo: "no", measure.SeparatorYes: "yes", measure.SeparatorUnknown: "unknown"}
	return &userspaceJSON{u.version, word[u.separator], u.silent, u.why}
}

// writeNotes tells what a verb whose output does not say it should have said: the
// boot entry that was taken, what is ignored, what userspace will not do.
func writeNotes(w io.Writer, m *image, boot *stub.Boot, u *userspace) {
	note := func(format string, args ...any) {
		fmt.Fprintf(w, "mkexec: note: %s\n", clean(fmt.Sprintf(format, args...)))
	}
	if m.entry != nil {
		note("%s is the default boot entry, %s", m.path, m.entry.ID)
	}
	for _, ignored := range slices.Concat(m.ignored, boot.Ignored) {
		note("ignored: %s", ignored)
	}
	if u != nil && (u.silent || u.separator != measure.SeparatorNo) {
		note("systemd: %s", u)
	}
}

// reaches refuses requirements at phases that never come.
func (u *userspace) reaches(rs policy.Requirements) error {
	for _, r := range rs {
		if u.silent && r.At != "" && !r.Optional {
			return withHint(fmt.Errorf("%s: the phase %s never comes: %s: %w", r.Name, r.At, u.why, policy.ErrCannotTell),
				"to say which systemd is in the initrd: --systemd=VERSION; a requirement that holds before the first phase has at: \"\"")
		}
	}
	return nil
}
