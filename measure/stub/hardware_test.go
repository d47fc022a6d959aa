package stub_test

// These tests have sections for certain machines, and expectations written by
// hand from the specification (1.3 to 1.5). They do not prove how a machine is
// recognised, which package hwid does; no golden boot has such sections.

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/hwid"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// devicetree is a flattened devicetree (Devicetree Specification 0.4, 5) with
// one property, and something behind it that tells it from others.
func devicetree(compatible, mark string) ukitest.Section {
	be := binary.BigEndian.AppendUint32
	nodes := be(nil, 1)                   // FDT_BEGIN_NODE
	nodes = append(nodes, 0, 0, 0, 0)     // its name is empty
	nodes = be(nodes, 3)                  // FDT_PROP
	value := compatible + "\x00other\x00" // the first one counts
	nodes = be(be(nodes, uint32(len(value))), 0)
	nodes = append(nodes, value+strings.Repeat("\x00", (4-len(value)%4)%4)...)
	nodes = be(be(nodes, 2), 9) // FDT_END_NODE, FDT_END
	const names = "compatible\x00"
	const start = 40 + 16 // no memory is reserved
	h := be(nil, 0xd00dfeed)
	for _, n := range []int{start + len(nodes) + len(names), start, start + len(nodes), 40, 17, 16, 0, len(names), len(nodes)} {
		h = be(h, uint32(n))
	}
	return sec(".dtbauto", string(h)+strings.Repeat("\x00", 16)+string(nodes)+names+mark)
}

