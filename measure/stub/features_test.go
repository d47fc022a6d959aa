package stub_test

// These tests have code that knows what a version knows, or something else, and
// the real stubs where they are at hand: in /var/tmp/ref/stubs, or where "make
// vm-assets" puts them. They do not prove that a stub which knows a name also
// follows the rules of the version that had it first.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// known is what stubs know since a version, in the order in which it is looked
// for (specification, 1.2 and 1.6).
var known = []struct {
	text  string
	since int
}{
	{".linux", 252}, {".osrel", 252}, {".cmdline", 252}, {".initrd", 252}, {".ucode", 256}, {".splash", 252}, {".dtb", 252}, {".uname", 254},
	{".sbat", 254}, {".pcrsig", 252}, {".pcrpkey", 252}, {".profile", 257}, {".dtbauto", 257}, {".hwids", 257}, {".efifw", 258},
	{".addon.efi", 254}, {".confext.raw", 256}, {"StubProfile", 257}, {`\loader\extensions`, 258},
}

// code is what the code of a stub of a version knows, without and with a text.
func code(version int, without, with string) string {
	b := strings.Builder{}
	b.WriteString("code\x00")
	add := func(text string) {
		if i := slices.Index(order, text); i >= 0 || text == ".pcrsig" {
			b.WriteString(text + "\x00")
		} else {
			b.Write(utf16z(text))
		}
	}
	for _, k := range known {
		if k.since <= version && k.text != without || k.text == with {
			add(k.text)
		}
	}
	return b.String()
}

// contradiction is what is said of code that knows what a version has when the
// number is another, "" if nothing tells them apart.
func contradiction(number, version int) string {
	for _, k := range known {
		what := k.text
		if slices.Contains(order, what) {
			what = "section " + what
		}
		switch {
		case k.since <= version && k.since > number:
			return fmt.Sprintf("systemd-stub %d knows %s, which came with version %d; whose rules it follows: cannot tell", number, what, k.since)
		case k.since > version && k.since <= number:
			return fmt.Sprintf("systemd-stub %d does not know %s, which version %d has; whose rules it follows: cannot tell", number, what, k.since)
		}
	}
	return ""
}

func TestFeatures(t *testing.T) {
	t.Parallel()
	opts := stub.Options{Via: stub.ViaKexec}
	refused := 0
	for version := 252; version <= 262; version++ {
		for number := 252; number <= 262; number++ {
			image := build(t, fmt.Sprint(number), sec(".rodata", code(version, "", "")), linux)
			b, err := loadBytes(image, opts)
			want := contradiction(number, version)
			if want == "" {
				if err != nil || b.Stub.Major != number {
					t.Errorf("number %d, code of %d: %v", number, version, err)
				}
				continue
			}
			refused++
			if wantError(t, err, want); !errors.Is(err, stub.ErrCannotTell) || b != nil {
				t.Errorf("number %d, code of %d: not ErrCannotTell: %v", number, version, err)
			}
			for _, override := range []int{number, version} { // whoever names the version takes the blame
				opts := stub.Options{Via: stub.ViaKexec, Version: fmt.Sprint(override)}
				if b, err := loadBytes(image, opts); err != nil || b.Stub.Major != override {
					t.Errorf("number %d, code of %d, as %d: %v", number, version, override, err)
				}
			}
		}
	}
	// The classes are 252-253, 254-255, 256, 257, 258-262.
	if same := 2*2 + 2*2 + 1 + 1 + 5*5; refused != 11*11-same {
		t.Errorf("%d contradictions", refused)
	}
}

// TestFeature changes one text at a time.
func TestFeature(t *testing.T) {
	t.Parallel()
	opts := stub.Options{Via: stub.ViaKexec}
	for _, k := range known {
		what := k.text
		if !strings.Contains(`.addon.efi .confext.raw StubProfile \loader\extensions`, k.text) {
			what = "section " + k.text
		}
		for version := 252; version <= 262; version++ {
			rodata, want := code(version, k.text, ""), fmt.Sprintf("systemd-stub %d does not know %s, which version %d has; whose rules it follows: cannot tell", version, what, k.since)
			if k.since > version {
				rodata, want = code(version, "", k.text), fmt.Sprintf("systemd-stub %d knows %s, which came with version %d; whose rules it follows: cannot tell", version, what, k.since)
			}
			image := build(t, fmt.Sprint(version), sec(".rodata", rodata), linux)
			if k.text == ".linux" || k.text == ".pcrpkey" { // without them it is no code
				if _, err := loadBytes(image, opts); err != nil {
					t.Errorf("%d without %s: %v", version, k.text, err)
				}
				continue
			}
			_, err := loadBytes(image, opts)
			wantError(t, err, want)
		}
	}
}

