package hwid_test

// What hardware files are accepted, and with which words others are refused. It
// does not prove that the YAML library reads all of YAML as its specification has
// it, only that what it makes of a file is taken strictly.

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/hwid"
)

const full = `version: 1
devicetree: lenovo,thinkpad-x13s
panel: RHT1234
smbios:
  manufacturer: LENOVO
  family: ThinkPad X13s Gen 1
  product-name: 0012
  sku: ""
  baseboard-manufacturer: "  Acmé "
  baseboard-product: 1e3
  cmdline-extra: quiet "a b"
secure-boot: yes
confidential-vm: no
`

func TestParseMachine(t *testing.T) {
	t.Parallel()
	k, yes, no := hwid.Known, true, false
	for _, test := range []struct {
		name, file string
		want       hwid.Machine
	}{
		{"full", full, hwid.Machine{FirmwareDevicetree: k("lenovo,thinkpad-x13s"), Panel: k("RHT1234"), SMBIOS: hwid.SMBIOS{
			Manufacturer: k("LENOVO"), Family: k("ThinkPad X13s Gen 1"), ProductName: k("0012"), SKU: k(""),
			BaseboardManufacturer: k("  Acmé "), BaseboardProduct: k("1e3")}, CmdlineExtra: k(`quiet "a b"`), SecureBoot: &yes, ConfidentialVM: &no}},
		{"nothing", "version: 1\n", hwid.Machine{}},
		{"none", "version: 1\ndevicetree: none\npanel: none\nsmbios: none\n", hwid.Machine{FirmwareDevicetree: k(""), Panel: k(""), SMBIOS: hwid.SMBIOS{
			Manufacturer: k(""), Family: k(""), ProductName: k(""), SKU: k(""), BaseboardManufacturer: k(""), BaseboardProduct: k("")}, CmdlineExtra: k("")}},
		{"one string", "version: 1\nsmbios: {sku: none}\nsecure-boot: no", hwid.Machine{SMBIOS: hwid.SMBIOS{SKU: k("none")}, SecureBoot: &no}},
		{"JSON", `{"version": 1, "smbios": {"cmdline-extra": ""}, "panel": "@@@00ff"}`, hwid.Machine{CmdlineExtra: k(""), Panel: k("@@@00ff")}},
	} {
		m, err := hwid.ParseMachine([]byte(test.file))
		if err != nil || !reflect.DeepEqual(*m, test.want) {
			t.Errorf("%s: %+v, %v\nwant %+v", test.name, m, err, test.want)
		}
	}
}

