package hwid

import (
	"fmt"
	"slices"
)

// The versions of systemd-stub that know .dtbauto and .hwids, as far as their
// rules are known.
const (
	oldestVersion = 257
	newestVersion = 262
)

// An answer is what the machine's facts come to.
type answer struct {
	text    string
	ok      bool
	unknown string // what would have to be known; text and ok mean nothing then
}

// result returns the answer to the question what is used.
func (a answer) result(what string) (string, bool, error) {
	if a.unknown != "" {
		return "", false, fmt.Errorf("%s: %s: %w", what, a.unknown, ErrUnknown)
	}
	return a.text, a.ok, nil
}

// Devicetree returns the compatible string that a .dtbauto section must have for
// systemd-stub of the major version to use it: that of the firmware's devicetree;
// or, if the firmware has none, that of the first entry for a devicetree with one
// of the machine's CHIDs (systemd 262, src/boot/pe.c, pe_use_this_dtb). hwids is
// the section .hwids of the range of the section table that the candidates are
// in, nil if there is none.
//
// Without ok the stub uses no .dtbauto section on this machine. An error that
// wraps ErrUnknown names what would have to be known.
func (m *Machine) Devicetree(hwids []Entry, version int) (compatible string, ok bool, err error) {
	if err := checkVersion(version); err != nil {
		return "", false, err
	}
	found := answer{unknown: "that of the firmware"}
	for i, own := range m.FirmwareDevicetree {
		a := answer{text: own, ok: true}
		if own == "" {
			a = m.lookUp(hwids, TypeDevicetree, version)
		}
		if i > 0 && a.unknown == "" && a != found {
			a = answer{unknown: fmt.Sprintf("that of the firmware (one of %.80q)", m.FirmwareDevicetree)}
		}
		if found = a; a.unknown != "" {
			break
		}
	}
	return found.result("devicetree")
}

// Firmware returns the name that an .efifw section must have for systemd-stub of
// the major version to use it: that of the first entry for a firmware with one of
// the machine's CHIDs, whether or not the firmware has a devicetree (systemd
// 262.1, src/boot/pe.c, pe_locate_sections, by its machine code). The results are
// as in Devicetree.
//
// The releases 258 to 260 never looked for it (systemd issue tracker, pull request
// 42570); when that was mended is not known better than: by 262.1. A match is
// therefore ErrUnknown up to 261.
func (m *Machine) Firmware(hwids []Entry, version int) (name string, ok bool, err error) {
	if err := checkVersion(version); err != nil {
		return "", false, err
	}
	if version < 258 {
		return "", false, nil // does not know .efifw
	}
	name, ok, err = m.lookUp(hwids, TypeFirmware, version).result("firmware")
	if ok && version < 262 {
		return "", false, fmt.Errorf("firmware %.80q: whether systemd-stub %d looks for it: %w", name, version, ErrUnknown)
	}
	return name, ok, err
}

func checkVersion(version int) error {
	if version < oldestVersion || version > newestVersion {
		return fmt.Errorf("systemd-stub %d: how it selects sections by hardware is not known (known: %d to %d)",
			version, oldestVersion, newestVersion)
	}
	return nil
}

// lookUp looks for an entry of the machine, once for each panel that the machine
// can have: the answer must be the same with all of them.
func (m *Machine) lookUp(hwids []Entry, kind EntryType, version int) answer {
	if len(m.Panel) < 2 {
		return m.match(hwids, kind, version)
	}
	var found answer
	for i, p := range m.Panel {
		with := *m
		with.Panel = Known(p)
		a := with.match(hwids, kind, version)
		if i > 0 && a.unknown == "" && a != found {
			a = answer{unknown: fmt.Sprintf("%s (one of %.80q)", fieldNames[panel], m.Panel)}
		}
		if found = a; a.unknown != "" {
			break
		}
	}
	return found
}

// match looks for an entry of the machine as the stub does: for each CHID, by
// priority, from the first entry on (systemd 262, src/boot/chid.c, chid_match).
// In 257 an entry that is not for a devicetree makes the section unusable.
//
// A CHID that cannot be told could be that of any entry whose CHID is not one of
// the others of this machine: two CHIDs are the same only if SHA-1 collides. It
// does not matter if it comes after the match, or if those entries say the same.
func (m *Machine) match(hwids []Entry, kind EntryType, version int) answer {
	if version < 258 && slices.ContainsFunc(hwids, func(e Entry) bool { return e.Type != TypeDevicetree }) {
		return answer{}
	}
	ids := m.CHIDs(version)
	var found answer
	var unknown string // of the CHIDs that the stub would look for first
	for _, id := range ids {
		if id.Unknown != "" {
			if unknown == "" {
				unknown = id.Unknown
			}
			continue
		}
		if i := slices.IndexFunc(hwids, func(e Entry) bool { return e.Type == kind && e.CHID == id.CHID }); i >= 0 {
			found = hwids[i].answer()
			break
		}
	}
	if unknown == "" {
		return found
	}
	for _, e := range hwids {
		other := !slices.ContainsFunc(ids, func(id HardwareID) bool { return id.Unknown == "" && id.CHID == e.CHID })
		if e.Type == kind && other && e.answer() != found {
			return answer{unknown: unknown}
		}
	}
	return found
}

// answer returns what a match of the entry comes to: nothing is used if it does
// not say what (systemd 262, src/boot/pe.c, pe_use_this_dtb).
func (e Entry) answer() answer { return answer{text: e.Text, ok: e.Text != ""} }
