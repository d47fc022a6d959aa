package stub_test

// These tests give images that package ukitest made to Load and to Bare, and
// compare with expectations written by hand from the specification of
// systemd-stub. They do not prove that the specification is right; the golden
// boots do, for the four versions and eleven ways to start that they have.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// sec is one section of a test image.
func sec(name, data string) ukitest.Section { return ukitest.Section{Name: name, Data: []byte(data)} }

var linux = sec(".linux", "kernel")

func build(t testing.TB, version string, sections ...ukitest.Section) []byte {
	t.Helper()
	b, err := ukitest.Build(ukitest.Minimal(version), sections...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func loadBytes(image []byte, opts stub.Options) (*stub.Boot, error) {
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return nil, err
	}
	return stub.Load(f, opts)
}

func load(t testing.TB, version string, opts stub.Options, sections ...ukitest.Section) *stub.Boot {
	t.Helper()
	b, err := loadBytes(build(t, version, sections...), opts)
	if err != nil {
		t.Fatalf("%s: %v", version, err)
	}
	return b
}

func loadError(t testing.TB, version string, opts stub.Options, sections ...ukitest.Section) error {
	t.Helper()
	b, err := loadBytes(build(t, version, sections...), opts)
	if err == nil || b != nil {
		t.Errorf("%s: %v, %v", version, b, err)
	}
	return err
}

func wantError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func read(t testing.TB, pieces ...measure.Content) string {
	t.Helper()
	var all []byte
	for _, c := range pieces {
		b, err := measure.ReadAll(c, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return string(all)
}

// measured returns the sections that are measured, ".linux=kernel .cmdline=…",
// and checks the pairs of events.
func measured(t testing.TB, b *stub.Boot) string {
	t.Helper()
	var pairs []string
	name := ""
	for _, m := range b.Measurements {
		if m.PCR != measure.PCRKernelImage {
			continue
		}
		c := read(t, m.Content)
		if name == "" {
			var ok bool
			if name, ok = strings.CutSuffix(c, "\x00"); !ok || !strings.HasPrefix(name, ".") {
				t.Fatalf("%s: %q is no name", m.Description, c)
			}
		} else {
			pairs = append(pairs, name+"="+strings.TrimRight(c, "\x00"))
			name = ""
		}
		if want := utf16z(strings.TrimRight(c, "\x00")); m.Type != measure.EventIPL || name != "" && !bytes.Equal(m.Data, want) {
			t.Errorf("%s: %v, event data %x", m.Description, m.Type, m.Data)
		}
	}
	if name != "" {
		t.Errorf("%s: no contents", name)
	}
	return strings.Join(pairs, " ")
}

// utf16z is ASCII text in UTF-16 with a NUL.
func utf16z(s string) []byte {
	var b []byte
	for _, c := range []byte(s + "\x00") {
		b = append(b, c, 0)
	}
	return b
}

// config returns what is measured into PCR 12, decoded.
func config(t testing.TB, b *stub.Boot) []string {
	t.Helper()
	texts := []string{}
	for _, m := range b.Measurements {
		if m.PCR != measure.PCRKernelConfig {
			continue
		}
		c := read(t, m.Content)
		text := ""
		for i := 0; i+1 < len(c); i += 2 {
			if c[i+1] == 0 && c[i] != 0 {
				text += string(rune(c[i]))
			}
		}
		if !strings.HasSuffix(c, "\x00\x00") || len(c)%2 != 0 {
			t.Errorf("%s: %q does not end with a NUL", m.Description, c)
		}
		if m.Type == measure.EventTag {
			text = "tag " + text
		}
		texts = append(texts, text)
	}
	return texts
}

// extra is the archive of one file in /.extra, by the text of the
// specification, 2.7.
func extra(name, data string) string {
	pad := func(s string) string { return s + strings.Repeat("\x00", (4-len(s)%4)%4) }
	const zeros = "00000000"
	file := fmt.Sprintf("0707010000000200008124"+zeros+zeros+"00000001"+zeros+"%08x"+zeros+zeros+zeros+zeros+"%08x"+zeros,
		len(data), len(".extra/")+len(name)+1)
	return pad("070701000000010000416d"+zeros+zeros+"00000001"+zeros+zeros+zeros+zeros+zeros+zeros+"00000007"+zeros+".extra\x00") +
		pad(file+".extra/"+name+"\x00") + pad(data) +
		"070701" + zeros + zeros + zeros + zeros + "00000001" + zeros + zeros + zeros + zeros + zeros + zeros + "0000000B" + zeros + "TRAILER!!!\x00\x00\x00\x00"
}

func TestInitrd(t *testing.T) {
	want, err := os.ReadFile("testdata/cpio/cpio-meta-os-release.cpio")
	if err != nil {
		t.Fatal(err)
	}
	if got := extra("os-release", "ID=testos\nVERSION_ID=1\nPRETTY_NAME=\"Test OS 1\"\n"); got != string(want) {
		t.Fatalf("the test itself is wrong:\n%q\n%q", got, want)
	}

	all := []ukitest.Section{linux, sec(".osrel", "ID=a\n"), sec(".initrd", "initrd"), sec(".ucode", "ucode"),
		sec(".pcrsig", "{}"), sec(".pcrpkey", "key"), sec(".profile", "ID=p\n"), sec(".cmdline", "quiet")}
	const initrd, ucode = "initrd\x00\x00", "ucode\x00\x00\x00"
	keys := extra("tpm2-pcr-signature.json", "{}") + extra("tpm2-pcr-public-key.pem", "key")
	meta := extra("os-release", "ID=a\n") + extra("profile", "ID=p\n")
	for version, want := range map[string]string{
		"252.39": initrd + keys,
		"254.26": initrd + keys,
		"255.4":  initrd + keys,
		"256":    ucode + initrd + keys,
		"257.13": ucode + initrd + keys + meta,
		"262.1":  ucode + initrd + keys + meta,
	} {
		b := load(t, version, stub.Options{Via: stub.ViaKexec}, all...)
		if got := read(t, b.Initrd...); got != want {
			t.Errorf("%s:\n%q\nwant\n%q", version, got, want)
		}
		if b.InitrdSize() != int64(len(want)) {
			t.Errorf("%s: %d bytes, want %d", version, b.InitrdSize(), len(want))
		}
	}

	for name, test := range map[string]struct {
		version  string
		sections []ukitest.Section
		want     string
	}{
		"none":                        {"262", []ukitest.Section{linux}, ""},
		"one piece is not padded":     {"262", []ukitest.Section{linux, sec(".initrd", "12345")}, "12345"},
		"microcode alone":             {"256", []ukitest.Section{linux, sec(".ucode", "12345")}, "12345"},
		"microcode unknown to 255":    {"255", []ukitest.Section{linux, sec(".ucode", "12345"), sec(".initrd", "1")}, "1"},
		"two, padded":                 {"256", []ukitest.Section{linux, sec(".initrd", "1"), sec(".ucode", "1234")}, "12341\x00\x00\x00"},
		"one archive":                 {"252", []ukitest.Section{linux, sec(".pcrsig", "{}")}, extra("tpm2-pcr-signature.json", "{}")},
		"os-release unknown to 256":   {"256", []ukitest.Section{linux, sec(".osrel", "ID=a"), sec(".initrd", "1")}, "1"},
		"os-release alone":            {"257", []ukitest.Section{linux, sec(".osrel", "ID=a")}, extra("os-release", "ID=a")},
		"zero bytes that are claimed": {"257", []ukitest.Section{linux, {Name: ".initrd", Data: []byte("ab"), VirtualSize: 6}}, "ab\x00\x00\x00\x00"},
		"zero bytes in an archive": {"257", []ukitest.Section{linux, {Name: ".osrel", Data: []byte("ab"), VirtualSize: 6}},
			extra("os-release", "ab\x00\x00\x00\x00")},
		"profile's own": {"257", []ukitest.Section{linux, sec(".initrd", "base"), sec(".profile", "ID=0"), sec(".initrd", "own!")},
			"own!" + extra("profile", "ID=0")},
	} {
		b := load(t, test.version, stub.Options{Via: stub.ViaKexec}, test.sections...)
		if got := read(t, b.Initrd...); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestSections(t *testing.T) {
	file := []ukitest.Section{sec(".hwids", "h"), sec(".profile", "p"), sec(".pcrpkey", "k"), sec(".pcrsig", "s"), sec(".sbat", "b"),
		sec(".uname", "n"), sec(".dtb", "d"), sec(".splash", "l"), sec(".ucode", "u"), sec(".initrd", "i"), sec(".cmdline", "c"),
		sec(".osrel", "o"), linux, sec(".vendor", "v")}
	// From 257 on .profile would take all behind it with it; so there it is last.
	moved := append(slices.Delete(slices.Clone(file), 1, 2), sec(".profile", "p"))
	for version, want := range map[string]string{
		"252": ".linux=kernel .osrel=o .cmdline=c .initrd=i .splash=l .dtb=d .pcrpkey=k",
		"253": ".linux=kernel .osrel=o .cmdline=c .initrd=i .splash=l .dtb=d .pcrpkey=k",
		"254": ".linux=kernel .osrel=o .cmdline=c .initrd=i .splash=l .dtb=d .uname=n .sbat=b .pcrpkey=k",
		"255": ".linux=kernel .osrel=o .cmdline=c .initrd=i .splash=l .dtb=d .uname=n .sbat=b .pcrpkey=k",
		"256": ".linux=kernel .osrel=o .cmdline=c .initrd=i .ucode=u .splash=l .dtb=d .uname=n .sbat=b .pcrpkey=k",
		"257": ".linux=kernel .osrel=o .cmdline=c .initrd=i .ucode=u .splash=l .dtb=d .uname=n .sbat=b .pcrpkey=k .profile=p .hwids=h",
		"262": ".linux=kernel .osrel=o .cmdline=c .initrd=i .ucode=u .splash=l .dtb=d .uname=n .sbat=b .pcrpkey=k .profile=p .hwids=h",
	} {
		sections := file
		if version >= "257" {
			sections = moved
		}
		b := load(t, version, stub.Options{Via: stub.ViaFirmware}, sections...)
		if got := measured(t, b); got != want {
			t.Errorf("%s measures %s\nwant %s", version, got, want)
		}
		if got := config(t, b); len(got) > 0 {
			t.Errorf("%s measures %q into PCR 12", version, got)
		}
	}
}

func TestSelection(t *testing.T) {
	empty := func(name string) ukitest.Section { return ukitest.Section{Name: name} }
	for name, test := range map[string]struct {
		sections   []ukitest.Section
		v256, v257 string
	}{
		"twice":            {[]ukitest.Section{linux, sec(".cmdline", "1"), sec(".cmdline", "2")}, ".linux=kernel .cmdline=2", ".linux=kernel .cmdline=1"},
		"longer name":      {[]ukitest.Section{linux, sec(".initrd", "1"), sec(".initrd2", "2")}, ".linux=kernel .initrd=2", ".linux=kernel .initrd=1"},
		"only longer":      {[]ukitest.Section{linux, sec(".initrd2", "2")}, ".linux=kernel .initrd=2", ".linux=kernel"},
		"shorter name":     {[]ukitest.Section{linux, sec(".init", "2"), sec("initrd", "3")}, ".linux=kernel", ".linux=kernel"},
		"other case":       {[]ukitest.Section{linux, sec(".Initrd", "2")}, ".linux=kernel", ".linux=kernel"},
		"first is empty":   {[]ukitest.Section{linux, empty(".cmdline"), sec(".cmdline", "2")}, ".linux=kernel .cmdline=2", ".linux=kernel"},
		"last is empty":    {[]ukitest.Section{linux, sec(".cmdline", "1"), empty(".cmdline")}, ".linux=kernel", ".linux=kernel .cmdline=1"},
		"kernel twice":     {[]ukitest.Section{linux, sec(".linux", "2")}, ".linux=2", ".linux=kernel"},
		"profile replaces": {[]ukitest.Section{linux, sec(".osrel", "o"), sec(".cmdline", "1"), sec(".profile", "p"), sec(".cmdline", "2")}, ".linux=kernel .osrel=o .cmdline=2", ".linux=kernel .osrel=o .cmdline=2 .profile=p"},
		"profile adds":     {[]ukitest.Section{linux, sec(".profile", "p"), sec(".initrd", "i")}, ".linux=kernel .initrd=i", ".linux=kernel .initrd=i .profile=p"},
		"profile 1 is not used": {[]ukitest.Section{linux, sec(".profile", "p"), sec(".profile", "q"), sec(".initrd", "i")},
			".linux=kernel .initrd=i", ".linux=kernel .profile=p"},
		"profile suppresses": {[]ukitest.Section{linux, sec(".cmdline", "1"), sec(".profile", "p"), empty(".cmdline")}, ".linux=kernel", ".linux=kernel .profile=p"},
		"first in the profile": {[]ukitest.Section{linux, sec(".profile", "p"), sec(".cmdline", "1"), sec(".cmdline", "2")},
			".linux=kernel .cmdline=2", ".linux=kernel .cmdline=1 .profile=p"},
		"kernel in the profile": {[]ukitest.Section{sec(".profile", "p"), linux}, ".linux=kernel", ".linux=kernel .profile=p"},
	} {
		for version, want := range map[string]string{"252.39": test.v256, "256": test.v256, "257.1": test.v257, "262": test.v257} {
			if got := measured(t, load(t, version, stub.Options{Via: stub.ViaKexec}, test.sections...)); got != want {
				t.Errorf("%s: %s measures %s\nwant %s", name, version, got, want)
			}
		}
	}
}

func TestHardwareDependent(t *testing.T) {
	opts := stub.Options{Via: stub.ViaKexec}
	dtbauto, efifw := sec(".dtbauto", "d"), sec(".efifw", "f")
	empty := ukitest.Section{Name: ".dtbauto"}
	// 256 takes .dtbauto for .dtb.
	if got := measured(t, load(t, "256", opts, linux, dtbauto, efifw)); got != ".linux=kernel .dtb=d" {
		t.Errorf("256: %s", got)
	}
	if got := measured(t, load(t, "257", opts, linux, empty, efifw)); got != ".linux=kernel" {
		t.Errorf("257: %s", got)
	}
	if got := measured(t, load(t, "262", opts, linux, sec(".profile", "p"), sec(".profile", "q"), dtbauto, efifw)); got != ".linux=kernel .profile=p" {
		t.Errorf("262, in another profile: %s", got)
	}
	for name, test := range map[string]struct {
		version  string
		sections []ukitest.Section
		want     string
	}{
		".dtbauto":                 {"257", []ukitest.Section{linux, dtbauto}, ".dtbauto"},
		"new .dtbauto":             {"262", []ukitest.Section{linux, dtbauto}, ".dtbauto"},
		".efifw":                   {"258~rc1", []ukitest.Section{linux, efifw}, ".efifw"},
		"in the profile":           {"262", []ukitest.Section{linux, sec(".profile", "p"), efifw}, ".efifw"},
		"behind an empty one":      {"262", []ukitest.Section{linux, empty, dtbauto}, ".dtbauto"},
		"profile has an empty one": {"262", []ukitest.Section{linux, dtbauto, sec(".profile", "p"), empty}, ".dtbauto"},
	} {
		err := loadError(t, test.version, opts, test.sections...)
		wantError(t, err, "section "+test.want+": whether it is used depends on the hardware: cannot tell")
		if !errors.Is(err, stub.ErrCannotTell) {
			t.Errorf("%s: not ErrCannotTell: %v", name, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	opts := stub.Options{Via: stub.ViaKexec}
	magic := func(s string) ukitest.Section { return sec(".sdmagic", "#### LoaderInfo: "+s+" ####") }
	for want, sections := range map[string][]ukitest.Section{
		"systemd-stub 251.4: its rules are not known (known: 252 to 262)": {linux, magic("systemd-stub 251.4")},
		"systemd-stub 263: its rules are not known (known: 252 to 262)":   {linux, magic("systemd-stub 263")},
		"not a UKI: the file holds systemd-addon 262":                     {magic("systemd-addon 262")},
		"not a UKI: the file holds systemd-boot 262.1":                    {linux, magic("systemd-boot 262.1")},
		`section .sdmagic: "lanzastub": unknown EFI program`:              {linux, magic("lanzastub 1")},
		"no .linux section: not a UKI":                                    {sec(".initrd", "i")},
		`section ".profile": 1048577 bytes: more text than 1048576`:       {linux, sec(".profile", strings.Repeat("p", 1<<20+1))},
		`section ".cmdline": 1048577 bytes: more text than 1048576`:       {linux, sec(".cmdline", strings.Repeat("p", 1<<20+1))},
	} {
		wantError(t, loadError(t, "262", opts, sections...), want)
	}
	wantError(t, loadError(t, "262", opts, ukitest.Section{Name: ".linux"}), "no .linux section: not a UKI")
	wantError(t, loadError(t, "262", opts, linux, sec(".profile", "p"), ukitest.Section{Name: ".linux"}), "no .linux section: not a UKI")
}

func TestLoadOverlap(t *testing.T) {
	opts := stub.Options{Via: stub.ViaKexec}
	const firstAdded = 0x58 + 240 + 2*40 // its section header
	image := build(t, "262", linux, sec(".osrel", "o"), sec(".vendor", "v"))
	overlap := bytes.Clone(image)
	copy(overlap[firstAdded+40+12:][:4], overlap[firstAdded+12:]) // .osrel to where .linux is
	_, err := loadBytes(overlap, opts)
	wantError(t, err, `section .linux: overlaps with section ".osrel" in memory at 0x3000`)

	unused := bytes.Clone(image)
	copy(unused[firstAdded+80+12:][:4], []byte{0, 0x20, 0, 0}) // .vendor to where .sdmagic is
	if _, err := loadBytes(unused, opts); err != nil {
		t.Errorf("sections that the stub does not use: %v", err)
	}
}

func TestKernel(t *testing.T) {
	signed, err := os.ReadFile("../uki/testdata/authenticode/signed.efi")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		section ukitest.Section
		want    string
	}{
		"not PE":            {linux, "kernel"},
		"claims more":       {ukitest.Section{Name: ".linux", Data: []byte("kernel"), VirtualSize: 5000}, "kernel" + strings.Repeat("\x00", 506)},
		"signed":            {sec(".linux", string(signed)), string(signed)},
		"signed and padded": {ukitest.Section{Name: ".linux", Data: signed, VirtualSize: uint32(len(signed) + 472)}, string(signed)},
		"signed, with more": {sec(".linux", string(signed)+"more"), string(signed) + "more"},
	} {
		b := load(t, "262", stub.Options{Via: stub.ViaKexec}, test.section)
		if got := read(t, b.Kernel); got != test.want {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(test.want))
		}
	}
}

func TestProfile(t *testing.T) {
	sections := []ukitest.Section{linux, sec(".cmdline", "base"), sec(".profile", "ID=main\n"), sec(".profile", "ID=debug\n"), sec(".cmdline", "debug"),
		sec(".profile", "TITLE=none\n"), sec(".profile", "ID=twice\n"), sec(".profile", "ID=twice\n")}
	for profile, want := range map[string]struct {
		n       int
		cmdline string
		config  []string
	}{
		"":      {0, "base", []string{}},
		"0":     {0, "base", []string{}},
		"main":  {0, "base", []string{}},
		"1":     {1, "debug", []string{"tag 1"}},
		"01":    {1, "debug", []string{"tag 1"}},
		"debug": {1, "debug", []string{"tag 1"}},
		"2":     {2, "base", []string{"tag 2"}},
		"4":     {4, "base", []string{"tag 4"}},
	} {
		b := load(t, "262", stub.Options{Via: stub.ViaKexec, Profile: profile}, sections...)
		if got := config(t, b); b.Profile != want.n || b.Cmdline != want.cmdline || !slices.Equal(got, want.config) {
			t.Errorf("%q: profile %d, command line %q, PCR 12 %q", profile, b.Profile, b.Cmdline, got)
		}
	}
	const has = " (the image has: 0 main, 1 debug, 2, 3 twice, 4 twice)"
	for profile, want := range map[string]string{
		"5":          `profile "5": unknown` + has,
		"4294967295": `profile "4294967295": unknown` + has,
		"4294967296": `profile "4294967296": unknown` + has,
		"-1":         `profile "-1": unknown` + has,
		"Debug":      `profile "Debug": unknown` + has,
		"@1":         `profile "@1": unknown` + has,
		"twice":      `profile "twice": profiles 3 and 4 both have this ID`,
	} {
		wantError(t, loadError(t, "262", stub.Options{Via: stub.ViaKexec, Profile: profile}, sections...), want)
	}
	wantError(t, loadError(t, "256", stub.Options{Via: stub.ViaKexec, Profile: "1"}, sections...), `profile "1": the image has no profiles`)
	wantError(t, loadError(t, "262", stub.Options{Via: stub.ViaKexec, Profile: "main"}, linux), `profile "main": the image has no profiles`)
	if b := load(t, "262", stub.Options{Via: stub.ViaKexec, Profile: "0"}, linux); b.Profile != 0 {
		t.Errorf("profile %d", b.Profile)
	}
}

func TestCmdlineAccepted(t *testing.T) {
	embedded, none := sec(".cmdline", "embedded\n"), ukitest.Section{Name: ".vendor", Data: []byte("v")}
	refused := `command line "passed": under Secure Boot the embedded command line cannot be replaced`
	for _, test := range []struct {
		version     string
		cmdline     ukitest.Section
		secure, cvm bool
		want        string // the command line of the firmware's start
		measured    bool
		kexecError  string
	}{
		{"262", embedded, false, false, "passed", true, ""},
		{"262", none, false, false, "passed", true, ""},
		{"262", none, true, false, "passed", true, ""},
		{"262", embedded, true, false, "embedded", false, refused},
		{"262", embedded, false, true, "passed", true, ""}, // without Secure Boot nothing is sealed
		{"262", none, false, true, "passed", true, ""},
		{"262", embedded, true, true, "embedded", false, refused},
		{"262", none, true, true, "", false, refused},
		{"254.2", none, true, true, "", false, refused},
		{"254.1", none, true, true, "passed", true, ""},
		{"254.1", embedded, true, true, "embedded", false, refused},
		{"252.39", none, true, true, "passed", true, ""},
		{"252.39", embedded, true, false, "embedded", false, refused},
		{"255", none, true, true, "", false, refused},
	} {
		name := fmt.Sprintf("%s %s secure=%v cvm=%v", test.version, test.cmdline.Name, test.secure, test.cvm)
		opts := stub.Options{Cmdline: new("passed"), SecureBoot: test.secure, ConfidentialVM: test.cvm}
		want := []string{}
		if test.measured {
			want = append(want, "passed")
		}

		opts.Via = stub.ViaFirmware
		b := load(t, test.version, opts, linux, test.cmdline)
		if got := config(t, b); b.Cmdline != test.want || !slices.Equal(got, want) {
			t.Errorf("%s: firmware: command line %q, PCR 12 %q", name, b.Cmdline, got)
		}
		opts.Via = stub.ViaSystemdBoot // measures it in any case
		b = load(t, test.version, opts, linux, test.cmdline)
		if got := config(t, b); b.Cmdline != test.want || !slices.Equal(got, append([]string{"passed"}, want...)) {
			t.Errorf("%s: systemd-boot: command line %q, PCR 12 %q", name, b.Cmdline, got)
		}
		opts.Via = stub.ViaKexec
		if test.kexecError != "" {
			err := loadError(t, test.version, opts, linux, test.cmdline)
			wantError(t, err, test.kexecError)
			if !errors.Is(err, stub.ErrCmdlineRefused) {
				t.Errorf("%s: not ErrCmdlineRefused: %v", name, err)
			}
			continue
		}
		b = load(t, test.version, opts, linux, test.cmdline)
		if got := config(t, b); b.Cmdline != test.want || !slices.Equal(got, want) {
			t.Errorf("%s: kexec: command line %q, PCR 12 %q", name, b.Cmdline, got)
		}
	}
}

func TestCmdline(t *testing.T) {
	embedded := []ukitest.Section{linux, sec(".cmdline", "embedded\n"), sec(".profile", "ID=a"), sec(".profile", "ID=b"), sec(".cmdline", "debug")}
	for name, test := range map[string]struct {
		version string
		opts    stub.Options
		cmdline string
		config  []string
	}{
		"none passed":              {"262", stub.Options{Via: stub.ViaSystemdBoot}, "embedded", []string{}},
		"mangled":                  {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new(" a\tb\n")}, "a b", []string{"a b"}},
		"identical":                {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("embedded")}, "embedded", []string{"embedded"}},
		"empty, firmware":          {"262", stub.Options{Via: stub.ViaFirmware, Cmdline: new("")}, "embedded", []string{}},
		"blank, firmware":          {"262", stub.Options{Via: stub.ViaFirmware, Cmdline: new("  ")}, "embedded", []string{}},
		"blank, systemd-boot":      {"262", stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("  ")}, "embedded", []string{"  "}},
		"appended":                 {"262", stub.Options{Via: stub.ViaKexec, Append: "x  y"}, "embedded x  y", []string{"embedded x  y"}},
		"appended to the profile":  {"262", stub.Options{Via: stub.ViaKexec, Append: "x", Profile: "b"}, "debug x", []string{"tag 1", "debug x"}},
		"passed and appended":      {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("p"), Append: "x"}, "p x", []string{"p x"}},
		"appended, systemd-boot":   {"262", stub.Options{Via: stub.ViaSystemdBoot, Append: "x"}, "embedded x", []string{"embedded x", "embedded x"}},
		"profile":                  {"262", stub.Options{Via: stub.ViaSystemdBoot, Profile: "1"}, "debug", []string{"@1", "tag 1"}},
		"profile by the firmware":  {"262", stub.Options{Via: stub.ViaFirmware, Profile: "1"}, "debug", []string{"tag 1"}},
		"profile, passed":          {"262", stub.Options{Via: stub.ViaSystemdBoot, Profile: "1", Cmdline: new("p  q")}, "p  q", []string{"@1 p  q", "tag 1", "p  q"}},
		"profile 0 by number":      {"262", stub.Options{Via: stub.ViaSystemdBoot, Profile: "0", Cmdline: new("p")}, "p", []string{"p", "p"}},
		"profile, secure":          {"262", stub.Options{Via: stub.ViaSystemdBoot, Profile: "1", Cmdline: new("p"), SecureBoot: true}, "debug", []string{"@1 p", "tag 1"}},
		"tab, 257":                 {"257", stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("a\tb")}, "a b", []string{"a\tb", "a b"}},
		"tab, 262":                 {"262", stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("a\tb")}, "embedded", []string{"a\tb"}},
		"tab, 262, profile":        {"262", stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("a\tb"), Profile: "1"}, "embedded", []string{"@1 a\tb"}},
		"tab, 262, kexec":          {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("a\tb"), Profile: "1"}, "a b", []string{"tag 1", "a b"}},
		"control first, 257":       {"257", stub.Options{Via: stub.ViaFirmware, Cmdline: new("\x01a")}, "embedded", []string{}},
		"control first, profile":   {"257", stub.Options{Via: stub.ViaFirmware, Cmdline: new("\x01a"), Profile: "1"}, "a", []string{"tag 1", "a"}},
		"control first, 259":       {"259", stub.Options{Via: stub.ViaFirmware, Cmdline: new("\x01a")}, "embedded", []string{}},
		"252.1 leaves it raw":      {"252.1", stub.Options{Via: stub.ViaKexec, Cmdline: new(" a\tb ")}, " a\tb ", []string{" a\tb "}},
		"252.3 keeps the first":    {"252.3", stub.Options{Via: stub.ViaKexec, Cmdline: new(" a\tb ")}, " a b", []string{" a b"}},
		"254 keeps the first":      {"254", stub.Options{Via: stub.ViaKexec, Cmdline: new(" a\tb ")}, " a b", []string{" a b"}},
		"255 cuts":                 {"255", stub.Options{Via: stub.ViaKexec, Cmdline: new(" a\tb ")}, "a b", []string{"a b"}},
		"a tab is no profile":      {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("@1\tx")}, "@1 x", []string{"@1 x"}},
		"256 knows no profiles":    {"256", stub.Options{Via: stub.ViaKexec, Cmdline: new("@1 x")}, "@1 x", []string{"@1 x"}},
		"a number that is too big": {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("@4294967296")}, "@4294967296", []string{"@4294967296"}},
	} {
		b := load(t, test.version, test.opts, embedded...)
		if got := config(t, b); b.Cmdline != test.cmdline || !slices.Equal(got, test.config) {
			t.Errorf("%s: command line %q, PCR 12 %q\nwant %q, %q", name, b.Cmdline, got, test.cmdline, test.config)
		}
	}
	// Without an embedded one, what is appended stands alone.
	if b := load(t, "262", stub.Options{Via: stub.ViaKexec, Append: "x"}, linux); b.Cmdline != "x" {
		t.Errorf("%q", b.Cmdline)
	}

	for name, test := range map[string]struct {
		version string
		opts    stub.Options
		want    string
	}{
		"profile":      {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("@1")}, `command line: begins with "@1", which selects a profile; name the profile by its own option`},
		"profile 0":    {"257", stub.Options{Via: stub.ViaFirmware, Cmdline: new("@0 x")}, `command line: begins with "@0 x", which selects a profile; name the profile by its own option`},
		"in a profile": {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("@1 a long line"), Profile: "1"}, `command line: begins with "@1 a long li", which selects a profile; name the profile by its own option`},
		"NUL":          {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("a\x00b")}, `command line: NUL at offset 1`},
		"not UTF-8":    {"262", stub.Options{Via: stub.ViaKexec, Append: "a\xff"}, `command line: not valid UTF-8`},
		"empty":        {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new("")}, `command line: empty: it would not replace the embedded one`},
		"blank":        {"262", stub.Options{Via: stub.ViaKexec, Cmdline: new(" \n")}, `command line: empty: it would not replace the embedded one`},
		"append, secure": {"262", stub.Options{Via: stub.ViaKexec, Append: "x", SecureBoot: true},
			`command line "embedded x": under Secure Boot the embedded command line cannot be replaced`},
		"tab, 259": {"259", stub.Options{Via: stub.ViaFirmware, Cmdline: new("a\tb")},
			`load options: control characters: whether systemd-stub 259 ignores all of the options for them: cannot tell`},
	} {
		err := loadError(t, test.version, test.opts, embedded...)
		wantError(t, err, test.want)
		if errors.Is(err, stub.ErrCannotTell) != (name == "tab, 259") {
			t.Errorf("%s: ErrCannotTell: %v", name, err)
		}
	}
	alone := loadError(t, "262", stub.Options{Via: stub.ViaKexec, Append: "@1 x"}, linux)
	wantError(t, alone, `command line: begins with "@1 x", which selects a profile; name the profile by its own option`)
}