func TestParseMachineHostile(t *testing.T) {
	t.Parallel()
	v := "version: 1\n"
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", "hardware: empty"},
		{"comment", "# x\n", "hardware: empty"},
		{"not YAML", "a: [", "hardware: yaml: line 1: did not find expected node content"},
		{"two documents", v + "---\n" + v, "hardware: more than one document"},
		{"too large", strings.Repeat("#", 64<<10+1), "hardware: more than 65536 bytes"},
		{"list", "- version: 1\n", "hardware: line 1: the machine: not a mapping with at least one key"},
		{"no version", "panel: none\n", "hardware: line 1: no version (this is version 1)"},
		{"version", "version: 2\n", `hardware: line 1: version "2": unknown (known: 1)`},
		{"unknown key", v + "edid: none\n", `hardware: line 2: the machine: unknown key "edid" (known: [version devicetree panel smbios secure-boot confidential-vm])`},
		{"unknown SMBIOS key", v + "smbios:\n  vendor: x\n", `hardware: line 3: smbios: unknown key "vendor" (known: [manufacturer family product-name sku baseboard-manufacturer baseboard-product cmdline-extra])`},
		{"twice", v + "panel: none\npanel: none\n", `hardware: line 3: the machine: key "panel" twice`},
		{"twice in SMBIOS", v + "smbios:\n  sku: a\n  sku: a\n", `hardware: line 4: smbios: key "sku" twice`},
		{"merge", v + "<<: {panel: none}\n", `hardware: line 2: the machine: unknown key "<<" (known: [version devicetree panel smbios secure-boot confidential-vm])`},
		{"alias", v + "devicetree: &x none\npanel: *x\n", `hardware: line 3: "panel": aliases are not supported`},
		{"key", v + "[a]: b\n", "hardware: line 2: the machine: a key that is not a plain word"},
		{"no devicetree", v + "devicetree:\n", `hardware: line 2: devicetree: not a text (an empty one is written "")`},
		{"empty devicetree", v + "devicetree: \"\"\n", `hardware: line 2: devicetree: "": not the first compatible string of the firmware's devicetree, or none`},
		{"devicetree list", v + "devicetree: [a, b]\n", `hardware: line 2: devicetree: not a text (an empty one is written "")`},
		{"two compatibles", v + "devicetree: a,b c,d\n", `hardware: line 2: devicetree: "a,b c,d": not the first compatible string of the firmware's devicetree, or none`},
		{"devicetree with newline", v + "devicetree: |\n  a,b\n", `hardware: line 2: devicetree: "a,b\n": not the first compatible string`},
		{"panel", v + "panel: RHT1234A\n", `hardware: line 2: panel: "RHT1234A": not three upper-case letters and four lower-case hexadecimal digits, or none`},
		{"panel in upper case", v + "panel: RHT12AB\n", `hardware: line 2: panel: "RHT12AB": not three upper-case`},
		{"empty SMBIOS", v + "smbios: {}\n", "hardware: line 2: smbios: not a mapping with at least one key"},
		{"SMBIOS text", v + "smbios: unknown\n", "hardware: line 2: smbios: not a mapping with at least one key"},
		{"null string", v + "smbios:\n  sku:\n", `hardware: line 3: sku: not a text (an empty one is written "")`},
		{"binary", v + "smbios:\n  sku: !!binary YQ==\n", `hardware: line 3: sku: not a text (an empty one is written "")`},
		{"NUL", v + "smbios:\n  sku: \"a\\0\"\n", `hardware: line 3: sku: "a\x00": offset 1: not a character of UTF-8 up to U+FFFF`},
		{"emoji", v + "smbios:\n  sku: \U0001F600\n", "hardware: line 3: sku: \"\U0001F600\": offset 0: not a character of UTF-8 up to U+FFFF"},
		{"long string", v + "smbios:\n  sku: " + strings.Repeat("x", 4097) + "\n", "hardware: line 3: sku: more than 4096 bytes"},
		{"true", v + "secure-boot: true\n", `hardware: line 2: secure-boot: "true": neither yes nor no`},
		{"null", v + "confidential-vm:\n", `hardware: line 2: confidential-vm: "": neither yes nor no`},
		{"boolean list", v + "secure-boot: [yes]\n", `hardware: line 2: secure-boot: "": neither yes nor no`},
	} {
		m, err := hwid.ParseMachine([]byte(test.file))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || m != nil {
			t.Errorf("%s: %v, %v\nwant %s", test.name, m, err, test.want)
		}
	}
}

func FuzzParseMachine(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("version: 1\ndevicetree: none\npanel: none\nsmbios: none\n"))
	f.Add([]byte("version: 1\n<<: {panel: none}\n"))
	f.Add([]byte("version: 1\ndevicetree: &x none\npanel: *x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := hwid.ParseMachine(b)
		if err != nil {
			if m != nil || len(err.Error()) > 1000 {
				t.Fatalf("%v, %v", m, err)
			}
			return
		}
		again, err := hwid.ParseMachine([]byte(file(m)))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v\n%s%+v\nwas %+v", err, file(m), again, m)
		}
	})
}

// file writes a machine as a hardware file, without what is not known.
func file(m *hwid.Machine) string {
	s := "{version: 1"
	name := func(key string, f hwid.Fact) {
		if v, known := f.Value(); known && v == "" {
			s += ", " + key + ": none"
		} else if known {
			s += fmt.Sprintf(", %s: %q", key, v)
		}
	}
	name("devicetree", m.FirmwareDevicetree)
	name("panel", m.Panel)
	smbios := ""
	text := func(key string, f hwid.Fact) {
		if v, known := f.Value(); known {
			smbios += fmt.Sprintf("%s: %s, ", key, quote(v))
		}
	}
	text("manufacturer", m.SMBIOS.Manufacturer)
	text("family", m.SMBIOS.Family)
	text("product-name", m.SMBIOS.ProductName)
	text("sku", m.SMBIOS.SKU)
	text("baseboard-manufacturer", m.SMBIOS.BaseboardManufacturer)
	text("baseboard-product", m.SMBIOS.BaseboardProduct)
	text("cmdline-extra", m.CmdlineExtra)
	if smbios != "" {
		s += ", smbios: {" + smbios + "}"
	}
	for key, b := range map[string]*bool{"secure-boot": m.SecureBoot, "confidential-vm": m.ConfidentialVM} {
		if b != nil {
			s += ", " + key + ": " + map[bool]string{true: "yes", false: "no"}[*b]
		}
	}
	return s + "}\n"
}

// quote writes a text for YAML, all of it escaped.
func quote(s string) string {
	q := `"`
	for _, r := range s {
		q += fmt.Sprintf(`\u%04x`, r)
	}
	return q + `"`
}
