package hwid_test

// What is decided, and what is not, from facts that are not all known. The rules
// for known facts are proved by boots_test.go; what a firmware's devicetree does,
// and the extensions with a panel, stand here as in the source of systemd, not
// proved by a boot.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/mkexec/mkexec/measure/hwid"
)

var (
	acme = map[string]string{"sys_vendor": "Acme", "product_family": "Fast", "product_name": "Rocket",
		"product_sku": "R1", "board_vendor": "AcmeB", "board_name": "Board"}
	stranger = hwid.CHID{1: 1}
)

// chid returns a CHID of acme with the panel RHT1234.
func chid(t testing.TB, number int) hwid.CHID {
	t.Helper()
	for _, id := range machine(acme, "RHT1234").CHIDs(262) {
		if id.Number == number {
			return id.CHID
		}
	}
	t.Fatalf("no CHID %d", number)
	return hwid.CHID{}
}

func dt(c hwid.CHID, compatible string) hwid.Entry {
	return hwid.Entry{Type: hwid.TypeDevicetree, CHID: c, Text: compatible}
}

func fw(c hwid.CHID, name string) hwid.Entry {
	return hwid.Entry{Type: hwid.TypeFirmware, CHID: c, Text: name}
}

func TestDevicetree(t *testing.T) {
	t.Parallel()
	c := func(n int) hwid.CHID { return chid(t, n) }
	const unknownPanel = "devicetree: panel: the machine is not known well enough"
	const unknownSKU = "devicetree: smbios sku: the machine is not known well enough"
	for _, test := range []struct {
		name    string
		change  func(m *hwid.Machine) // of acme without a panel
		version int
		entries []hwid.Entry
		want    string // the compatible string, "none" or the error
	}{
		{"match", nil, 262, []hwid.Entry{dt(c(3), "a")}, "a"},
		{"no entry", nil, 262, nil, "none"},
		{"stranger", nil, 262, []hwid.Entry{dt(stranger, "a")}, "none"},
		{"firmware entry", nil, 262, []hwid.Entry{fw(c(3), "a"), dt(c(7), "b")}, "b"},
		{"firmware entry, 257", nil, 257, []hwid.Entry{fw(stranger, "a"), dt(c(3), "b")}, "none"},
		{"first of two", nil, 262, []hwid.Entry{dt(c(3), "a"), dt(c(3), "b")}, "a"},
		{"says nothing", nil, 262, []hwid.Entry{dt(c(3), ""), dt(c(6), "b")}, "none"},

		{"panel", func(m *hwid.Machine) { m.Panel = hwid.Known("RHT1234") }, 258, []hwid.Entry{dt(c(3), "a"), dt(c(15), "b"), dt(c(17), "c"), dt(c(16), "d")}, "c"},
		{"panel, 257", func(m *hwid.Machine) { m.Panel = hwid.Known("RHT1234") }, 257, []hwid.Entry{dt(c(3), "a"), dt(c(17), "c")}, "a"},
		{"other panel", func(m *hwid.Machine) { m.Panel = hwid.Known("RHT1235") }, 262, []hwid.Entry{dt(c(3), "a"), dt(c(17), "c")}, "a"},

		{"firmware's", func(m *hwid.Machine) { m.FirmwareDevicetree = hwid.Known("own") }, 262, []hwid.Entry{dt(c(3), "a")}, "own"},
		{"firmware's unknown", func(m *hwid.Machine) { m.FirmwareDevicetree = nil }, 262, nil,
			"devicetree: that of the firmware: the machine is not known well enough"},
		{"firmware's or none, same", func(m *hwid.Machine) { m.FirmwareDevicetree = hwid.Fact{"a", ""} }, 262, []hwid.Entry{dt(c(3), "a")}, "a"},
		{"firmware's or none, other", func(m *hwid.Machine) { m.FirmwareDevicetree = hwid.Fact{"a", ""} }, 262, []hwid.Entry{dt(c(3), "b")},
			`devicetree: that of the firmware (one of ["a" ""]): the machine is not known well enough`},
		{"firmware's or none, no match", func(m *hwid.Machine) { m.FirmwareDevicetree = hwid.Fact{"", "a"} }, 262, nil,
			`devicetree: that of the firmware (one of ["" "a"]): the machine is not known well enough`},
		{"firmware's or none, unknown SKU", func(m *hwid.Machine) {
			m.FirmwareDevicetree, m.SMBIOS.SKU = hwid.Fact{"a", ""}, nil
		}, 262, []hwid.Entry{dt(stranger, "b")}, unknownSKU},

		// A CHID that is not known could be the stranger.
		{"unknown SKU", func(m *hwid.Machine) { m.SMBIOS.SKU = nil }, 262, []hwid.Entry{dt(stranger, "a")}, unknownSKU},
		{"unknown SKU, match", func(m *hwid.Machine) { m.SMBIOS.SKU = nil }, 262, []hwid.Entry{dt(c(8), "a")}, "a"},
		{"unknown SKU, match and stranger", func(m *hwid.Machine) { m.SMBIOS.SKU = nil }, 262, []hwid.Entry{dt(c(8), "a"), dt(stranger, "b")}, unknownSKU},
		{"unknown SKU, match and stranger alike", func(m *hwid.Machine) { m.SMBIOS.SKU = nil }, 262, []hwid.Entry{dt(c(8), "a"), dt(stranger, "a")}, "a"},
		{"unknown SKU, two matches", func(m *hwid.Machine) { m.SMBIOS.SKU = nil }, 262, []hwid.Entry{dt(c(9), "b"), dt(c(8), "a")}, "a"},
		{"unknown SKU, stranger for a firmware", func(m *hwid.Machine) { m.SMBIOS.SKU = nil }, 262, []hwid.Entry{fw(stranger, "a")}, "none"},
		{"unknown SKU, stranger that says nothing", func(m *hwid.Machine) { m.SMBIOS.SKU = nil }, 262, []hwid.Entry{dt(stranger, "")}, "none"},
		{"unknown family, better match", func(m *hwid.Machine) { m.Panel, m.SMBIOS.Family = hwid.Known("RHT1234"), nil }, 262,
			[]hwid.Entry{dt(c(17), "a"), dt(stranger, "b")}, "a"},
		{"unknown panel, 257", func(m *hwid.Machine) { m.Panel = nil }, 257, []hwid.Entry{dt(stranger, "a")}, "none"},
		{"unknown panel", func(m *hwid.Machine) { m.Panel = nil }, 262, []hwid.Entry{dt(stranger, "a")}, unknownPanel},
		{"unknown panel, match", func(m *hwid.Machine) { m.Panel = nil }, 262, []hwid.Entry{dt(c(3), "a"), dt(c(6), "b")}, "a"},
		{"nothing known, no entry", func(m *hwid.Machine) { *m = hwid.Machine{FirmwareDevicetree: hwid.Known("")} }, 262, nil, "none"},
		{"nothing known", func(m *hwid.Machine) { *m = hwid.Machine{} }, 262, nil,
			"devicetree: that of the firmware: the machine is not known well enough"},

		{"panel or none, no extension", func(m *hwid.Machine) { m.Panel = hwid.Fact{"", "RHT1234"} }, 262, []hwid.Entry{dt(c(3), "a"), dt(stranger, "b")}, "a"},
		{"panel or none, alike", func(m *hwid.Machine) { m.Panel = hwid.Fact{"", "RHT1234"} }, 262, []hwid.Entry{dt(c(3), "a"), dt(c(16), "a")}, "a"},
		{"panel or none", func(m *hwid.Machine) { m.Panel = hwid.Fact{"", "RHT1234"} }, 262, []hwid.Entry{dt(c(3), "a"), dt(c(16), "b")},
			`devicetree: panel (one of ["" "RHT1234"]): the machine is not known well enough`},

		{"256", nil, 256, nil, "systemd-stub 256: how it selects sections by hardware is not known (known: 257 to 262)"},
		{"263", nil, 263, nil, "systemd-stub 263: how it selects sections by hardware is not known (known: 257 to 262)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := machine(acme, "")
			if test.change != nil {
				test.change(m)
			}
			check(t, test.want)(m.Devicetree(test.entries, test.version))
		})
	}
}

