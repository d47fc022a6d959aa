package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// These tests boot images with all that can lie beside them on the partition,
// by firmware and by kexec, and look at the firmware's event log as well.
// They do not prove what becomes of devicetrees, which are installed and measured
// on x86 too, but not read, nor anything about signatures and Secure Boot, which
// is off, about what systemd in the initrd does with the files, nor about disks:
// the partition is one that QEMU makes up of a directory.

// A systemdRelease is a version of systemd, whose programs start in the machines.
type systemdRelease struct {
	version           int
	stub, addon, boot string // paths
}

// systemdReleases are those of Debian stable, and 262 if SYSTEMD_ROOT, a Debian
// sid in a folder, has it. It has to if MKEXEC_REQUIRE has the word systemd-262.
func systemdReleases(t *testing.T) []systemdRelease {
	a := vm.Require(t)
	releases := []systemdRelease{
		{252, a.Stub252, a.Addon257, a.Boot252}, // which does not know addons
		{257, a.Stub257, a.Addon257, a.Boot257},
	}
	dir := filepath.Join(cmp.Or(os.Getenv("SYSTEMD_ROOT"), "/var/tmp/ref/sidroot"), "usr/lib/systemd/boot/efi")
	newest := systemdRelease{262, filepath.Join(dir, "linuxx64.efi.stub"), filepath.Join(dir, "addonx64.efi.stub"), filepath.Join(dir, "systemd-bootx64.efi")}
	if stub, err := os.ReadFile(newest.stub); err == nil && bytes.Contains(stub, []byte("systemd-stub 262.")) {
		releases = append(releases, newest)
	} else if slices.Contains(strings.Split(os.Getenv("MKEXEC_REQUIRE"), ","), "systemd-262") {
		t.Fatal("no systemd 262 in SYSTEMD_ROOT, but MKEXEC_REQUIRE has it")
	} else {
		t.Log("no systemd 262 in SYSTEMD_ROOT: without it")
	}
	return releases
}

// buildAddon builds an addon.
func buildAddon(t *testing.T, stub string, sections ...ukitest.Section) []byte {
	t.Helper()
	data, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	addon, err := ukitest.Build(data, sections...)
	if err != nil {
		t.Fatal(err)
	}
	return addon
}

// initrdOf is an initrd of one file. The kernel takes microcode from
// kernel/x86/microcode/GenuineIntel.bin only, so that other files there are just
// unpacked.
func initrdOf(name, contents string) []byte {
	return vm.Archive(map[string]vm.File{name: {Data: []byte(contents), Perm: 0o640}})
}

// A sidecar is a file on the partition.
type sidecar struct {
	path string
	data []byte
	// What the stub has to make of it, by the manual page systemd-stub(7): a
	// file in /.extra, in a directory that from one version on, and up to
	// another one, is a different one.
	extra, mode string
	since       int
	before      string // and before that version
}

const beside = "EFI/BOOT/BOOTX64.EFI.extra.d/"

