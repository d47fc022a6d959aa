package hwid_test

// What is read of a /sys that is made up here; real ones of a virtual machine are
// in boots_test.go. It does not prove what Linux shows on machines with a
// devicetree or a screen.

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure/hwid"
)

// sys makes a file tree. A name with "!" before it is a file that may not be read.
func sys(files map[string]string) rootFS {
	r := rootFS{fstest.MapFS{}, map[string]bool{}}
	for name, text := range files {
		name, hidden := strings.CutPrefix(name, "!")
		r.MapFS["sys/"+name] = &fstest.MapFile{Data: []byte(text)}
		r.hidden["sys/"+name] = hidden
	}
	return r
}

// structure is an SMBIOS structure whose formatted area is the header and rest.
func structure(typ byte, rest string, texts ...string) string {
	s := string([]byte{typ, byte(4 + len(rest)), 1, 0}) + rest
	for _, text := range texts {
		s += text + "\x00"
	}
	if len(texts) == 0 {
		s += "\x00"
	}
	return s + "\x00"
}

const (
	table = "firmware/dmi/tables/DMI"
	raw   = "firmware/dmi/entries/11-0/raw"
	extra = "io.systemd.stub.kernel-cmdline-extra="
)

// system is the rest of a type 1 with the strings 1 to 4 in all that are used.
var system = "\x01\x02\x00\x00" + strings.Repeat("\xff", 17) + "\x03\x04"

var end = structure(127, "")