// TestEmbeddedCmdline has text that is converted for the kernel; PCR 11 is of
// the bytes as they are.
func TestEmbeddedCmdline(t *testing.T) {
	for in, want := range map[string]string{
		"quiet\n":          "quiet",
		"\n":               "",
		"a\x00b":           "a",
		"a\nb\tc":          "a b c",
		"a\xffb \xc3":      "ab",
		"x\U0001F600y":     "xy",
		"ü€":               "ü€",
		"a\xed\xa0\x80b":   "ab",
		"@1 is no profile": "@1 is no profile",
		"  leading":        "leading",
	} {
		b := load(t, "262", stub.Options{Via: stub.ViaFirmware}, linux, sec(".cmdline", in))
		if b.Cmdline != want {
			t.Errorf("%q becomes %q, want %q", in, b.Cmdline, want)
		}
		if got := read(t, b.Measurements[3].Content); got != in || len(b.Measurements) != 4 {
			t.Errorf("%q: measured is %q, %d events", in, got, len(b.Measurements))
		}
	}
}

// calculated is the output of systemd-measure calculate --json=pretty.
func calculated(t *testing.T, path string) map[measure.Bank][]struct {
	Phase measure.Phase
	PCR   measure.PCR
	Hash  measure.Digest
} {
	t.Helper()
	var out map[measure.Bank][]struct {
		Phase measure.Phase
		PCR   measure.PCR
		Hash  measure.Digest
	}
	b, err := os.ReadFile(filepath.Join("testdata/systemd-measure", path))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil || len(out) != 4 || len(out[measure.SHA1]) != 4 {
		t.Fatalf("%s: %d banks, %v", path, len(out), err)
	}
	return out
}