func sidecars(t *testing.T, stub string) []sidecar {
	text := func(name, s string) ukitest.Section { return ukitest.Section{Name: name, Data: []byte(s)} }
	devicetree, err := os.ReadFile("../../measure/hwid/testdata/full.dtb")
	if err != nil {
		t.Fatal(err)
	}
	addon := func(sections ...ukitest.Section) []byte { return buildAddon(t, stub, sections...) }
	return []sidecar{
		{path: "loader/addons/global.addon.efi", data: addon(text(".cmdline", " global=1\n"))},
		{path: beside + "local.addon.efi", data: addon(text(".cmdline", "local=2"))},
		{path: beside + "other.addon.efi", data: addon(text(".cmdline", "other=1"), text(".uname", "6.0.0-other"))},
		{path: beside + "initrd.addon.efi", data: addon(ukitest.Section{Name: ".initrd", Data: initrdOf("payload/addon", "of an initrd addon")})},
		{path: "loader/addons/a.addon.efi", data: addon(ukitest.Section{Name: ".ucode", Data: initrdOf("payload/ucode", "of the first addon")})},
		{path: beside + "d.addon.efi", data: addon(ukitest.Section{Name: ".dtb", Data: devicetree})},
		{path: "loader/addons/d.addon.efi", data: addon(ukitest.Section{Name: ".dtb", Data: devicetree}, text(".cmdline", "dt=4"))},
		{path: beside + "u.ADDON.efi", data: addon(ukitest.Section{Name: ".ucode", Data: initrdOf("payload/ucode-last", "of the last addon")})},

		{path: beside + "zeta.cred", data: []byte("a secret\n"), extra: "credentials", mode: "400"},
		{path: beside + "Upper.CRED", data: []byte("bb"), extra: "credentials", mode: "400"},
		{path: beside + "empty.cred", data: nil, extra: "credentials", mode: "400"},
		{path: "loader/credentials/global.cred", data: []byte("for all"), extra: "global_credentials", mode: "400"},
		{path: beside + "one.sysext.raw", data: bytes.Repeat([]byte("SYSEXT"), 1000), extra: "sysext", mode: "444"},
		{path: beside + "two.raw", data: []byte("T"), extra: "sysext", mode: "444"},
		{path: beside + "three.confext.raw", data: []byte("confext"), extra: "confext", mode: "444", since: 256, before: "sysext"},
		{path: "loader/extensions/g.raw", data: []byte("G"), extra: "global_sysext", mode: "444", since: 258},
		{path: "loader/extensions/g.confext.raw", data: []byte("GC"), extra: "global_confext", mode: "444", since: 258},

		{path: beside + ".hidden.cred", data: []byte("not taken")},
		{path: beside + "x.txt", data: []byte("not taken")},
		{path: beside + "directory.cred/x.cred", data: []byte("not taken")},
		{path: "EFI/BOOT/y.cred", data: []byte("not taken")},
	}
}

// partition is the files of an ESP with an image that the firmware starts.
func partition(image []byte, files []sidecar) map[string][]byte {
	all := map[string][]byte{"EFI/BOOT/BOOTX64.EFI": image}
	for _, f := range files {
		all[f.path] = f.data
	}
	return all
}