func TestReadMachine(t *testing.T) {
	t.Parallel()
	k := hwid.Known
	empty := hwid.SMBIOS{Manufacturer: k(""), Family: k(""), ProductName: k(""), SKU: k(""), BaseboardManufacturer: k(""), BaseboardProduct: k("")}
	smbios := func(change func(*hwid.SMBIOS)) hwid.SMBIOS {
		s := empty
		change(&s)
		return s
	}
	dtb := string(testdata(t, "full.dtb"))
	edid := string(testdata(t, "rht1234.edid"))
	for _, test := range []struct {
		name  string
		files map[string]string
		want  hwid.Machine
	}{
		{"nothing", nil, hwid.Machine{FirmwareDevicetree: k("")}},
		{"no SMBIOS", map[string]string{"kernel/uevent_seqnum": "1\n"}, hwid.Machine{FirmwareDevicetree: k(""), CmdlineExtra: k("")}},
		{"structures not shown", map[string]string{"kernel/uevent_seqnum": "1\n", "!" + table: ""}, hwid.Machine{FirmwareDevicetree: k("")}},

		// The devicetree.
		{"devicetree", map[string]string{"firmware/devicetree/base/compatible": "a,b\x00c,d\x00"}, hwid.Machine{FirmwareDevicetree: hwid.Fact{"a,b", ""}}},
		{"devicetree and blob", map[string]string{"firmware/devicetree/base/compatible": "a,b\x00", "firmware/fdt": dtb}, hwid.Machine{FirmwareDevicetree: hwid.Fact{"a,b", ""}}},
		{"hidden devicetree", map[string]string{"!firmware/devicetree/base/compatible": "a,b\x00"}, hwid.Machine{}},
		{"empty root, ACPI", map[string]string{"firmware/devicetree/base/name": "\x00", "firmware/fdt": string(testdata(t, "none.dtb"))}, hwid.Machine{FirmwareDevicetree: k("")}},
		{"devicetree that Linux ignores", map[string]string{"firmware/fdt": dtb}, hwid.Machine{FirmwareDevicetree: hwid.Fact{"mkexec,board-rev2", ""}}},
		{"hidden blob", map[string]string{"!firmware/fdt": dtb}, hwid.Machine{}},

		// The panel.
		{"cards without connectors", map[string]string{"class/drm/card0/edid": edid, "class/drm/version": "x", "class/drm/renderD128/x": ""}, hwid.Machine{FirmwareDevicetree: k("")}},
		{"panel", map[string]string{"class/drm/card0-eDP-1/edid": edid, "class/drm/card0-HDMI-A-1/edid": ""}, hwid.Machine{FirmwareDevicetree: k(""), Panel: hwid.Fact{"", "RHT1234"}}},
		{"panel twice", map[string]string{"class/drm/card0-eDP-1/edid": edid, "class/drm/card1-eDP-1/edid": edid}, hwid.Machine{FirmwareDevicetree: k(""), Panel: hwid.Fact{"", "RHT1234"}}},
		{"other panel", map[string]string{"class/drm/card0-eDP-1/edid": edid[:9] + "\x15\x35" + edid[11:]}, hwid.Machine{FirmwareDevicetree: k(""), Panel: hwid.Fact{"", "RHU1235"}}},
		{"no screen", map[string]string{"class/drm/card0-HDMI-A-1/edid": "", "class/drm/card0-Writeback-1/x": ""}, hwid.Machine{FirmwareDevicetree: k(""), Panel: k("")}},
		{"not an EDID", map[string]string{"class/drm/card0-eDP-1/edid": "\x01" + edid[1:]}, hwid.Machine{FirmwareDevicetree: k(""), Panel: k("")}},
		{"short EDID", map[string]string{"class/drm/card0-eDP-1/edid": edid[:127]}, hwid.Machine{FirmwareDevicetree: k(""), Panel: k("")}},
		{"not three letters", map[string]string{"class/drm/card0-eDP-1/edid": edid[:8] + "\x6c\x14" + edid[10:]}, hwid.Machine{FirmwareDevicetree: k(""), Panel: k("")}},
		{"hidden EDID", map[string]string{"!class/drm/card0-eDP-1/edid": edid}, hwid.Machine{FirmwareDevicetree: k("")}},

		// The table.
		{"table without structures", map[string]string{table: end}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("")}},
		{"empty table", map[string]string{table: ""}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("")}},
		{"table", map[string]string{table: structure(1, system, "M", "P", "S", "F") + structure(2, "\x02\x01\x00\x00", "p", "m") + structure(11, "\x02", "x", extra+"a b") + end},
			hwid.Machine{FirmwareDevicetree: k(""), CmdlineExtra: k("a b"), SMBIOS: hwid.SMBIOS{Manufacturer: k("M"), Family: k("F"), ProductName: k("P"), SKU: k("S"),
				BaseboardManufacturer: k("m"), BaseboardProduct: k("p")}}},
		{"numbers of no string", map[string]string{table: structure(1, "\x01\x05"+system[2:], "M", "P") + end},
			hwid.Machine{FirmwareDevicetree: k(""), CmdlineExtra: k(""), SMBIOS: smbios(func(s *hwid.SMBIOS) { s.Manufacturer = k("M") })}},
		{"short type 1", map[string]string{table: structure(1, system[:22], "M", "P", "S", "F") + end}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("")}},
		{"short type 2", map[string]string{table: structure(2, "\x01\x01\x00", "m") + end}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("")}},
		{"second type 11", map[string]string{table: structure(11, "\x01", "x") + structure(11, "\x01", extra+"a") + end}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("")}},
		{"behind the end", map[string]string{table: end + structure(11, "\x01", extra+"a")}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("")}},
		{"first string", map[string]string{table: structure(11, "\x03", "X"+extra+"no", extra+"a", extra+"b")}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("a")}},
		{"not UTF-8", map[string]string{table: structure(1, system, "M\xff", "P\U0001F600", "S", "F")},
			hwid.Machine{FirmwareDevicetree: k(""), CmdlineExtra: k(""), SMBIOS: smbios(func(s *hwid.SMBIOS) { s.Manufacturer, s.ProductName, s.SKU, s.Family = nil, nil, k("S"), k("F") })}},
		{"table before files", map[string]string{table: end, "class/dmi/id/sys_vendor": "M\n", raw: structure(11, "\x01", extra+"a")}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty, CmdlineExtra: k("")}},

		// Not as root.
		{"files", map[string]string{"!" + table: end, "class/dmi/id/sys_vendor": " M\n", "class/dmi/id/product_name": "\n", "class/dmi/id/product_sku": "S\n", "class/dmi/id/product_family": "F\n",
			"class/dmi/id/board_vendor": "m\n", "class/dmi/id/board_name": "p\n", "!class/dmi/id/board_serial": "1\n", "firmware/dmi/entries/1-0/type": "1\n"},
			hwid.Machine{FirmwareDevicetree: k(""), CmdlineExtra: k(""), SMBIOS: hwid.SMBIOS{Manufacturer: k(" M"), Family: k("F"), ProductName: k(""), SKU: k("S"),
				BaseboardManufacturer: k("m"), BaseboardProduct: k("p")}}},
		{"no structures 1 and 2", map[string]string{"class/dmi/id/modalias": "x\n"}, hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: empty}},
		{"perhaps short structures", map[string]string{"class/dmi/id/sys_vendor": "M\n", "class/dmi/id/board_name": "p\n"}, hwid.Machine{FirmwareDevicetree: k("")}},
		{"Linux without product_sku", map[string]string{"class/dmi/id/sys_vendor": "M\n", "class/dmi/id/product_name": "P\n", "class/dmi/id/product_family": "F\n"},
			hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: smbios(func(s *hwid.SMBIOS) { s.Manufacturer, s.ProductName, s.Family, s.SKU = k("M"), k("P"), k("F"), nil })}},
		{"hidden file", map[string]string{"!class/dmi/id/sys_vendor": "M\n", "class/dmi/id/product_family": "F\n", "class/dmi/id/product_name": "P\n", "class/dmi/id/product_sku": "S\n"},
			hwid.Machine{FirmwareDevicetree: k(""), SMBIOS: smbios(func(s *hwid.SMBIOS) { s.Manufacturer, s.ProductName, s.Family, s.SKU = nil, k("P"), k("F"), k("S") })}},
		{"structure of type 11", map[string]string{raw: structure(11, "\x01", extra+"a")}, hwid.Machine{FirmwareDevicetree: k(""), CmdlineExtra: k("a")}},
		{"hidden structure of type 11", map[string]string{"!" + raw: structure(11, "\x01", extra+"a")}, hwid.Machine{FirmwareDevicetree: k("")}},
		{"no structure of type 11", map[string]string{"firmware/dmi/entries/110-0/raw": "", "firmware/dmi/entries/1-0/raw": ""}, hwid.Machine{FirmwareDevicetree: k(""), CmdlineExtra: k("")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m, err := hwid.ReadMachine(sys(test.files))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*m, test.want) {
				t.Errorf("%+v\nwant %+v", *m, test.want)
			}
		})
	}
	root := sys(nil)
	root.MapFS["proc/device-tree/compatible"] = &fstest.MapFile{Data: []byte("a,b\x00")}
	if m, err := hwid.ReadMachine(root); err != nil || !reflect.DeepEqual(m.FirmwareDevicetree, hwid.Fact{"a,b", ""}) {
		t.Errorf("/proc/device-tree: %v, %v", m, err)
	}
}