func compareCalculated(t *testing.T, image *measure.Image, path string) {
	t.Helper()
	p, err := measure.Predict(image, measure.Options{Base: measure.Zero(measure.Banks(), measure.StubPCRs()...), InitrdDigest: true})
	if err != nil {
		t.Fatal(err)
	}
	for bank, phases := range calculated(t, path) {
		for i, want := range phases {
			if want.Phase != measure.DefaultPhases()[i] {
				t.Errorf("phase %d is %q for systemd-measure, %q for us", i, want.Phase, measure.DefaultPhases()[i])
			}
			pcrs, err := p.At(want.Phase)
			if err != nil {
				t.Fatal(err)
			}
			if got := pcrs[bank][want.PCR]; !bytes.Equal(got, want.Hash) {
				t.Errorf("%v %q: %v, systemd-measure has %v", bank, want.Phase, got, want.Hash)
			}
		}
	}
}

func systemdSection(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/systemd-measure", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSystemdMeasure goes from the image to the phases.
func TestSystemdMeasure(t *testing.T) {
	var sections []ukitest.Section
	for _, name := range []string{"pcrpkey", "initrd", "linux", "uname", "osrel", "sbat", "cmdline"} { // in any order
		sections = append(sections, sec("."+name, systemdSection(t, "sections/"+name)))
	}
	for _, version := range []string{"254", "256", "262.1-1"} {
		compareCalculated(t, &load(t, version, stub.Options{Via: stub.ViaKexec}, sections...).Image, "calculate-basic.json")
	}
}

// TestBareUkify has four initrds that ukify joined, and what systemd-measure
// makes of the result.
func TestBareUkify(t *testing.T) {
	var initrds []measure.Content
	for i := range 4 {
		initrds = append(initrds, measure.Bytes([]byte(systemdSection(t, fmt.Sprint("ukify/i", i+1)))))
	}
	b, err := stub.Bare(measure.Bytes([]byte(systemdSection(t, "ukify/linux"))), initrds, "console=ttyS0 quiet")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, b.Initrd...), systemdSection(t, "ukify/joined"); got != want {
		t.Errorf("%q\nukify has\n%q", got, want)
	}
	compareCalculated(t, &b.Image, "ukify/calculate.json")
}