func TestFirmware(t *testing.T) {
	t.Parallel()
	c := func(n int) hwid.CHID { return chid(t, n) }
	for _, test := range []struct {
		name    string
		change  func(m *hwid.Machine)
		version int
		entries []hwid.Entry
		want    string
	}{
		{"match", nil, 262, []hwid.Entry{dt(c(3), "a"), fw(c(7), "f"), fw(c(6), "g")}, "g"},
		{"none", nil, 262, []hwid.Entry{dt(c(3), "a")}, "none"},
		{"257", nil, 257, []hwid.Entry{fw(c(7), "f")}, "none"},
		{"258", nil, 258, []hwid.Entry{fw(c(7), "f")}, `firmware "f": whether systemd-stub 258 looks for it: the machine is not known well enough`},
		{"261", nil, 261, []hwid.Entry{fw(c(7), "f")}, `firmware "f": whether systemd-stub 261 looks for it: the machine is not known well enough`},
		{"261, none", nil, 261, []hwid.Entry{fw(stranger, "f")}, "none"},
		{"devicetree unknown", func(m *hwid.Machine) { m.FirmwareDevicetree = nil }, 262, []hwid.Entry{fw(c(7), "f")}, "f"},
		{"unknown manufacturer", func(m *hwid.Machine) { m.SMBIOS.Manufacturer = nil }, 262, []hwid.Entry{fw(c(7), "f")},
			"firmware: smbios manufacturer: the machine is not known well enough"},
		{"unknown manufacturer, 261", func(m *hwid.Machine) { m.SMBIOS.Manufacturer = nil }, 261, []hwid.Entry{fw(c(7), "f")},
			"firmware: smbios manufacturer: the machine is not known well enough"},
		{"256", nil, 256, nil, "systemd-stub 256: how it selects sections by hardware is not known (known: 257 to 262)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := machine(acme, "")
			if test.change != nil {
				test.change(m)
			}
			check(t, test.want)(m.Firmware(test.entries, test.version))
		})
	}
}