func TestReadMachineHostile(t *testing.T) {
	t.Parallel()
	oem := structure(11, "\x01", extra+"a")
	for _, test := range []struct {
		name, file, text string
		want             string
	}{
		{"header", table, "\x01\x1b\x00", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: 3 bytes: no header"},
		{"size 3", table, "\x01\x03\x00\x00\x00\x00", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: type 1: formatted area of 3 bytes: not 4 to the 6 that there are"},
		{"size 0", table, "\x01\x00\x00\x00\x00\x00", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: type 1: formatted area of 0 bytes: not 4 to the 6 that there are"},
		{"size beyond", table, "\x01\xff\x00\x00\x00\x00", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: type 1: formatted area of 255 bytes: not 4 to the 6 that there are"},
		{"no strings", table, "\x01\x04\x00\x00", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: type 1: string 1: no NUL before the end"},
		{"one NUL", table, "\x01\x04\x00\x00\x00", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: type 1: one NUL where two mean that there is no string"},
		{"string without NUL", table, "\x01\x04\x00\x00a\x00b", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: type 1: string 2: no NUL before the end"},
		{"no end of strings", table, "\x01\x04\x00\x00a\x00", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 0: type 1: string 2: no NUL before the end"},
		{"second structure", table, structure(1, "") + "\x02", "sys/firmware/dmi/tables/DMI: SMBIOS table: offset 6: 1 bytes: no header"},
		{"too large", table, strings.Repeat(structure(3, ""), 2<<20/6+1), "sys/firmware/dmi/tables/DMI: more than 2097152 bytes"},
		{"type 11 without count", table, structure(11, "", extra), "sys/firmware/dmi/tables/DMI: OEM strings: formatted area of 4 bytes: not 5"},
		{"long type 11", table, structure(11, "\x01\x00", extra), "sys/firmware/dmi/tables/DMI: OEM strings: formatted area of 6 bytes: not 5"},
		{"count too low", table, structure(11, "\x01", "x", extra), "sys/firmware/dmi/tables/DMI: OEM strings: says that it has 1 strings, but has 2"},
		{"count too high", table, structure(11, "\x02", extra), "sys/firmware/dmi/tables/DMI: OEM strings: says that it has 2 strings, but has 1"},

		{"raw, other type", raw, structure(12, "\x01", extra), "sys/firmware/dmi/entries/11-0/raw: type 12 with 0 bytes behind it: not one structure of type 11"},
		{"raw, more", raw, oem + "x", "sys/firmware/dmi/entries/11-0/raw: type 11 with 1 bytes behind it: not one structure of type 11"},
		{"raw, cut", raw, oem[:len(oem)-1], "sys/firmware/dmi/entries/11-0/raw: type 11: string 2: no NUL before the end"},
		{"raw, empty", raw, "", "sys/firmware/dmi/entries/11-0/raw: 0 bytes: no header"},
		{"raw, count", raw, structure(11, "\x02", extra), "sys/firmware/dmi/entries/11-0/raw: OEM strings: says that it has 2 strings, but has 1"},
		{"raw, none", "firmware/dmi/entries/11-0/type", "11\n", "sys/firmware/dmi/entries/11-0/raw: open sys/firmware/dmi/entries/11-0/raw: file does not exist"},

		{"string", "class/dmi/id/sys_vendor", "Acme", `sys/class/dmi/id/sys_vendor: "Acme": does not end in a newline`},
		{"compatible", "firmware/devicetree/base/compatible", "a,b", `sys/firmware/devicetree/base/compatible: "a,b": not strings, each with a NUL`},
		{"empty compatible", "firmware/devicetree/base/compatible", "\x00", `sys/firmware/devicetree/base/compatible: "\x00": not strings, each with a NUL`},
		{"blob", "firmware/fdt", "x", "sys/firmware/fdt: 1 bytes: no header"},
	} {
		m, err := hwid.ReadMachine(sys(map[string]string{test.file: test.text}))
		if err == nil || err.Error() != test.want || m != nil {
			t.Errorf("%s: %v, %v\nwant %s", test.name, m, err, test.want)
		}
	}
}

// Each byte of the structures that are looked at changes something, or nothing
// that the stub looks at.
func TestReadMachineEveryByte(t *testing.T) {
	t.Parallel()
	oem := structure(11, "\x02", "x", extra+"a")
	want, err := hwid.ReadMachine(sys(map[string]string{raw: oem}))
	if err != nil {
		t.Fatal(err)
	}
	for off := range oem {
		b := []byte(oem)
		b[off] ^= 1
		m, err := hwid.ReadMachine(sys(map[string]string{raw: string(b)}))
		ignored := off == 2 || off == 3 || off == 5 // the handle, and another string
		if same := err == nil && reflect.DeepEqual(m, want); same != ignored {
			t.Errorf("offset %d changed: %v, %v", off, m, err)
		}
	}
}

func FuzzReadMachine(f *testing.F) {
	edid, fdt := testdata(f, "rht1234.edid"), testdata(f, "full.dtb")
	for _, b := range unmarshal[[]boot](f, "boots.json") {
		f.Add(b.Table, b.Entries11["11-0"], edid, fdt, b.ID["sys_vendor"])
	}
	f.Fuzz(func(t *testing.T, dmi, oem, edid, fdt []byte, vendor string) {
		files := map[string]string{raw: string(oem), "class/drm/card0-eDP-1/edid": string(edid), "firmware/fdt": string(fdt),
			"class/dmi/id/sys_vendor": vendor, "class/dmi/id/product_family": "F\n"}
		for range 2 { // without and with the table
			m, err := hwid.ReadMachine(sys(files))
			files[table] = string(dmi)
			if err != nil {
				if m != nil || len(err.Error()) > 1000 {
					t.Fatalf("%v, %v", m, err)
				}
				continue
			}
			if x, known := m.CmdlineExtra.Value(); known && x != "" && !bytes.Contains(append(dmi, oem...), []byte(extra+x+"\x00")) {
				t.Fatalf("command line %q: not among the strings", x)
			}
			if len(m.Panel) == 0 || m.Panel[0] != "" || len(m.Panel) == 2 && len(m.Panel[1]) != 7 {
				t.Fatalf("panel %q", m.Panel)
			}
			for _, id := range m.CHIDs(262) {
				if (id.Unknown == "") == (id.CHID == hwid.CHID{}) || id.Unknown == "" && fmt.Sprintf("%x", id.CHID[6]>>4) != "5" {
					t.Fatalf("CHID %+v", id)
				}
			}
		}
	})
}