func TestBare(t *testing.T) {
	c := func(s string) measure.Content { return measure.Bytes([]byte(s)) }
	for name, test := range map[string]struct {
		initrds                  []measure.Content
		cmdline                  string
		measured, initrd, kernel string
	}{
		"alone":       {nil, "", ".linux=kernel", "", ""},
		"one initrd":  {[]measure.Content{c("12345")}, "", ".linux=kernel .initrd=12345", "12345", ""},
		"two initrds": {[]measure.Content{c("12345"), c("6")}, "a", ".linux=kernel .cmdline=a .initrd=12345\x00\x00\x006", "12345\x00\x00\x006\x00\x00\x00", "a"},
		"cmdline":     {nil, " a\tb ", ".linux=kernel .cmdline= a\tb ", "", "a b"},
	} {
		b, err := stub.Bare(c("kernel"), test.initrds, test.cmdline)
		if err != nil {
			t.Fatal(err)
		}
		if got := measured(t, b); got != test.measured {
			t.Errorf("%s: measured %q", name, got)
		}
		if got := read(t, b.Initrd...); got != test.initrd || b.Cmdline != test.kernel || read(t, b.Kernel) != "kernel" {
			t.Errorf("%s: initrd %q, command line %q", name, got, b.Cmdline)
		}
		if got := config(t, b); len(got) > 0 || b.Stub.Major != stub.NewestVersion {
			t.Errorf("%s: PCR 12 %q, %v", name, got, b.Stub)
		}
	}
	for want, err := range map[string]error{
		"kernel: empty":                 bareError(c(""), nil, ""),
		"initrd 1: empty":               bareError(c("k"), []measure.Content{c("")}, ""),
		"initrd 2: empty":               bareError(c("k"), []measure.Content{c("i"), c("")}, ""),
		"command line: NUL at offset 0": bareError(c("k"), nil, "\x00"),
		"command line: not valid UTF-8": bareError(c("k"), nil, "\xff"),
	} {
		wantError(t, err, want)
	}
}