// check compares a result with a text, "none" or an error.
func check(t *testing.T, want string) func(text string, ok bool, err error) {
	return func(text string, ok bool, err error) {
		t.Helper()
		got := text
		switch {
		case err != nil:
			got = err.Error()
			if text != "" || ok {
				t.Errorf("an error with %q, %v", text, ok)
			}
		case !ok:
			got = "none"
		}
		if got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// Whatever is hidden of a machine, an answer is that of the whole machine.
func TestNeverAGuess(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	own := machine(acme, "RHT1234").CHIDs(262)
	answered, refused := 0, 0
	for range 3000 {
		m := machine(acme, []string{"", "RHT1234"}[r.IntN(2)])
		m.FirmwareDevicetree = hwid.Known([]string{"", "", "a"}[r.IntN(3)])
		version := 257 + r.IntN(6)
		var entries []hwid.Entry
		for range r.IntN(4) {
			c := stranger
			if r.IntN(4) > 0 {
				c = own[r.IntN(len(own))].CHID
			}
			e := dt(c, string(rune('a'+r.IntN(2))))
			if r.IntN(4) == 0 {
				e = fw(c, "f")
			}
			entries = append(entries, e)
		}
		hidden := *m
		for _, hide := range hiders {
			if r.IntN(4) == 0 {
				hide(&hidden)
			}
		}
		if r.IntN(4) == 0 {
			hidden.Panel = hwid.Fact{"", "RHT1234", "AUO0001"}
		}
		if r.IntN(4) == 0 {
			hidden.FirmwareDevicetree = hwid.Fact{"a", ""}
		}
		for _, ask := range []func(*hwid.Machine) (string, bool, error){
			func(m *hwid.Machine) (string, bool, error) { return m.Devicetree(entries, version) },
			func(m *hwid.Machine) (string, bool, error) { return m.Firmware(entries, version) },
		} {
			text, ok, err := ask(&hidden)
			if errors.Is(err, hwid.ErrUnknown) {
				refused++
				continue
			}
			answered++
			wantText, wantOK, wantErr := ask(m)
			if got, want := fmt.Sprint(text, ok, err), fmt.Sprint(wantText, wantOK, wantErr); got != want {
				t.Fatalf("%d: %v\nknown:  %+v: %s\nhidden: %+v: %s", version, entries, m, want, hidden, got)
			}
		}
	}
	if answered < 300 || refused < 300 {
		t.Errorf("%d answered, %d refused: too few", answered, refused)
	}
}