// writeTree writes files below dir.
func writeTree(t *testing.T, dir string, files map[string][]byte) string {
	t.Helper()
	for name, data := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// witness is a guest script: what the firmware, the stub and the kernel made of
// the start.
const witness = `
log() { base64 /sys/kernel/security/tpm0/binary_bios_measurements; }
directories() { find /.extra -type d | sort | while read -r dir; do stat -c '%a %n' "$dir"; done; }
payload() { find /payload -type f 2>/dev/null | sort | while read -r file; do echo "$(stat -c %a "$file") $file: $(cat "$file")"; done; }
section second report
section directories directories
section payload payload
[ ! -d /sys/firmware/efi ] || section log log
`

// firmwareEvents returns the events of PCRs 9, 11, 12 and 13 in the firmware's log.
func firmwareEvents(t *testing.T, sections map[string]string) map[measure.PCR][]measure.Event {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(sections["log"], "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.ParseFirmware(data)
	if err != nil {
		t.Fatal(err)
	}
	events := map[measure.PCR][]measure.Event{}
	for _, e := range log.Events {
		if e.PCR == 9 || slices.Contains(measure.StubPCRs(), e.PCR) {
			events[e.PCR] = append(events[e.PCR], e)
		}
	}
	return events
}

// wantEvents compares the events of the stub, and the initrd that the kernel
// got, with a prediction.
func wantEvents(t *testing.T, sections map[string]string, p predictionOutput) {
	t.Helper()
	want := map[measure.PCR][]measure.Event{}
	for _, e := range p.Events {
		want[e.PCR] = append(want[e.PCR], e)
	}
	logged := firmwareEvents(t, sections)
	for _, n := range measure.StubPCRs() {
		if len(logged[n]) != len(want[n]) {
			t.Errorf("PCR %d: events %q, predicted %q", n, descriptions(logged[n]), descriptions(want[n]))
			continue
		}
		for i, e := range logged[n] {
			w := want[n][i]
			if e.Type != w.Type || !maps.EqualFunc(e.Digests, w.Digests, func(a, b measure.Digest) bool { return bytes.Equal(a, b) }) {
				t.Errorf("PCR %d, event %d: %v %q, predicted %v %q", n, i, e.Type, e.Description, w.Type, w.Description)
			}
		}
	}
	// The kernel's EFI stub measures the initrd that it is given as an event of its own.
	if !slices.ContainsFunc(logged[9], func(e measure.Event) bool { return bytes.Equal(e.Digests[measure.SHA256], p.Initrd.SHA256) }) {
		t.Errorf("no event in PCR 9 is of the predicted initrd (%d bytes, %v): %q", p.Initrd.Size, p.Initrd.SHA256, descriptions(logged[9]))
	}
}

func descriptions(events []measure.Event) (list []string) {
	for _, e := range events {
		list = append(list, e.Description)
	}
	return list
}

// TestVMSidecars: with addons, credentials, extensions, microcode and a command
// line of the SMBIOS, firmware and mkexec start the same system, and predict
// says which. One byte changed in a file that counts, and mkexec refuses.
func TestVMSidecars(t *testing.T) {
	for _, systemd := range systemdReleases(t) {
		t.Run(fmt.Sprint(systemd.version), func(t *testing.T) {
			t.Parallel()
			testSidecars(t, systemd)
		})
	}
}

func testSidecars(t *testing.T, systemd systemdRelease) {
	m := newVM(t)
	// Without a console on the command line the stub of 261 and newer looks for one.
	cmdline, console := vm.Quiet, ""
	if systemd.version >= 261 {
		cmdline, console = strings.TrimPrefix(cmdline, "console=ttyS0 "), " console=uart,io,0x3f8"
	}
	image, err := m.assets.Image(vm.ImageConfig{
		Stub: systemd.stub, Name: "second", Cmdline: cmdline, Script: witness, Ucode: initrdOf("payload/ucode", "of the image"),
	})
	if err != nil {
		t.Fatal(err)
	}
	files := sidecars(t, systemd.addon)
	esp := partition(image, files)
	dir := writeTree(t, t.TempDir(), esp)
	const smbios = " of.smbios=3  y "
	machine := []string{"-smbios", "type=11,value=something else,value=io.systemd.stub.kernel-cmdline-extra=" + smbios}
	predicted := predict(t, "--via=firmware", "--esp="+dir, "--smbios-cmdline="+smbios, filepath.Join(dir, "EFI/BOOT/BOOTX64.EFI"))
	want := predicted.Phases[0].PCRs
	var ignored []string
	if systemd.version >= 254 {
		ignored = []string{"addon other.addon.efi: it is for another kernel (.uname)"}
	}
	if !slices.Equal(predicted.Ignored, ignored) {
		t.Errorf("ignored: %q, want %q", predicted.Ignored, ignored)
	}

	// (a) by firmware
	got := m.run(t, vm.Config{ESP: esp, Args: machine})
	byFirmware := reportOf(t, got, "second")
	wantPCRs(t, "firmware boot", byFirmware, want)
	wantEvents(t, got, predicted)
	if byFirmware.Cmdline != predicted.Cmdline+console {
		t.Errorf("command line %q, predicted %q and %q", byFirmware.Cmdline, predicted.Cmdline, console)
	}
	wantSidecars(t, systemd.version, files, got)
	firmwareSays := maps.Clone(got)

	// (b) by mkexec, after (c) attempts that must be refused
	changes := map[string]string{ // by the word in the file that is changed
		"a secret": beside + "zeta.cred", "SYSEXT": beside + "one.sysext.raw",
	}
	if systemd.version >= 257 {
		changes["global=1"] = "loader/addons/global.addon.efi"
		changes["of the last"] = beside + "u.ADDON.efi"
		changes["mkexec,board-rev2"] = beside + "d.addon.efi"
	}
	first := map[string]vm.File{
		"mkexec":      {Data: m.mkexec, Perm: 0o755},
		"policy.yaml": {Data: []byte(policyFor(predicted, "")), Perm: 0o644},
	}
	for name, data := range esp {
		first["esp/"+name] = vm.File{Data: data, Perm: 0o644}
	}
	script := refused + `
changed() { cp "/esp/$1" /tmp/good; cp "/changed/$1" "/esp/$1"; refused changed 1 --ignore-dtb --policy=/policy.yaml --esp=/esp $IMAGE; cp /tmp/good "/esp/$1"; }
IMAGE=/esp/EFI/BOOT/BOOTX64.EFI
`
	for word, name := range changes {
		data := slices.Clone(esp[name])
		i := bytes.Index(data, []byte(word))
		data[i] ^= 1
		first["changed/"+name] = vm.File{Data: data, Perm: 0o644}
		script += fmt.Sprintf("section %s changed %s\n", path.Base(name), name)
	}
	script += `
section after report
exec /mkexec boot --no-verify --ignore-dtb --policy=/policy.yaml --esp=/esp $IMAGE
`
	first["init"] = vm.Init(script)
	initrd, err := m.assets.Initrd(first)
	if err != nil {
		t.Fatal(err)
	}
	got = m.run(t, vm.Config{Kernel: m.assets.Kernel, Initrd: initrd, Cmdline: vm.Quiet, Args: machine})
	for _, name := range changes {
		says := got[path.Base(name)]
		pcr := "12"
		if strings.HasSuffix(name, ".raw") {
			pcr = "13"
		}
		if strings.Contains(says, "WRONG") || strings.Contains(says, "OUTPUT") || !strings.Contains(says, "state: "+untouched) ||
			!strings.Contains(says, "policy not met: PCR "+pcr+" (sha1) before the first phase will be ") {
			t.Errorf("%s changed: %q", name, says)
		}
	}
	after := reportOf(t, got, "after")
	wantPCRs(t, "after refusals", after, zeroPCRs())
	if after.KexecLoaded {
		t.Error("an image is loaded after refusals")
	}
	byKexec := reportOf(t, got, "second")
	wantPCRs(t, "measured kexec", byKexec, want)
	wantPCRs(t, "measured kexec against firmware boot", byKexec, byFirmware.PCRs)
	if byKexec.Cmdline != predicted.Cmdline {
		t.Errorf("command line %q, predicted %q", byKexec.Cmdline, predicted.Cmdline)
	}
	wantSidecars(t, systemd.version, files, got)
	if !maps.Equal(byKexec.Extra, byFirmware.Extra) {
		t.Errorf("/.extra: kexec %v, firmware %v", byKexec.Extra, byFirmware.Extra)
	}
	for _, name := range []string{"directories", "payload"} {
		if got[name] != firmwareSays[name] {
			t.Errorf("%s: kexec %q, firmware %q", name, got[name], firmwareSays[name])
		}
	}
}

// wantSidecars compares what the guest found in its initrd with the table.
func wantSidecars(t *testing.T, version int, files []sidecar, got map[string]string) {
	t.Helper()
	found := maps.Clone(reportOf(t, got, "second").Extra)
	for _, name := range []string{"tpm2-pcr-signature.json", "tpm2-pcr-public-key.pem", "os-release", "profile"} {
		if _, ok := found["/.extra/"+name]; ok != (strings.HasPrefix(name, "tpm2") || version >= 257) {
			t.Errorf("/.extra/%s: there: %v", name, ok)
		}
		delete(found, "/.extra/"+name)
	}
	want := map[string]vm.Extra{}
	directories := map[string]string{"/.extra": "555"}
	for _, f := range files {
		dir := f.extra
		if version < f.since {
			dir = f.before
		}
		if dir == "" {
			continue
		}
		want["/.extra/"+dir+"/"+path.Base(f.path)] = vm.Extra{Mode: f.mode, SHA256: fmt.Sprintf("%x", sha256.Sum256(f.data))}
		directories["/.extra/"+dir] = map[string]string{"400": "500", "444": "555"}[f.mode]
	}
	if !maps.Equal(found, want) {
		t.Errorf("/.extra: %v, want %v", found, want)
	}
	var lines []string
	for _, dir := range slices.Sorted(maps.Keys(directories)) {
		lines = append(lines, directories[dir]+" "+dir)
	}
	if w := strings.Join(lines, "\n"); got["directories"] != w {
		t.Errorf("directories: %q, want %q", got["directories"], w)
	}
	payload := ""
	if version >= 257 {
		payload = "640 /payload/addon: of an initrd addon\n640 /payload/ucode: of the image\n640 /payload/ucode-last: of the last addon"
	}
	if got["payload"] != payload {
		t.Errorf("payload: %q, want %q", got["payload"], payload)
	}
}
