package stub

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mkexec/mkexec/measure/hwid"
	"github.com/mkexec/mkexec/measure/uki"
)

// ErrHardware is wrapped in the error for a section that is for certain machines
// if it is not known whether this is one of them. It is an ErrCannotTell.
var ErrHardware = fmt.Errorf("whether it is used depends on the hardware: %w", ErrCannotTell)

// selectForHardware finds the section of a name of which an image may have
// several, each for certain machines: .dtbauto by the devicetree's compatible
// string, .efifw by the firmware's ID. The first one that is for this machine
// counts (systemd 262, src/boot/pe.c, pe_use_this_dtb, pe_use_this_firmware).
// What .hwids says counts within the same base or profile only.
func selectForHardware(name string, sections []*uki.Section, machine *hwid.Machine, major int) (*uki.Section, error) {
	var candidates []*uki.Section
	for _, s := range sections {
		if s.Name == name && s.Size() > 0 {
			candidates = append(candidates, s)
		}
	}
	if len(candidates) == 0 {
		return nil, nil
	}
	cannotTell := fmt.Errorf("section %s: %w", name, ErrHardware)
	if machine == nil {
		return nil, cannotTell
	}
	var entries []hwid.Entry
	if i := slices.IndexFunc(sections, func(s *uki.Section) bool { return s.Name == ".hwids" }); i >= 0 && sections[i].Size() > 0 {
		var err error
		if entries, err = hwid.ParseHWIDs(sections[i]); err != nil {
			return nil, err
		}
	}
	wanted, idOf := machine.Devicetree, hwid.FirstCompatible
	if name == ".efifw" {
		wanted, idOf = machine.Firmware, hwid.FirmwareID
	}
	want, ok, err := wanted(entries, major)
	if errors.Is(err, hwid.ErrUnknown) {
		return nil, fmt.Errorf("%w: %w", cannotTell, err)
	}
	if err != nil || !ok {
		return nil, err
	}
	for _, s := range candidates {
		id, err := idOf(s)
		if err != nil && name == ".dtbauto" {
			err = fmt.Errorf("section .dtbauto: %w", err)
		}
		if err != nil {
			return nil, err
		}
		if id == want {
			return s, nil
		}
	}
	return nil, nil
}
