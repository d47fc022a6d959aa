package hwid_test

// What the real systemd-stub 257.13 and 262.1 selected, and the command line that
// they added, from what Linux then showed of the machine. It does not prove what
// the stub does with a devicetree or an EDID of the firmware (OVMF has neither),
// nor what 258 to 261 do, nor anything on another architecture than amd64.

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/hwid"
)

type boot struct {
	Name             string
	Stub             int
	DTBAuto, EFIFW   string
	Cmdline          string
	HWIDs            []byte
	EFIFWs           [][]byte
	Table            []byte
	ID               map[string]string
	Entries11        map[string][]byte
	fromTable, byAll *hwid.Machine // read as root, and as everybody
}

// rootFS is a /sys in which not every file may be read. It stands for os.DirFS.
type rootFS struct {
	fstest.MapFS
	hidden map[string]bool
}

func (r rootFS) Open(name string) (fs.File, error) {
	if r.hidden[name] {
		return nil, &fs.PathError{Op: "open", Path: name, Err: os.ErrPermission}
	}
	return r.MapFS.Open(name)
}

// sys returns the file tree of the booted Linux, as root sees it or as everybody.
func (b boot) sys(root bool) rootFS {
	r := rootFS{fstest.MapFS{}, map[string]bool{}}
	add := func(name string, data []byte, everybody bool) {
		r.MapFS[name] = &fstest.MapFile{Data: data}
		r.hidden[name] = !root && !everybody
	}
	add("sys/firmware/dmi/tables/DMI", b.Table, false)
	for name, text := range b.ID {
		add("sys/class/dmi/id/"+name, []byte(text), name != "board_serial")
	}
	add("sys/firmware/dmi/entries/1-0/type", []byte("1\n"), true)
	for name, raw := range b.Entries11 {
		add("sys/firmware/dmi/entries/"+name+"/raw", raw, false)
	}
	return r
}

func read(t *testing.T, root fs.FS) *hwid.Machine {
	t.Helper()
	m, err := hwid.ReadMachine(root)
	if err != nil {
		t.Fatal(err)
	}
	if m.Panel != nil {
		t.Errorf("panel %q of a machine without a screen", m.Panel)
	}
	m.Panel = hwid.Known("") // known of the virtual machine
	return m
}

func boots(t *testing.T) []boot {
	t.Helper()
	all := unmarshal[[]boot](t, "boots.json")
	for i, b := range all {
		all[i].fromTable, all[i].byAll = read(t, b.sys(true)), read(t, b.sys(false))
	}
	return all
}

func TestBoots(t *testing.T) {
	t.Parallel()
	for _, b := range boots(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			for _, m := range []*hwid.Machine{b.fromTable, b.byAll} {
				entries, err := hwid.ParseHWIDs(measure.Bytes(b.HWIDs))
				if strings.HasPrefix(b.Name, "zero_") { // the stub takes it for a machine without a panel
					if err == nil {
						t.Fatal("a zero CHID was accepted")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				compatible, ok, err := m.Devicetree(entries, b.Stub)
				if err != nil || ok != (b.DTBAuto != "") || ok && compatible != b.DTBAuto {
					t.Errorf("devicetree %q, %v, %v: the stub took %q", compatible, ok, err, b.DTBAuto)
				}
				name, ok, err := m.Firmware(entries, b.Stub)
				if err != nil || ok != (b.EFIFW != "") || ok && name != b.EFIFW {
					t.Errorf("firmware %q, %v, %v: the stub took %q", name, ok, err, b.EFIFW)
				}
				for _, section := range b.EFIFWs {
					if id, err := hwid.FirmwareID(measure.Bytes(section)); err != nil || !strings.HasPrefix(id, "fw-") {
						t.Errorf("firmware of the section: %q, %v", id, err)
					}
				}
			}
			extra, known := b.fromTable.CmdlineExtra.Value()
			if !known || strings.TrimSpace(extra) != b.Cmdline {
				t.Errorf("command line %q, %v: the stub added %q", extra, known, b.Cmdline)
			}
			if _, known := b.byAll.CmdlineExtra.Value(); known != (len(b.Entries11) == 0) {
				t.Errorf("not as root, with %d structures of type 11: command line known: %v", len(b.Entries11), known)
			}
		})
	}
}

// Without any one of the strings, the answer is the same or none at all.
func TestBootsWithUnknownFields(t *testing.T) {
	t.Parallel()
	unknown := 0
	for _, b := range boots(t) {
		entries, err := hwid.ParseHWIDs(measure.Bytes(b.HWIDs))
		if err != nil {
			continue
		}
		for _, hide := range hiders {
			m := *b.fromTable
			hide(&m)
			compatible, ok, err := m.Devicetree(entries, b.Stub)
			if errors.Is(err, hwid.ErrUnknown) {
				unknown++
			} else if err != nil || ok != (b.DTBAuto != "") || ok && compatible != b.DTBAuto {
				t.Errorf("%s: devicetree %q, %v, %v: the stub took %q", b.Name, compatible, ok, err, b.DTBAuto)
			}
			name, ok, err := m.Firmware(entries, b.Stub)
			if errors.Is(err, hwid.ErrUnknown) {
				unknown++
			} else if err != nil || ok != (b.EFIFW != "") || ok && name != b.EFIFW {
				t.Errorf("%s: firmware %q, %v, %v: the stub took %q", b.Name, name, ok, err, b.EFIFW)
			}
		}
	}
	if unknown == 0 {
		t.Error("nothing depends on what is not known")
	}
}

// hiders make one fact of a machine unknown.
var hiders = []func(*hwid.Machine){
	func(m *hwid.Machine) { m.FirmwareDevicetree = nil },
	func(m *hwid.Machine) { m.Panel = nil },
	func(m *hwid.Machine) { m.SMBIOS.Manufacturer = nil },
	func(m *hwid.Machine) { m.SMBIOS.Family = nil },
	func(m *hwid.Machine) { m.SMBIOS.ProductName = nil },
	func(m *hwid.Machine) { m.SMBIOS.SKU = nil },
	func(m *hwid.Machine) { m.SMBIOS.BaseboardManufacturer = nil },
	func(m *hwid.Machine) { m.SMBIOS.BaseboardProduct = nil },
}
