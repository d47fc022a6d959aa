package stub_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-attestation/attest"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// These tests compare with nine boots of Linux (testdata/vm/README.md): the
// events and PCRs that the firmware logged, the command line and the files in
// /.extra that the booted system saw. The images are put together again from
// their sections; of those only .linux and .initrd are not stored, and only the
// digests of the two events that are of their contents are taken from the log.
//
// They do not prove where .initrd is cut or padded, of which the stand-in shows
// but one size, nor what firmware measures of the image itself (PCR 4).

// A vmBoot is one boot.
type vmBoot struct {
	image string // its name in uki-sections.json
	path  string // on the partition
	opts  stub.Options
	disk  map[string][]stub.File // by directory
	// console is what the stub added to the command line after measuring it,
	// which a kexec does not (specification, 2.3, "console append").
	console string
}

func files(namesAndContents ...string) (list []stub.File) {
	for i := 0; i < len(namesAndContents); i += 2 {
		list = append(list, stub.File{Name: namesAndContents[i], Content: measure.Bytes([]byte(namesAndContents[i+1]))})
	}
	return list
}

// addonFiles reads addons of testdata/vm.
func addonFiles(t *testing.T, names ...string) (list []stub.File) {
	t.Helper()
	for _, name := range names {
		list = append(list, stub.File{Name: name, Content: measure.Bytes(vmFile(t, "addons/"+name))})
	}
	return list
}

func vmBoots(t *testing.T) map[string]vmBoot {
	common := func(imageDir string, image ...stub.File) map[string][]stub.File {
		image = append(image, addonFiles(t, "c.addon.efi")...)
		return map[string][]stub.File{
			stub.AddonsDir:      addonFiles(t, "d.addon.efi", "b.addon.efi", "a.addon.efi"),
			stub.CredentialsDir: files("glob.cred", "global!"),
			stub.ExtensionsDir:  files("g2.confext.raw", "HHHHHHHHHH", "g1.raw", "GGGGGGGGG"),
			imageDir:            image,
		}
	}
	// The credentials, extensions and addons beside test/uki.efi.
	test := func() map[string][]stub.File {
		return common("EFI/test/uki.efi.extra.d", files("zeta.cred", "secret-z\n", "three.confext.raw", "CCCCCCC", "one.sysext.raw", "SSSSS", "Beta.CRED", "bb")...)
	}
	withTab := func(smbios string) stub.Options {
		return stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("over\tride=1 console=ttyS0 panic=-1 x"), SMBIOSCmdline: smbios}
	}
	const smbios = "smbios.extra=4  y " // as 254 measured it, which does not clean it
	return map[string]vmBoot{
		"basic": {image: "test.efi", path: "EFI/BOOT/BOOTX64.EFI", opts: stub.Options{Via: stub.ViaFirmware}},
		"sidecar": {image: "test.efi", path: "EFI/BOOT/BOOTX64.EFI", opts: stub.Options{Via: stub.ViaFirmware, SMBIOSCmdline: smbios},
			disk: common("EFI/BOOT/BOOTX64.EFI.extra.d", files("two.raw", "TTTTTT", "alpha.cred", "a", "zeta.cred", "secret-z\n",
				"three.confext.raw", "CCCCCCC", "one.sysext.raw", "SSSSS", "Beta.CRED", "bb")...)},
		"p0opts": {image: "test.efi", path: "EFI/test/uki+3-0.efi",
			opts: stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("console=ttyS0 panic=-1 ov=1")}},
		"p1opts": {image: "test.efi", path: "EFI/test/uki+3-0.efi",
			opts:    stub.Options{Via: stub.ViaSystemdBoot, Profile: "1", Cmdline: new("foo=bar  baz")},
			disk:    map[string][]stub.File{"EFI/test/uki.efi.extra.d": files("x.cred", "1")},
			console: " console=uart,io,0x3f8"},
		"p1only": {image: "test.efi", path: "EFI/test/uki+3-0.efi", opts: stub.Options{Via: stub.ViaSystemdBoot, Profile: "1"}},
		"v252":   {image: "uki252.efi", path: "EFI/test/uki.efi", opts: withTab(smbios), disk: test()},
		"v254":   {image: "uki254.efi", path: "EFI/test/uki.efi", opts: withTab(smbios), disk: test()},
		"v257":   {image: "uki257.efi", path: "EFI/test/uki.efi", opts: withTab(smbios), disk: test()},
		"v262":   {image: "test.efi", path: "EFI/test/uki.efi", opts: withTab(smbios), disk: test()},
	}
}

