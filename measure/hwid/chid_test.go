package hwid_test

// The CHIDs are those of systemd-analyze 262.1. It does not prove that the stub
// trims and fills in fields as the package does: boots_test.go does.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mkexec/mkexec/measure/hwid"
)

// testdata reads a file of testdata.
func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unmarshal reads a JSON file of testdata.
func unmarshal[T any](t testing.TB, name string) (v T) {
	t.Helper()
	if err := json.Unmarshal(testdata(t, name), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// machine returns a machine whose strings are all known, as the files of
// /sys/class/dmi/id.
func machine(id map[string]string, panel string) *hwid.Machine {
	return &hwid.Machine{
		FirmwareDevicetree: hwid.Known(""),
		Panel:              hwid.Known(panel),
		SMBIOS: hwid.SMBIOS{
			Manufacturer:          hwid.Known(id["sys_vendor"]),
			Family:                hwid.Known(id["product_family"]),
			ProductName:           hwid.Known(id["product_name"]),
			SKU:                   hwid.Known(id["product_sku"]),
			BaseboardManufacturer: hwid.Known(id["board_vendor"]),
			BaseboardProduct:      hwid.Known(id["board_name"]),
		},
	}
}

type chidCase struct {
	Machine map[string]string
	Panel   string
	CHIDs   map[string]string
}

func TestCHIDs(t *testing.T) {
	t.Parallel()
	extensions := map[int]string{15: "ext0", 16: "ext1", 17: "ext2"}
	for _, c := range unmarshal[[]chidCase](t, "chids.json") {
		var order []int
		for _, id := range machine(c.Machine, c.Panel).CHIDs(262) {
			name := fmt.Sprint(id.Number)
			if x := extensions[id.Number]; x != "" {
				name = x
			}
			if id.Unknown != "" || id.CHID.String() != c.CHIDs[name] {
				t.Errorf("%s: CHID %s: %s (unknown %q), want %s", c.Machine["product_name"], name, id.CHID, id.Unknown, c.CHIDs[name])
			}
			order = append(order, id.Number)
		}
		want := []int{3, 6, 8, 10, 4, 5, 7, 9, 11}
		if c.Panel != "" {
			want = append([]int{17, 16, 15}, want...)
		}
		if fmt.Sprint(order) != fmt.Sprint(want) {
			t.Errorf("order %v, want %v", order, want)
		}
	}
}

// One character of one field changes the CHIDs with that field and no others.
func TestCHIDsDependOnTheirFields(t *testing.T) {
	t.Parallel()
	c := unmarshal[[]chidCase](t, "chids.json")[3] // with a panel
	before := machine(c.Machine, c.Panel).CHIDs(262)
	uses := map[string][]int{ // systemd-analyze 262.1, column INPUT
		"sys_vendor":     {17, 16, 15, 3, 6, 8, 10, 4, 5, 7, 9, 11},
		"product_family": {16, 15, 3, 10, 4, 5, 11},
		"product_name":   {15, 3, 8, 4, 5, 9},
		"product_sku":    {17, 3, 6, 4, 7},
		"board_vendor":   {3, 6, 8, 10},
		"board_name":     {3, 6, 8, 10},
		"panel":          {17, 16, 15},
	}
	for field, want := range uses {
		panel, id := c.Panel, map[string]string{}
		for k, v := range c.Machine {
			id[k] = v
		}
		if field == "panel" {
			panel = "RHT1235"
		} else {
			id[field] += "x"
		}
		var changed []int
		for i, after := range machine(id, panel).CHIDs(262) {
			if after.CHID != before[i].CHID {
				changed = append(changed, after.Number)
			}
		}
		if fmt.Sprint(changed) != fmt.Sprint(want) {
			t.Errorf("%s changes %v, want %v", field, changed, want)
		}
	}
}

func TestCHIDsUnknown(t *testing.T) {
	t.Parallel()
	m := machine(map[string]string{"sys_vendor": "Acme", "product_name": "Rocket"}, "RHT1234")
	m.SMBIOS.SKU, m.Panel = nil, hwid.Fact{"", "RHT1234"}
	var got string
	for _, id := range m.CHIDs(262) {
		if (id.Unknown != "") != (id.CHID == hwid.CHID{}) {
			t.Errorf("CHID %d: %s, unknown %q", id.Number, id.CHID, id.Unknown)
		}
		got += fmt.Sprintf("%d:%s ", id.Number, id.Unknown)
	}
	const want = "17:smbios sku 16:panel 15:panel 3:smbios sku 6:smbios sku 8: 10: 4:smbios sku 5: 7:smbios sku 9: 11: "
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if n := len(m.CHIDs(257)); n != 9 {
		t.Errorf("257: %d CHIDs, want 9: it has no extensions", n)
	}
}