// TestFeaturesCode: what counts as the stub's code.
func TestFeaturesCode(t *testing.T) {
	t.Parallel()
	const contradicts = "systemd-stub 262 does not know section .ucode, which version 256 has; whose rules it follows: cannot tell"
	old := code(254, "", "")
	half := strings.Index(old, ".pcrpkey")
	for name, test := range map[string]struct {
		sections []ukitest.Section
		want     string
	}{
		"none":             {nil, ""},
		"other code":       {[]ukitest.Section{sec(".rodata", "text")}, ""},
		".rodata":          {[]ukitest.Section{sec(".rodata", old)}, contradicts},
		".data":            {[]ukitest.Section{sec(".data", old)}, contradicts},
		"any name":         {[]ukitest.Section{sec(".vendor", old)}, contradicts},
		"two sections":     {[]ukitest.Section{sec(".rodata", old[:half]), sec(".data", old[half:])}, contradicts},
		"payload":          {[]ukitest.Section{sec(".osrel", old)}, ""},
		"initrd":           {[]ukitest.Section{sec(".initrd", old)}, ""},
		"cut by its size":  {[]ukitest.Section{{Name: ".rodata", Data: []byte(old), VirtualSize: uint32(half)}}, ""},
		"no NUL":           {[]ukitest.Section{sec(".rodata", strings.ReplaceAll(old, "\x00", "\n"))}, ""},
		"too large":        {[]ukitest.Section{sec(".rodata", old+strings.Repeat("x", 1<<20))}, ""},
		"split name":       {[]ukitest.Section{sec(".rodata", old[:half+4]), sec(".data", old[half+4:])}, ""},
		"agrees":           {[]ukitest.Section{sec(".rodata", code(262, "", ""))}, ""},
		"agrees, in two":   {[]ukitest.Section{sec(".rodata", code(262, "", "")), sec(".data", "more")}, ""},
		"agrees, in parts": {[]ukitest.Section{sec(".data", old), sec(".rodata", code(262, "", ""))}, ""},
	} {
		b, err := loadBytes(build(t, "262", append(test.sections, linux)...), stub.Options{Via: stub.ViaKexec})
		if test.want != "" {
			wantError(t, err, test.want)
		} else if err != nil || b.Stub.Major != 262 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	opts := stub.Options{Via: stub.ViaKexec}
	for version, want := range map[string]string{
		"0":       "systemd-stub 0: its rules are not known (known: 252 to 262)",
		"251":     "systemd-stub 251: its rules are not known (known: 252 to 262)",
		"251.99":  "systemd-stub 251.99: its rules are not known (known: 252 to 262)",
		"252~rc1": "",
		"262.99":  "",
		"v262":    "",
		"263~rc1": "systemd-stub 263~rc1: its rules are not known (known: 252 to 262)",
		"263":     "systemd-stub 263: its rules are not known (known: 252 to 262)",
		"300":     "systemd-stub 300: its rules are not known (known: 252 to 262)",
		"999999":  "systemd-stub 999999: its rules are not known (known: 252 to 262)",
	} {
		override := stub.Options{Via: stub.ViaKexec, Version: version}
		if want == "" {
			load(t, version, opts, linux)
			load(t, "300", override, linux)
			continue
		}
		for _, err := range []error{loadError(t, version, opts, linux), loadError(t, "262", override, linux)} {
			if wantError(t, err, want); !errors.Is(err, stub.ErrUnknownVersion) || errors.Is(err, stub.ErrCannotTell) {
				t.Errorf("%s: not ErrUnknownVersion: %v", version, err)
			}
		}
	}
	for version, want := range map[string]string{
		"new":                   `systemd-stub version "new": does not begin with a number`,
		" 262":                  `systemd-stub version " 262": does not begin with a number`,
		"-262":                  `systemd-stub version "-262": does not begin with a number`,
		"vv262":                 `systemd-stub version "vv262": does not begin with a number`,
		"1000000":               `systemd-stub version "1000000": does not begin with a number`,
		"262.":                  `systemd-stub version "262.": no number after the dot`,
		"262.x":                 `systemd-stub version "262.x": no number after the dot`,
		"\x1b[31mred\n":         `systemd-stub version "\x1b[31mred\n": does not begin with a number`,
		strings.Repeat("x", 99): `systemd-stub version "` + strings.Repeat("x", 80) + `": does not begin with a number`,
	} {
		wantError(t, loadError(t, "262", stub.Options{Via: stub.ViaKexec, Version: version}, linux), want)
	}
}

// TestVersionOverride: with a version given, nothing is asked of the image, not
// even that its stub is systemd's.
func TestVersionOverride(t *testing.T) {
	t.Parallel()
	magic := func(s string) ukitest.Section { return sec(".sdmagic", s) }
	for name, image := range map[string][]byte{
		"newer":      build(t, "263", linux, sec(".ucode", "u"), sec(".dtbx", "d")),
		"older":      build(t, "200", linux, sec(".ucode", "u"), sec(".dtbx", "d")),
		"lanzaboote": build(t, "262", magic("#### LoaderInfo: lanzastub 1 ####"), linux, sec(".ucode", "u"), sec(".dtbx", "d")),
		"no magic":   build(t, "262", magic("text"), linux, sec(".ucode", "u"), sec(".dtbx", "d")),
		"an addon":   build(t, "262", magic("#### LoaderInfo: systemd-addon 262 ####"), linux, sec(".ucode", "u"), sec(".dtbx", "d")),
	} {
		if name != "newer" && name != "older" {
			if _, err := loadBytes(image, stub.Options{Via: stub.ViaKexec}); err == nil {
				t.Errorf("%s: loaded without a version", name)
			}
		}
		for version, want := range map[string]string{
			"252.39": ".linux=kernel .dtb=d", "255": ".linux=kernel .dtb=d", "256": ".linux=kernel .ucode=u .dtb=d", "257.13-1": ".linux=kernel .ucode=u", "262": ".linux=kernel .ucode=u",
		} {
			b, err := loadBytes(image, stub.Options{Via: stub.ViaKexec, Version: version})
			if err != nil {
				t.Errorf("%s, as %s: %v", name, version, err)
				continue
			}
			if got := measured(t, b); got != want {
				t.Errorf("%s, as %s: measures %s", name, version, got)
			}
			if b.Stub.Kind != uki.StubKindStub || b.Stub.Version != version {
				t.Errorf("%s, as %s: %v", name, version, b.Stub)
			}
		}
	}
	// The minor number counts too: 255.4 does not check .uname.
	opts := kexec(nil, []stub.File{addon(t, "x", sec(".uname", "2"), sec(".cmdline", "line"))})
	opts.Version = "255.4"
	wantEvents(t, "255.4", load(t, "262", opts, linux, sec(".uname", "1")), "12 line")
	opts.Version = "255.5"
	wantEvents(t, "255.5", load(t, "262", opts, linux, sec(".uname", "1")))
}

// TestRealStubs: the real stubs agree with their version, and with no version
// that has other rules.
func TestRealStubs(t *testing.T) {
	t.Parallel()
	const ref = "/var/tmp/ref/stubs/"
	found := 0
	for path, version := range map[string]int{
		ref + "bookworm/usr/lib/systemd/boot/efi/linuxx64.efi.stub":           252,
		ref + "bookworm-backports/usr/lib/systemd/boot/efi/linuxx64.efi.stub": 254,
		ref + "trixie/usr/lib/systemd/boot/efi/linuxx64.efi.stub":             257,
		ref + "sid/linuxx64.efi.stub":                                         262,
		"../../.cache/vm/stub-252.efi":                                        252,
		"../../.cache/vm/stub-257.efi":                                        257,
	} {
		real, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		found++
		image, err := ukitest.Build(real, linux)
		if err != nil {
			t.Fatal(err)
		}
		b, err := loadBytes(image, stub.Options{Via: stub.ViaKexec})
		if err != nil || b.Stub.Major != version {
			t.Errorf("%s: %v", path, err)
		}
		magic := fmt.Appendf(nil, "systemd-stub %d.", version)
		if bytes.Count(image, magic) == 0 {
			t.Fatalf("%s: no %q", path, magic)
		}
		for number := 252; number <= 262; number++ {
			renamed := bytes.ReplaceAll(image, magic, fmt.Appendf(nil, "systemd-stub %d.", number))
			_, err := loadBytes(renamed, stub.Options{Via: stub.ViaKexec})
			if apart := contradiction(number, version) != ""; apart != errors.Is(err, stub.ErrCannotTell) || !apart && err != nil {
				t.Errorf("%s as %d: %v", filepath.Base(path), number, err)
			}
		}
	}
	if found == 0 {
		t.Skip("no stubs: make vm-assets")
	}
	t.Logf("%d stubs", found)
}