// sidecars puts the files on the partition where Load wants them.
func (v *vmBoot) sidecars(major int) stub.Sidecars {
	return stub.Sidecars{
		Image:       v.disk[stub.ImageDir(v.path, major)],
		Addons:      v.disk[stub.AddonsDir],
		Credentials: v.disk[stub.CredentialsDir],
		Extensions:  v.disk[stub.ExtensionsDir],
	}
}

func vmFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vm", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// standIns are what .linux and .initrd are replaced by. The initrd is an empty
// archive without its last byte: as the real one it is 3 more than a multiple of 4.
var standIns = map[string]string{
	".linux":  "a kernel",
	".initrd": "070701" + strings.Repeat("0", 4*8) + "00000001" + strings.Repeat("0", 6*8) + "0000000B" + "00000000" + "TRAILER!!!\x00\x00\x00",
}

// vmImage puts the image together, with the sections that ukify added, in its
// order. The contents are told by their digests in uki-sections.json, those of
// the file that was booted.
func vmImage(t *testing.T, name, version string) []byte {
	t.Helper()
	known := map[string][]byte{}
	paths, err := filepath.Glob("testdata/vm/sections/*")
	if err != nil || len(paths) != 15 {
		t.Fatalf("%d sections: %v", len(paths), err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		known[fmt.Sprintf("%x", sha256.Sum256(b))] = b
	}
	var tables map[string][][3]any
	if err := json.Unmarshal(vmFile(t, "uki-sections.json"), &tables); err != nil {
		t.Fatal(err)
	}
	var sections []ukitest.Section
	own := []string{".text", ".rodata", ".data", ".reloc", ".dynamic", ".rela", ".dynsym", ".sdmagic"}
	for _, row := range tables[name] {
		section, size, sum := row[0].(string), row[1].(float64), row[2].(string)
		contents, ok := known[sum]
		switch standIn := standIns[section]; {
		case slices.Contains(own, section):
			continue // the stub's, not measured
		case standIn != "":
			contents = []byte(standIn)
			if section == ".initrd" && len(standIn)%4 != int(size)%4 {
				t.Fatalf("%s: %d bytes stand in for %v", section, len(standIn), size)
			}
		case !ok || float64(len(contents)) != size:
			t.Fatalf("%s: section %s of %v bytes with SHA-256 %s: not in testdata", name, section, size, sum)
		}
		sections = append(sections, ukitest.Section{Name: section, Data: contents})
	}
	if len(sections) < 7 {
		t.Fatalf("%s: %d sections", name, len(sections))
	}
	return build(t, version, sections...)
}

// A vmRecord is what the booted system saw.
type vmRecord struct {
	Cmdline string
	PCR     measure.PCRs // sha1, sha256, sha384: the kernel has no file for sha512
	Events  []struct {
		PCR    measure.PCR
		Type   uint32
		SHA256 measure.Digest
		Data   string `json:"data_hex"`
	} `json:"events_9_11_12_13"`
	EFIVars map[string]string
	Extra   []string

	log []logged // the raw log, all banks
}

// version is the version of the stub, by the EFI variable StubInfo.
func (r *vmRecord) version(t *testing.T) string {
	t.Helper()
	raw, err := hex.DecodeString(r.EFIVars["StubInfo"])
	if err != nil || len(raw) < 8 {
		t.Fatalf("StubInfo: %v", err)
	}
	version, ok := strings.CutPrefix(fromUTF16z(raw[4:]), "systemd-stub ") // 4 bytes of attributes
	if !ok {
		t.Fatalf("StubInfo is %q", version)
	}
	return version
}

func fromUTF16z(b []byte) string {
	var units []uint16
	for ; len(b) > 2; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}

func readVM(t *testing.T, name string) *vmRecord {
	t.Helper()
	var r vmRecord
	if err := json.Unmarshal(vmFile(t, name+".json"), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Events) < 12 || len(r.PCR) != 3 || len(r.PCR[measure.SHA384]) < 16 || len(r.Extra) < 2 {
		t.Fatalf("%s: %d events, %d banks, %d files", name, len(r.Events), len(r.PCR), len(r.Extra))
	}
	r.log = readLog(t, vmFile(t, name+".binary_bios_measurements"))
	return &r
}

// A logged event is one of the firmware's log.
type logged struct {
	pcr     measure.PCR
	typ     uint32
	digests map[measure.Bank]measure.Digest
	data    []byte
}

// readLog reads a crypto agile event log (TCG PC Client Platform Firmware
// Profile, 10.2). go-attestation, the other reader here, does not give SHA-512.
func readLog(t *testing.T, b []byte) (events []logged) {
	t.Helper()
	take := func(n int) []byte {
		if n > len(b) {
			t.Fatalf("event log: %d bytes are missing", n-len(b))
		}
		taken := b[:n]
		b = b[n:]
		return taken
	}
	u32 := func() int { return int(binary.LittleEndian.Uint32(take(4))) }
	take(4 + 4 + 20) // the first event is of the old format: PCR, type, SHA-1
	take(u32())
	for len(b) > 0 {
		e := logged{pcr: measure.PCR(u32()), typ: uint32(u32()), digests: map[measure.Bank]measure.Digest{}}
		for range u32() {
			bank := measure.Bank(binary.LittleEndian.Uint16(take(2)))
			e.digests[bank] = take(bank.Size())
		}
		if e.data = take(u32()); len(e.digests) != 4 {
			t.Fatalf("event log: %d digests", len(e.digests))
		}
		events = append(events, e)
	}
	return events
}

// stubs returns the events of the stub and of systemd-boot before it.
func stubs(log []logged) (events []logged) {
	for _, e := range log {
		if slices.Contains(measure.StubPCRs(), e.pcr) {
			events = append(events, e)
		}
	}
	return events
}

// TestVMLog checks the log that the other tests compare with: go-attestation
// reads the same from it, the system that was booted found the same events, and
// the events lead to the PCRs that it found.
func TestVMLog(t *testing.T) {
	t.Parallel()
	algs := map[measure.Bank]attest.HashAlg{measure.SHA1: attest.HashSHA1, measure.SHA256: attest.HashSHA256, measure.SHA384: attest.HashSHA384}
	for name := range vmBoots(t) {
		r := readVM(t, name)
		log, err := attest.ParseEventLog(vmFile(t, name+".binary_bios_measurements"))
		if err != nil {
			t.Fatal(err)
		}
		for bank, alg := range algs {
			second := log.Events(alg)
			if len(second) != len(r.log) {
				t.Fatalf("%s: go-attestation has %d events, this test %d", name, len(second), len(r.log))
			}
			for i, e := range second {
				if own := r.log[i]; measure.PCR(e.Index) != own.pcr || !bytes.Equal(e.Digest, own.digests[bank]) || !bytes.Equal(e.Data, own.data) {
					t.Errorf("%s: event %d: %v: go-attestation has %d %x", name, i, bank, e.Index, e.Digest)
				}
			}
		}
		pcrs := measure.Zero(measure.Banks(), measure.StubPCRs()...)
		events := stubs(r.log)
		for _, e := range events {
			if err := pcrs.Extend(measure.Event{PCR: e.pcr, Digests: e.digests}); err != nil {
				t.Fatal(err)
			}
		}
		comparePCRs(t, name, r, pcrs)
		n := 0
		for _, e := range r.Events {
			if e.PCR == 9 {
				continue
			}
			if own := events[n]; e.PCR != own.pcr || e.Type != own.typ || !bytes.Equal(e.SHA256, own.digests[measure.SHA256]) || e.Data != hex.EncodeToString(own.data) {
				t.Errorf("%s: event %d is not what the system found", name, n)
			}
			n++
		}
		if n != len(events) {
			t.Errorf("%s: the system found %d events, the log has %d", name, n, len(events))
		}
	}
}

// comparePCRs compares with the PCRs that the booted system found, which extends none of them.
func comparePCRs(t *testing.T, name string, r *vmRecord, got measure.PCRs) {
	t.Helper()
	for bank, values := range r.PCR {
		for _, n := range measure.StubPCRs() {
			if !bytes.Equal(values[n], got[bank][n]) {
				t.Errorf("%s: PCR %d (%v) is %v, the booted system has %v", name, n, bank, got[bank][n], values[n])
			}
		}
	}
}

func TestVM(t *testing.T) {
	boots := vmBoots(t)
	records, err := filepath.Glob("testdata/vm/*.binary_bios_measurements")
	if err != nil || len(records) != len(boots) {
		t.Fatalf("%d logs, %d said how to start: %v", len(records), len(boots), err)
	}
	for name, boot := range boots {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := readVM(t, name)
			image := vmImage(t, boot.image, r.version(t))
			b, p := startVM(t, image, &boot)
			compareVM(t, name, r, p)
			checkVMCmdline(t, r, b.Cmdline+boot.console)
			checkVMInitrd(t, r, read(t, b.Initrd...))
			if noted := len(b.Ignored) == 1 && b.Ignored[0] == "addon d.addon.efi: it is for another kernel (.uname)"; noted != (b.Stub.Major >= 254 && boot.disk[stub.AddonsDir] != nil) {
				t.Errorf("ignored: %q", b.Ignored) // it is in no event
			}
		})
	}
}