// firmwareImage is an .efifw section (specification, 1.5).
func firmwareImage(name, mark string) ukitest.Section {
	b := binary.LittleEndian.AppendUint32(nil, 0xfeeddead)
	for _, n := range []int{16, len(name) + 1, len(mark)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return sec(".efifw", string(b)+name+"\x00"+mark)
}

// board is a machine without a devicetree of the firmware.
func board() *hwid.Machine {
	k := hwid.Known
	return &hwid.Machine{FirmwareDevicetree: k(""), Panel: k(""), SMBIOS: hwid.SMBIOS{Manufacturer: k("M"), Family: k("F"), ProductName: k("P"), SKU: k("S"),
		BaseboardManufacturer: k("BM"), BaseboardProduct: k("BP")}}
}

// hwids is a .hwids section with one entry for that machine.
func hwids(kind uint32, text string) ukitest.Section {
	c := board().CHIDs(262)[0].CHID
	b := binary.LittleEndian.AppendUint32(nil, kind<<28|28)
	b = append(b, c[3], c[2], c[1], c[0], c[5], c[4], c[7], c[6])
	b = append(b, c[8:]...)
	b = binary.LittleEndian.AppendUint32(b, 56)
	b = binary.LittleEndian.AppendUint32(b, 56)
	return sec(".hwids", string(b)+strings.Repeat("\x00", 28)+text+"\x00")
}

func TestHardware(t *testing.T) {
	t.Parallel()
	withDevicetree := &hwid.Machine{FirmwareDevicetree: hwid.Known("v,own")}
	own, own2, other := devicetree("v,own", "own1"), devicetree("v,own", "own2"), devicetree("v,other", "oth1")
	profile, dtb := sec(".profile", "ID=p"), sec(".dtb", "plain")
	empty := ukitest.Section{Name: ".dtbauto"}
	for name, test := range map[string]struct {
		version     string
		machine     *hwid.Machine
		sections    []ukitest.Section
		used        string // the last bytes of .dtbauto or .efifw that is measured, "" if none is
		devicetrees string
	}{
		"match":                {"262", withDevicetree, []ukitest.Section{own}, "own1", "section .dtbauto"},
		"257":                  {"257", withDevicetree, []ukitest.Section{own}, "own1", "section .dtbauto"},
		"no match":             {"262", withDevicetree, []ukitest.Section{other}, "", ""},
		"first match":          {"262", withDevicetree, []ukitest.Section{other, own, own2}, "own1", "section .dtbauto"},
		"empty ones":           {"262", withDevicetree, []ukitest.Section{empty, own2, own}, "own2", "section .dtbauto"},
		"before .dtb":          {"262", withDevicetree, []ukitest.Section{dtb, own}, "own1", "section .dtbauto"},
		"falls back on .dtb":   {"262", withDevicetree, []ukitest.Section{dtb, other}, "", "section .dtb"},
		"profile":              {"262", withDevicetree, []ukitest.Section{own, profile, own2}, "own2", "section .dtbauto"},
		"profile has no match": {"262", withDevicetree, []ukitest.Section{own, profile, other}, "own1", "section .dtbauto"},
		"profile has an empty": {"262", withDevicetree, []ukitest.Section{own, profile, empty}, "own1", "section .dtbauto"},
		"only in the profile":  {"262", withDevicetree, []ukitest.Section{other, profile, own}, "own1", "section .dtbauto"},
		"other profile":        {"262", withDevicetree, []ukitest.Section{profile, profile, own}, "", ""},
		"hwids":                {"262", board(), []ukitest.Section{hwids(1, "v,own"), other, own}, "own1", "section .dtbauto"},
		"hwids behind":         {"262", board(), []ukitest.Section{own, hwids(1, "v,own")}, "own1", "section .dtbauto"},
		"hwids for another":    {"262", board(), []ukitest.Section{hwids(1, "v,x"), other, own}, "", ""},
		"no hwids":             {"262", board(), []ukitest.Section{own}, "", ""},
		"second hwids":         {"262", board(), []ukitest.Section{hwids(1, "v,x"), hwids(1, "v,own"), own}, "", ""},
		"empty hwids first":    {"262", board(), []ukitest.Section{{Name: ".hwids"}, hwids(1, "v,own"), own}, "", ""},
		"hwids of the base":    {"262", board(), []ukitest.Section{hwids(1, "v,own"), profile, own}, "", ""},
		"hwids of the profile": {"262", board(), []ukitest.Section{own, profile, hwids(1, "v,own"), own2}, "own2", "section .dtbauto"},
		"hwids do not count":   {"262", withDevicetree, []ukitest.Section{hwids(1, "v,other"), other, own}, "own1", "section .dtbauto"},
		"firmware":             {"262", board(), []ukitest.Section{hwids(2, "fw"), firmwareImage("other", "oth1"), firmwareImage("fw", "fw_1"), firmwareImage("fw", "fw_2")}, "fw_1", ""},
		"firmware for another": {"262", board(), []ukitest.Section{hwids(2, "fw"), firmwareImage("other", "oth1")}, "", ""},
		"firmware, 257":        {"257", board(), []ukitest.Section{hwids(2, "fw"), firmwareImage("fw", "fw_1")}, "", ""},
		"firmware, no hwids":   {"262", board(), []ukitest.Section{firmwareImage("fw", "fw_1")}, "", ""},
	} {
		b := load(t, test.version, stub.Options{Via: stub.ViaKexec, Hardware: test.machine}, append([]ukitest.Section{linux}, test.sections...)...)
		got := []string{}
		for i, m := range b.Measurements {
			if name := fromUTF16z(m.Data); i%2 == 1 && (name == ".dtbauto" || name == ".efifw") {
				s := read(t, m.Content)
				got = append(got, s[len(s)-4:])
			}
		}
		if strings.Join(got, " ") != test.used || strings.Join(b.Devicetrees, ", ") != test.devicetrees {
			t.Errorf("%s: measures %q, installs %q", name, got, b.Devicetrees)
		}
	}
}

func TestHardwareUnknown(t *testing.T) {
	t.Parallel()
	own, fw := devicetree("v,own", "own1"), firmwareImage("fw", "fw_1")
	unsure := board()
	unsure.FirmwareDevicetree = hwid.Fact{"v,own", "v,other"}
	const hardware = ": whether it is used depends on the hardware: cannot tell: "
	for name, test := range map[string]struct {
		version  string
		machine  *hwid.Machine
		sections []ukitest.Section
		want     string
		unknown  bool
	}{
		"nothing known":          {"262", &hwid.Machine{}, []ukitest.Section{own}, "section .dtbauto" + hardware + "devicetree: that of the firmware: the machine is not known well enough", true},
		"one of two":             {"262", unsure, []ukitest.Section{own}, `section .dtbauto` + hardware + `devicetree: that of the firmware (one of ["v,own" "v,other"]): the machine is not known well enough`, true},
		"firmware, 258":          {"258", board(), []ukitest.Section{hwids(2, "fw"), fw}, `section .efifw` + hardware + `firmware "fw": whether systemd-stub 258 looks for it: the machine is not known well enough`, true},
		"broken devicetree":      {"262", &hwid.Machine{FirmwareDevicetree: hwid.Known("v,own")}, []ukitest.Section{sec(".dtbauto", "x"), own}, `section .dtbauto: devicetree: 1 bytes: no header`, false},
		"nothing depends":        {"262", &hwid.Machine{}, []ukitest.Section{sec(".dtb", "x"), hwids(1, "v,own")}, "", false},
		"matches before":         {"262", &hwid.Machine{FirmwareDevicetree: hwid.Known("v,own")}, []ukitest.Section{own, sec(".dtbauto", "x")}, "", false},
		"broken, not needed":     {"262", board(), []ukitest.Section{sec(".hwids", "x")}, "", false},
		"broken, no match":       {"262", board(), []ukitest.Section{sec(".dtbauto", "x"), sec(".efifw", "x")}, "", false},
		"other, before 257":      {"256", nil, []ukitest.Section{own, fw, hwids(1, "x")}, "", false},
		"in another profile":     {"262", nil, []ukitest.Section{sec(".profile", ""), sec(".profile", ""), own, fw}, "", false},
		"empty, no machine":      {"262", nil, []ukitest.Section{{Name: ".dtbauto"}, {Name: ".efifw"}}, "", false},
		"devicetree, no machine": {"262", nil, []ukitest.Section{own}, "section .dtbauto: whether it is used depends on the hardware: cannot tell", true},
	} {
		b, err := loadBytes(build(t, test.version, append([]ukitest.Section{linux}, test.sections...)...), stub.Options{Via: stub.ViaKexec, Hardware: test.machine})
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if wantError(t, err, test.want); errors.Is(err, stub.ErrCannotTell) != test.unknown || b != nil {
			t.Errorf("%s: ErrCannotTell: %v", name, err)
		}
	}
}

// TestHardwareErrorOnce: what package hwid says is not said twice.
func TestHardwareErrorOnce(t *testing.T) {
	t.Parallel()
	fw := firmwareImage("fw", "fw_1")
	for _, sections := range [][]ukitest.Section{{sec(".hwids", "x"), fw}, {hwids(2, "fw"), sec(".efifw", "x")}} {
		_, err := loadBytes(build(t, "262", append([]ukitest.Section{linux}, sections...)...), stub.Options{Via: stub.ViaKexec, Hardware: board()})
		if err == nil || strings.Count(err.Error(), "section .") != 1 {
			t.Errorf("%v", err)
		}
	}
}

// TestHardwareAddon: .dtbauto of an addon for this machine comes before its .dtb.
func TestHardwareAddon(t *testing.T) {
	t.Parallel()
	machine := &hwid.Machine{FirmwareDevicetree: hwid.Known("v,own")}
	own, other, dtb := devicetree("v,own", "own1"), devicetree("v,other", "oth1"), sec(".dtb", "plain")
	const nothing = "addon x.addon.efi: it has nothing that systemd-stub 262 takes from an addon"
	for name, test := range map[string]struct {
		sections      []ukitest.Section
		used, ignored string
	}{
		"match":      {[]ukitest.Section{own}, "own1", ""},
		"before":     {[]ukitest.Section{dtb, own}, "own1", ""},
		"other":      {[]ukitest.Section{other, dtb}, "lain", ""},
		"only other": {[]ukitest.Section{other}, "", nothing},
		"first":      {[]ukitest.Section{other, own, dtb}, "own1", ""},
	} {
		opts := kexec(nil, []stub.File{addon(t, "x", test.sections...)})
		opts.Hardware = machine
		b := load(t, "262", opts, linux, devicetree("v,own", "base"))
		got := ""
		if last := b.Measurements[len(b.Measurements)-1]; last.PCR == 12 {
			s := read(t, last.Content)
			got = s[len(s)-4:]
		}
		if got != test.used || strings.Join(b.Ignored, "") != test.ignored {
			t.Errorf("%s: measures %q, ignored %q", name, got, b.Ignored)
		}
		want := []string{"section .dtbauto"}
		if test.used != "" {
			want = append(want, "addon x.addon.efi")
		}
		if !slices.Equal(b.Devicetrees, want) {
			t.Errorf("%s: installs %q", name, b.Devicetrees)
		}
	}
}
