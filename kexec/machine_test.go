package kexec

// How the state of a machine is read, from trees as /proc and /sys are. It does
// not prove that these files say so on a real machine; the VM tests do for one.

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io/fs"
	"maps"
	"reflect"
	"testing"
	"testing/fstest"
)

const (
	efivar     = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	bootParams = "sys/kernel/boot_params/data"
	release    = "proc/sys/kernel/osrelease"
	efiDir     = "sys/firmware/efi/fw_platform_size"
	loadLimit  = "proc/sys/kernel/kexec_load_limit_reboot"
	lockdown   = "sys/kernel/security/lockdown"
	status     = "proc/self/status"
	loader     = "proc/sys/kernel/bootloader_type"
	xen        = "proc/xen/capabilities"
	configYes  = "CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\n"
	configNo   = "CONFIG_KEXEC=y\n# CONFIG_KEXEC_FILE is not set\n"
)

func gz(t *testing.T, text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func params(secureBoot byte) string {
	b := make([]byte, 4096)
	b[0x1EC] = secureBoot
	return string(b)
}

// nothing is what a tree tells in which there is /sys but nothing of use in it.
var nothing = Machine{
	KexecFile: Unknown, CapSysBoot: Unknown, Loaded: Unknown, LoadDisabled: Unknown, LoadLimit: -1, Lockdown: "unknown",
	SecureBoot: No, ConfidentialVM: No, Xen: No, Systemd: No, Kexeced: Unknown, InitPIDNamespace: Unknown,
}

func TestReadMachine(t *testing.T) {
	type files map[string]string
	set := func(change func(*Machine)) Machine {
		m := nothing
		change(&m)
		return m
	}
	kexecFile := func(v Tristate) Machine { return set(func(m *Machine) { m.KexecFile = v }) }
	secure := func(v Tristate) Machine { return set(func(m *Machine) { m.SecureBoot = v }) }
	capable := func(v Tristate) Machine { return set(func(m *Machine) { m.CapSysBoot = v }) }
	locked := func(v string) Machine { return set(func(m *Machine) { m.Lockdown = v }) }
	limit := func(n int) Machine { return set(func(m *Machine) { m.LoadLimit = n }) }
	kexeced := func(v Tristate) Machine { return set(func(m *Machine) { m.Kexeced = v }) }
	full := files{
		release: "6.12\n", "proc/config.gz": gz(t, configYes), status: "Name:\tx\nCapEff:\t000001ffffffffff\n",
		"sys/kernel/kexec_loaded": "1\n", "proc/sys/kernel/kexec_load_disabled": "1\n", loadLimit: "3\n",
		lockdown: "none [integrity] confidentiality\n", efivar: "\x06\x00\x00\x00\x01", "dev/sev-guest": "",
		xen: "control_d\n", "run/systemd/system/x": "", loader: "208\n",
	}
	for _, test := range []struct {
		name  string
		files files
		want  Machine
	}{
		{"nothing", nil, nothing},
		{"everything", full, Machine{Yes, Yes, Yes, Yes, 3, "integrity", Yes, Yes, Yes, Yes, Yes, Unknown}},

		{"loaded", files{"sys/kernel/kexec_loaded": "1\n"}, set(func(m *Machine) { m.Loaded = Yes })},
		{"not loaded", files{"sys/kernel/kexec_loaded": "0\n"}, set(func(m *Machine) { m.Loaded = No })},
		{"loaded?", files{"sys/kernel/kexec_loaded": "2\n"}, nothing},
		{"disabled", files{"proc/sys/kernel/kexec_load_disabled": "1\n"}, set(func(m *Machine) { m.LoadDisabled = Yes })},
		{"not disabled", files{"proc/sys/kernel/kexec_load_disabled": "0\n"}, set(func(m *Machine) { m.LoadDisabled = No })},

		{"no limit", files{loadLimit: "-1\n"}, limit(-1)},
		{"limit 0", files{loadLimit: "0\n"}, limit(0)},
		{"limit 7", files{loadLimit: "7\n"}, limit(7)},
		{"limit garbage", files{loadLimit: "7x\n"}, limit(-1)},
		{"limit empty", files{loadLimit: ""}, limit(-1)},

		{"lockdown none", files{lockdown: "[none] integrity confidentiality\n"}, locked("none")},
		{"lockdown integrity", files{lockdown: "none [integrity] confidentiality\n"}, locked("integrity")},
		{"lockdown confidentiality", files{lockdown: "none integrity [confidentiality]\n"}, locked("confidentiality")},
		{"lockdown without brackets", files{lockdown: "none integrity confidentiality\n"}, nothing},
		{"lockdown empty", files{lockdown: ""}, nothing},

		{"Secure Boot", files{efivar: "\x06\x00\x00\x00\x01"}, secure(Yes)},
		{"no Secure Boot", files{efivar: "\x06\x00\x00\x00\x00"}, secure(No)},
		{"no EFI", files{bootParams: params(3)}, secure(No)},
		{"EFI alone", files{efiDir: "64\n"}, secure(Unknown)},
		{"variable short", files{efivar: "\x06\x00\x00\x00"}, secure(Unknown)},
		{"variable long", files{efivar: "\x06\x00\x00\x00\x01\x00"}, secure(Unknown)},
		{"variable wins", files{efivar: "\x06\x00\x00\x00\x01", bootParams: params(2)}, secure(Yes)},
		{"boot_params on", files{efiDir: "64\n", bootParams: params(3)}, secure(Yes)},
		{"boot_params off", files{efiDir: "64\n", bootParams: params(2)}, secure(No)},
		{"boot_params unknown", files{efiDir: "64\n", bootParams: params(1)}, secure(Unknown)},
		{"boot_params unset", files{efiDir: "64\n", bootParams: params(0)}, secure(Unknown)},
		{"boot_params from the future", files{efiDir: "64\n", bootParams: params(4)}, secure(Unknown)},
		{"boot_params short", files{efiDir: "64\n", bootParams: params(3)[:0x1EC]}, secure(Unknown)},
		{"boot_params just long enough", files{efiDir: "64\n", bootParams: params(3)[:0x1ED]}, secure(Yes)},
		{"boot_params after a bad variable", files{efivar: "", bootParams: params(3)}, secure(Yes)},

		{"config.gz", files{release: "6.12\n", "proc/config.gz": gz(t, configYes)}, kexecFile(Yes)},
		{"config.gz, not set", files{release: "6.12\n", "proc/config.gz": gz(t, configNo)}, kexecFile(No)},
		{"config.gz is the running kernel's", files{release: "6.12\n", "proc/config.gz": gz(t, configNo), "boot/config-6.12": configYes}, kexecFile(No)},
		{"config.gz cut", files{release: "6.12\n", "proc/config.gz": gz(t, configYes)[:30]}, nothing},
		{"config.gz not gzip", files{release: "6.12\n", "proc/config.gz": configYes, "boot/config-6.12": configNo}, kexecFile(No)},
		{"/boot", files{release: "6.12\n", "boot/config-6.12": configYes}, kexecFile(Yes)},
		{"/boot, not set", files{release: "6.12\n", "boot/config-6.12": configNo}, kexecFile(No)},
		{"/boot, another kernel's", files{release: "6.12\n", "boot/config-6.11": configYes}, nothing},
		{"/boot, garbage", files{release: "6.12\n", "boot/config-6.12": "version https://git-lfs\n"}, nothing},
		{"/usr/lib/modules", files{release: "6.12\n", "usr/lib/modules/6.12/config": configYes}, kexecFile(Yes)},
		{"/lib/modules", files{release: "6.12\n", "lib/modules/6.12/config": configYes}, kexecFile(Yes)},
		{"module", files{"proc/config.gz": gz(t, "CONFIG_KEXEC_FILE=m\n")}, kexecFile(Yes)},
		{"prefix of another", files{"proc/config.gz": gz(t, "CONFIG_KEXEC_FILES=y\nXCONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_FILE=yes\n")}, kexecFile(No)},
		{"hostile release", files{release: "../../x\n", "x": configYes}, nothing},

		{"capable", files{status: "CapEff:\t0000000000400000\n"}, capable(Yes)},
		{"all but it", files{status: "CapEff:\tffffffffffbfffff\n"}, capable(No)},
		{"permitted is not effective", files{status: "CapPrm:\t0000000000400000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000400000\n"}, capable(No)},
		{"no CapEff", files{status: "Name:\tx\n"}, nothing},
		{"CapEff garbage", files{status: "CapEff:\tx\n"}, nothing},
		{"CapEff in a name", files{status: "Name:\tCapEff:\t0000000000400000\n"}, nothing},

		{"SEV", files{"dev/sev-guest": ""}, set(func(m *Machine) { m.ConfidentialVM = Yes })},
		{"TDX", files{"dev/tdx_guest": ""}, set(func(m *Machine) { m.ConfidentialVM = Yes })},
		{"SEV host", files{"dev/sev": ""}, nothing},
		{"Xen dom0", files{xen: "control_d\n"}, set(func(m *Machine) { m.Xen = Yes })},
		{"Xen domU", files{xen: "\n"}, nothing},
		{"systemd", files{"run/systemd/system/x": ""}, set(func(m *Machine) { m.Systemd = Yes })},
		{"systemd-udevd alone", files{"run/systemd/x": ""}, nothing},
		{"kexeced", files{loader: "208\n"}, kexeced(Yes)},
		{"kexeced, version", files{loader: "209\n"}, kexeced(Yes)},
		{"EFI stub", files{loader: "33\n"}, kexeced(No)},
		{"next loader", files{loader: "224\n"}, kexeced(No)},
		{"loader garbage", files{loader: "x\n"}, nothing},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := fstest.MapFS{"sys/kernel/notes": {}}
			for name, text := range test.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := ReadMachine(root); got != test.want {
				t.Errorf("\n got %+v\nwant %+v", got, test.want)
			}
		})
	}

	// "everything" less one file is "everything" less one field
	for name := range full {
		root := fstest.MapFS{"sys/kernel/notes": {}}
		less := maps.Clone(full)
		delete(less, name)
		for name, text := range less {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		a, b := reflect.ValueOf(Machine{Yes, Yes, Yes, Yes, 3, "integrity", Yes, Yes, Yes, Yes, Yes, Unknown}), reflect.ValueOf(ReadMachine(root))
		changed := 0
		for i := range a.NumField() {
			if a.Field(i).Interface() != b.Field(i).Interface() {
				changed++
			}
		}
		if name == release && changed != 0 || name != release && changed != 1 {
			t.Errorf("without %s: %d fields change", name, changed)
		}
	}
}

func TestMachineJSON(t *testing.T) {
	b, err := json.Marshal(nothing)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"kexec_file":"unknown","cap_sys_boot":"unknown","loaded":"unknown","load_disabled":"unknown","load_limit":-1,` +
		`"lockdown":"unknown","secure_boot":"no","confidential_vm":"no","xen_dom0":"no","systemd":"no","kexeced":"unknown","init_pid_namespace":"unknown"}`
	if string(b) != want {
		t.Errorf("\n got %s\nwant %s", b, want)
	}
}

func TestReadMachineWithoutSys(t *testing.T) {
	if m := ReadMachine(fstest.MapFS{}); m.SecureBoot != Unknown {
		t.Errorf("Secure Boot is %s, but /sys is not mounted", m.SecureBoot)
	}
}

func TestReadMachinePIDNamespace(t *testing.T) {
	for target, want := range map[string]Tristate{"pid:[4026531836]": Yes, "pid:[4026532201]": No} {
		root := fstest.MapFS{"proc/self/ns/pid": {Data: []byte(target), Mode: fs.ModeSymlink}}
		if m := ReadMachine(root); m.InitPIDNamespace != want {
			t.Errorf("%s: %s, want %s", target, m.InitPIDNamespace, want)
		}
	}
}