func bareError(linux measure.Content, initrds []measure.Content, cmdline string) error {
	_, err := stub.Bare(linux, initrds, cmdline)
	return err
}

// order is the canonical order as the specification has it.
var order = []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile", ".dtbauto", ".hwids", ".efifw"}

// TestRandomImages checks what is true of every image.
func TestRandomImages(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	names := append(slices.Clone(order), ".pcrsig", ".vendor", ".initrd2", ".text2")
	vias := stub.Vias()
	loaded := map[stub.Via]int{}
	for range 2000 {
		version := fmt.Sprint(252 + r.IntN(11))
		sections := []ukitest.Section{linux}
		for range r.IntN(20) {
			s := ukitest.Section{Name: names[r.IntN(len(names))], Data: bytes.Repeat([]byte{byte('a' + r.IntN(26))}, r.IntN(700))}
			if (s.Name == ".dtbauto" || s.Name == ".efifw") && r.IntN(10) > 0 {
				s.Name = ".profile"
			}
			if r.IntN(3) == 0 {
				s.VirtualSize = uint32(r.IntN(1500))
			}
			sections = append(sections, s)
		}
		r.Shuffle(len(sections), func(i, j int) { sections[i], sections[j] = sections[j], sections[i] })
		opts := stub.Options{Via: vias[r.IntN(3)], SecureBoot: r.IntN(4) == 0, ConfidentialVM: r.IntN(4) == 0}
		if r.IntN(2) == 0 {
			opts.Profile = fmt.Sprint(r.IntN(3))
		}
		if r.IntN(2) == 0 {
			opts.Cmdline = new([]string{"quiet", "a\tb", " ", "ü"}[r.IntN(4)])
		}
		image := build(t, version, sections...)
		b, err := loadBytes(image, opts)
		if err != nil {
			continue
		}
		loaded[opts.Via]++
		checkBoot(t, b, opts)
		again, err := loadBytes(image, opts)
		if err != nil || measured(t, again) != measured(t, b) || again.Cmdline != b.Cmdline || read(t, again.Initrd...) != read(t, b.Initrd...) {
			t.Fatalf("not the same twice: %v", err)
		}
	}
	for _, via := range vias {
		if loaded[via] < 100 {
			t.Errorf("only %d images loaded via %s", loaded[via], via)
		}
	}
}