func startVM(t *testing.T, image []byte, boot *vmBoot) (*stub.Boot, *measure.Prediction) {
	t.Helper()
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := f.Stub()
	if err != nil {
		t.Fatal(err)
	}
	opts := boot.opts
	opts.Sidecars = boot.sidecars(v.Major)
	b, err := stub.Load(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	p, err := measure.Predict(&b.Image, measure.Options{Base: measure.Zero(measure.Banks(), measure.StubPCRs()...)})
	if err != nil {
		t.Fatal(err)
	}
	return b, p
}

// compareVM compares the events, all but the digests of the stand-ins, and the
// PCRs after them.
func compareVM(t *testing.T, name string, r *vmRecord, p *measure.Prediction) {
	t.Helper()
	log := stubs(r.log)
	if len(p.Events) != len(log) {
		t.Errorf("%s: %d events, the log has %d", name, len(p.Events), len(log))
	}
	pcrs := measure.Zero(measure.Banks(), measure.StubPCRs()...)
	seen := map[string]int{}
	borrowed := 0
	for i := range min(len(p.Events), len(log)) {
		got, want := p.Events[i], log[i]
		if section := fromUTF16z(got.Data); standIns[section] != "" {
			if seen[section]++; seen[section] == 2 { // behind the name
				got.Digests = want.digests
				borrowed++
			}
		}
		if got.PCR != want.pcr || uint32(got.Type) != want.typ || !bytes.Equal(got.Data, want.data) {
			t.Errorf("%s: event %d (%s): PCR %d, %v %x, the log has PCR %d, %d %x", name, i, got.Description, got.PCR, got.Type, got.Data, want.pcr, want.typ, want.data)
		}
		for _, bank := range measure.Banks() {
			if !bytes.Equal(got.Digests[bank], want.digests[bank]) {
				t.Errorf("%s: event %d (%s): %v %v, the log has %v", name, i, got.Description, bank, got.Digests[bank], want.digests[bank])
			}
		}
		if err := pcrs.Extend(got); err != nil {
			t.Fatal(err)
		}
	}
	if borrowed != 2 {
		t.Errorf("%s: %d digests are borrowed from the log", name, borrowed)
	}
	comparePCRs(t, name, r, pcrs)
}

// checkVMCmdline compares with /proc/cmdline, and with what the kernel measured
// when it started: its load options, in UTF-16 with a NUL, into PCR 9.
func checkVMCmdline(t *testing.T, r *vmRecord, cmdline string) {
	t.Helper()
	if cmdline != r.Cmdline {
		t.Errorf("command line %q, the system has %q", cmdline, r.Cmdline)
	}
	n := 0
	for _, e := range r.log {
		if e.pcr != 9 || !bytes.HasSuffix(e.data, []byte("LOADED_IMAGE::LoadOptions\x00")) {
			continue
		}
		n++
		for bank, digest := range e.digests {
			if got := bank.Sum(utf16z(cmdline)); !bytes.Equal(got, digest) {
				t.Errorf("command line %q: the kernel measured another (%v)", cmdline, bank)
			}
		}
	}
	if n != 1 {
		t.Errorf("the kernel measured %d command lines", n)
	}
}

// checkVMInitrd compares the archives in the initrd with the events that are of
// archives and with the archives that the stub made, and the files in /.extra
// with those that the system had.
func checkVMInitrd(t *testing.T, r *vmRecord, initrd string) {
	t.Helper()
	archives := unpack(t, initrd)

	var got, want []string
	made := map[string]bool{}
	entries := map[string]cpioEntry{}
	for _, a := range archives {
		made[a.raw] = true
		for _, e := range a.entries {
			if e.uid != 0 || e.gid != 0 || e.mtime != 0 && strings.HasPrefix(e.name, ".extra") {
				t.Errorf("%s: owner %d:%d, time %d", e.name, e.uid, e.gid, e.mtime)
			}
			if _, again := entries[e.name]; strings.HasPrefix(e.name, ".extra") && !again { // .extra itself is in each archive
				got = append(got, e.String())
			}
			entries[e.name] = e
		}
	}
	// Lines are: mode, owner, group, time, size or "dir", inode, path, SHA-256. The kernel numbers the inodes in order.
	inodes := map[string]int{}
	for _, line := range r.Extra {
		f := strings.Fields(line)
		if len(f) < 7 || f[1]+f[2]+f[3] != "000" {
			t.Fatalf("%q", line)
		}
		inode, err := strconv.Atoi(f[5])
		if err != nil {
			t.Fatal(err)
		}
		line = strings.Join(append([]string{f[0], f[4], strings.TrimPrefix(f[6], "/")}, f[7:]...), " ")
		inodes[line] = inode
		want = append(want, line)
	}
	slices.SortFunc(want, func(a, b string) int { return inodes[a] - inodes[b] })
	if !slices.Equal(got, want) {
		t.Errorf("/.extra:\n%s\nthe system has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// What was measured of the initrd is in it, in the order of the specification, 3.1.
	position := func(e logged) int {
		const tagInitrdAddon = "\x0f\xfe\xdf\x49"
		parts := []string{"b.addon.efi", ".ucode", ".initrd", "Credentials initrd", "Global credentials initrd", "System extension initrd",
			"Global system extension initrd", "Configuration extension initrd", "Global configuration extension initrd"}
		if e.typ == uint32(measure.EventTag) && strings.HasPrefix(string(e.data), tagInitrdAddon) {
			return len(parts)
		}
		return slices.IndexFunc(parts, func(name string) bool { return bytes.HasSuffix(e.data, utf16z(name)) })
	}
	events := slices.DeleteFunc(stubs(r.log), func(e logged) bool { return position(e) < 0 || isName(e) })
	slices.SortStableFunc(events, func(a, b logged) int { return position(a) - position(b) })
	next := 0
	for _, e := range events {
		i := slices.IndexFunc(archives[next:], func(a cpioArchive) bool {
			if bytes.Equal(e.data, utf16z(".initrd")) {
				return a.raw == standIns[".initrd"]+"\x00" // padded
			}
			return bytes.Equal(measure.SHA256.Sum([]byte(a.raw)), e.digests[measure.SHA256])
		})
		if i < 0 {
			t.Errorf("what the event %q measures is not in the initrd, or not in order", fromUTF16z(e.data))
			continue
		}
		next += i + 1
	}

	// The archives that were kept are there byte for byte.
	for name, in := range map[string]bool{
		"credentials":     entries[".extra/credentials/alpha.cred"].size > 0,
		"sysext":          entries[".extra/sysext/two.raw"].size > 0,
		"meta-os-release": entries[".extra/os-release"].size > 0,
	} {
		kept, err := os.ReadFile("testdata/cpio/cpio-" + name + ".cpio")
		if err != nil {
			t.Fatal(err)
		}
		if made[string(kept)] != in {
			t.Errorf("archive %s is in the initrd: %v", name, !in)
		}
	}
}

// isName tells whether the event is of the name of a section, not of its contents.
func isName(e logged) bool {
	name := fromUTF16z(e.data)
	return strings.HasPrefix(name, ".") && bytes.Equal(e.digests[measure.SHA256], measure.SHA256.Sum([]byte(name+"\x00")))
}

// TestVMAddons: the addons are those that the firmware loaded. It measured
// their Authenticode digests into PCR 4, in the order in which the stub asked
// for them.
func TestVMAddons(t *testing.T) {
	t.Parallel()
	const eventBootServicesApplication = 0x80000003
	for name, boot := range vmBoots(t) {
		r := readVM(t, name)
		var loaded []string
		for _, e := range r.log {
			if e.pcr != 4 || e.typ != eventBootServicesApplication || !bytes.Contains(e.data, utf16z(".addon.efi")) {
				continue
			}
			i := bytes.Index(e.data, utf16z(".addon.efi")) - 2
			file := string(e.data[i]) + ".addon.efi"
			loaded = append(loaded, file)
			b := vmFile(t, "addons/"+file)
			f, err := uki.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			for bank, digest := range e.digests {
				h := bank.New()
				if err := f.Authenticode(h); err != nil {
					t.Fatal(err)
				}
				if got := h.Sum(nil); !bytes.Equal(got, digest) {
					t.Errorf("%s: %s: Authenticode digest (%v) %x, the firmware has %v", name, file, bank, got, digest)
				}
			}
		}
		want := "a.addon.efi b.addon.efi d.addon.efi c.addon.efi"
		if boot.disk[stub.AddonsDir] == nil || name == "v252" { // which does not know addons
			want = ""
		}
		if got := strings.Join(loaded, " "); got != want {
			t.Errorf("%s: the firmware loaded %q", name, got)
		}
	}
}

// TestVMTampered changes one byte in each section and each file, and wants other
// events; what the version does not use must not count.
func TestVMTampered(t *testing.T) {
	for _, name := range []string{"sidecar", "p1opts", "v252", "v254", "v257"} {
		boot := vmBoots(t)[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := readVM(t, name)
			image := vmImage(t, boot.image, r.version(t))
			b, p := startVM(t, image, &boot)

			sections := 0
			for _, m := range b.Measurements {
				s, ok := m.Content.(*uki.Section)
				if !ok {
					continue
				}
				sections++
				off, size := s.FileRange()
				tampered := bytes.Clone(image)
				tampered[off+size/2] ^= 1
				_, q := startVM(t, tampered, &boot)
				wantDifferent(t, "section "+s.Name, p, q, 11)
			}
			if sections < 6 {
				t.Errorf("%d sections", sections)
			}

			old := b.Stub.Major < 257
			for dir, list := range boot.disk {
				for i, f := range list {
					if strings.HasSuffix(f.Name, ".addon.efi") {
						continue // TestVMAddons
					}
					contents := []byte(read(t, f.Content))
					contents[len(contents)-1] ^= 1
					tampered := boot
					tampered.disk = map[string][]stub.File{}
					for d, l := range boot.disk {
						tampered.disk[d] = slices.Clone(l)
					}
					tampered.disk[dir][i].Content = measure.Bytes(contents)
					_, q := startVM(t, image, &tampered)
					var want []measure.PCR
					switch {
					case dir == stub.ExtensionsDir && b.Stub.Major < 258:
					case strings.HasSuffix(f.Name, ".confext.raw") && !old, strings.HasSuffix(strings.ToLower(f.Name), ".cred"):
						want = append(want, 12)
					default:
						want = append(want, 13)
					}
					wantDifferent(t, dir+"/"+f.Name, p, q, want...)
				}
			}
		})
	}
}

// wantDifferent wants exactly these PCRs to be different, in every bank.
func wantDifferent(t *testing.T, what string, p, q *measure.Prediction, want ...measure.PCR) {
	t.Helper()
	a, err := p.At("")
	if err != nil {
		t.Fatal(err)
	}
	b, err := q.At("")
	if err != nil {
		t.Fatal(err)
	}
	for _, bank := range measure.Banks() {
		for _, n := range measure.StubPCRs() {
			if different := !bytes.Equal(a[bank][n], b[bank][n]); different != slices.Contains(want, n) {
				t.Errorf("%s changed: PCR %d (%v) different: %v", what, n, bank, different)
			}
		}
	}
}

// A cpioArchive is one archive of an initrd.
type cpioArchive struct {
	raw     string // with the zero bytes behind it
	entries []cpioEntry
}

type cpioEntry struct {
	inode, mode, uid, gid, mtime, size int
	name, data                         string
}

// String is mode, size or "dir", path and SHA-256, as in the record.
func (e cpioEntry) String() string {
	switch e.mode &^ 0o777 {
	case 0o040000:
		return fmt.Sprintf("%o dir %s", e.mode&0o777, e.name)
	case 0o100000:
		return fmt.Sprintf("%o %d %s %x", e.mode&0o777, e.size, e.name, sha256.Sum256([]byte(e.data)))
	}
	return fmt.Sprintf("%o %s", e.mode, e.name)
}

// unpack reads the archives of an initrd as the kernel does (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst): newc archives
// with zero bytes between them, everything at multiples of 4.
func unpack(t testing.TB, initrd string) (archives []cpioArchive) {
	t.Helper()
	off := 0
	take := func(n int) string {
		if n < 0 || off+n > len(initrd) {
			t.Fatalf("initrd: truncated at %d of %d", off, len(initrd))
		}
		s := initrd[off : off+n]
		off += n
		return s
	}
	pad := func() {
		if zeros := take(min((4-off%4)%4, len(initrd)-off)); strings.Trim(zeros, "\x00") != "" {
			t.Fatalf("initrd: %q at %d is no padding", zeros, off)
		}
	}
	for off < len(initrd) {
		var a cpioArchive
		start := off
		for {
			if magic := take(6); magic != "070701" || off%4 != 2 {
				t.Fatalf("initrd: %q at %d is no header", magic, off-6)
			}
			var f [13]int
			for i := range f {
				n, err := strconv.ParseUint(take(8), 16, 32)
				if err != nil {
					t.Fatalf("initrd: header before %d: %v", off, err)
				}
				f[i] = int(n)
			}
			e := cpioEntry{inode: f[0], mode: f[1], uid: f[2], gid: f[3], mtime: f[5], size: f[6]}
			if e.name = strings.TrimSuffix(take(f[11]), "\x00"); e.name == "TRAILER!!!" {
				break
			}
			pad()
			e.data = take(e.size)
			pad()
			a.entries = append(a.entries, e)
		}
		off += len(initrd[off:]) - len(strings.TrimLeft(initrd[off:], "\x00"))
		a.raw = initrd[start:off]
		archives = append(archives, a)
	}
	return archives
}
