package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure/initrd"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
)

// A userspace is what is known of systemd in the initrd.
type userspace struct {
	version   string // "" if it is not known, or there is none
	separator bool   // extends os-separator, see measure.Prediction
	note      string // why it is not known, or what to mind
}

// separatorSince is the version of systemd that came with
// systemd-pcrosseparator.service (systemd NEWS, 261).
const separatorSince = 261

// findUserspace looks for systemd in the initrd, if --systemd does not say it.
func (f *imageFlags) findUserspace(boot *stub.Boot) (*userspace, error) {
	on, said := measuredOS(boot.Cmdline)
	silent := said && !on
	u := &userspace{}
	if f.systemd != "" {
		v, err := parseSystemd(f.systemd)
		if err != nil {
			return nil, err
		}
		u.version, u.separator = f.systemd, v >= separatorSince
	} else if err := u.inspect(boot, silent); err != nil {
		return nil, err
	}
	if silent {
		u.separator, u.note = false, "measures nothing (systemd.tpm2_measured_os=no)"
	}
	return u, nil
}

// inspect searches the initrd. One that cannot be unpacked is no error: the
// kernel will not unpack it either.
func (u *userspace) inspect(boot *stub.Boot, silent bool) error {
	found, err := initrd.Inspect(boot.Initrd...)
	switch {
	case errors.Is(err, initrd.ErrUnreadable):
		u.note = err.Error()
		return nil
	case err != nil:
		return err
	case found.OSSeparator.Answer == initrd.Unknown && !silent:
		return withHint(fmt.Errorf("whether systemd extends os-separator into PCRs 12 and 13: %w: %s", stub.ErrCannotTell, found.OSSeparator.Why),
			"to say which systemd is in the initrd: --systemd=VERSION")
	}
	u.version, u.separator = found.Systemd, found.OSSeparator.Answer == initrd.Yes
	if found.Systemd != "" && found.EnterInitrd.Answer != initrd.Yes {
		u.note = fmt.Sprintf("extends enter-initrd into PCR 11: %s (%s)", found.EnterInitrd.Answer, found.EnterInitrd.Why)
	}
	return nil
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
	text := "none in the initrd"
	switch {
	case u.version != "":
		text = u.version
	case u.note != "":
		return "unknown: " + u.note
	}
	if u.separator {
		text += ", extends os-separator into PCRs 12 and 13 at enter-initrd"
	}
	if u.note != "" {
		text += ", " + u.note
	}
	return text
}

// A userspaceJSON is the same for predict --json.
type userspaceJSON struct {
	Version     string `json:"version"` // "" if it is not known, or there is none
	OSSeparator bool   `json:"os_separator"`
	Note        string `json:"note,omitempty"`
}

func (u *userspace) json() *userspaceJSON {
	return &userspaceJSON{u.version, u.separator, u.note}
}