// checkBoot checks what is true of every image that loads.
func checkBoot(t *testing.T, b *stub.Boot, opts stub.Options) {
	t.Helper()
	last, name := -1, ""
	for _, m := range b.Measurements {
		switch m.PCR {
		case measure.PCRKernelImage:
			if m.Type != measure.EventIPL {
				t.Fatalf("%s: %v", m.Description, m.Type)
			}
			if name == "" { // the name
				name = strings.TrimSuffix(read(t, m.Content), "\x00")
				i := slices.Index(order, name)
				if i <= last {
					t.Fatalf("section %q at %d after %d", name, i, last)
				}
				last = i
				continue
			}
			s, ok := m.Content.(*uki.Section)
			if !ok || s.Size() == 0 || !strings.HasPrefix(s.Name, name) || b.Stub.Major >= 257 && s.Name != name {
				t.Fatalf("section %s: measured is %+v", name, m.Content)
			}
			name = ""
		case measure.PCRKernelConfig:
			if m.Type == measure.EventTag {
				if b.Profile == 0 || read(t, m.Content) != string(utf16z(fmt.Sprint(b.Profile))) {
					t.Fatalf("%s: %q in profile %d", m.Description, read(t, m.Content), b.Profile)
				}
			} else if opts.Cmdline == nil && (opts.Via != stub.ViaSystemdBoot || opts.Profile == "") {
				t.Fatalf("%s: nothing was passed", m.Description)
			} else if !bytes.Equal(m.Data, []byte(read(t, m.Content))) {
				t.Fatalf("%s: event data %x", m.Description, m.Data)
			}
		default:
			t.Fatalf("%s: PCR %d", m.Description, m.PCR)
		}
	}
	if name != "" || last < 0 {
		t.Fatalf("section %q has no contents", name)
	}
	if len(b.Initrd) > 1 && b.InitrdSize()%4 != 0 {
		t.Fatalf("initrd of %d bytes", b.InitrdSize())
	}
	if (opts.Profile == "" || opts.Profile == "0") && b.Profile != 0 {
		t.Fatalf("profile %d", b.Profile)
	}
}

func FuzzLoad(f *testing.F) {
	images := [][]byte{
		build(f, "262.1-1", linux, sec(".osrel", "ID=a\n"), sec(".cmdline", "quiet\n"), sec(".initrd", "i"), sec(".pcrsig", "{}"),
			sec(".profile", "ID=a\n"), sec(".profile", "ID=b\n"), sec(".cmdline", "b")),
		build(f, "252.1", linux, sec(".initrd2", "i"), sec(".sbat", "sbat,1\n")),
		build(f, "256", linux, sec(".dtbauto", "d")), build(f, "259", linux, sec(".efifw", "f")),
	}
	for _, name := range []string{"plain_252", "profiles_1"} {
		b, err := os.ReadFile(filepath.Join("testdata/golden", name, "uki.efi"))
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
	}
	for i, image := range images {
		f.Add(image, "", "", byte(i))
		f.Add(image, "1", "quiet", byte(i+3))
		f.Add(image[:len(image)-600], "b", "a\tb", byte(i+6))
	}
	if len(images) != 6 {
		f.Fatalf("%d seeds", len(images))
	}
	f.Fuzz(func(t *testing.T, image []byte, profile, cmdline string, flags byte) {
		opts := stub.Options{Via: stub.Vias()[flags%3], Profile: profile, SecureBoot: flags&4 != 0, ConfidentialVM: flags&8 != 0}
		if flags&16 != 0 {
			opts.Cmdline = &cmdline
		} else if flags&32 != 0 {
			opts.Append = cmdline
		}
		b, err := loadBytes(image, opts)
		if err != nil {
			if b != nil {
				t.Fatal("a result and an error")
			}
			return
		}
		if b.Kernel.Size() > int64(len(image)) {
			t.Fatalf("kernel of %d bytes in a file of %d", b.Kernel.Size(), len(image))
		}
		if b.Stub.Major < 252 || b.Stub.Major > stub.NewestVersion {
			t.Fatalf("loaded %v", b.Stub)
		}
		var total int64
		for _, m := range b.Measurements {
			if m.Content.Size() == 0 || m.PCR != 11 && m.PCR != 12 {
				t.Fatalf("%s: PCR %d, %d bytes", m.Description, m.PCR, m.Content.Size())
			}
			total += m.Content.Size()
		}
		if total+b.InitrdSize() > 1<<20 {
			return // zero bytes that the headers claim
		}
		p, err := measure.Predict(&b.Image, measure.Options{Base: measure.Zero([]measure.Bank{measure.SHA256}, measure.StubPCRs()...), InitrdDigest: true})
		if err != nil || len(p.Events) != len(b.Measurements) || len(p.Events[0].Digests[measure.SHA256]) != 32 {
			t.Fatalf("predict: %v", err)
		}
	})
}
