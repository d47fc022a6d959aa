package stub_test

// These tests have addons that package ukitest made, and expectations written
// by hand from the specification of systemd-stub (1.3, 2.2 to 2.6, 3.1); where
// it leaves something open they name what else it is from. They do not prove
// that firmware loads an addon; golden_test.go and vm_golden_test.go have addons
// that it loaded.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// addon makes the file of an addon. Its .sdmagic, which nobody reads in an
// addon, is of another version.
func addon(t testing.TB, name string, sections ...ukitest.Section) stub.File {
	t.Helper()
	return stub.File{Name: name + ".addon.efi", Content: measure.Bytes(build(t, "999", sections...))}
}

// texts makes addons of command lines, in order.
func texts(t testing.TB, lines ...string) (list []stub.File) {
	for i, line := range lines {
		list = append(list, addon(t, fmt.Sprintf("%02d", i), sec(".cmdline", line)))
	}
	return list
}

func kexec(global, image []stub.File) stub.Options {
	return stub.Options{Via: stub.ViaKexec, Sidecars: stub.Sidecars{Addons: global, Image: image}}
}

// TestAddonSections has what each version takes from an addon, and when it
// measures it (specification, 2.2 and 2.5).
func TestAddonSections(t *testing.T) {
	t.Parallel()
	image := append(files("a.cred", "1", "b.raw", "2", "c.confext.raw", "3"),
		addon(t, "x", sec(".ucode", "ucode"), sec(".initrd", "initrd"), sec(".dtb", "dtb"), sec(".cmdline", "line")))
	dtb, ucode, initrd := "12 tag 6c46f751 x.addon.efi", "12 tag dac08e1a x.addon.efi", "12 tag 49dffe0f x.addon.efi"
	cred, sysext, confext := "12 Credentials initrd", "13 System extension initrd", "12 Configuration extension initrd"
	for _, version := range allVersions {
		var want []string
		cmdline, devicetrees, first, last := "base line", []string{"addon x.addon.efi"}, "", ""
		switch version {
		case "252", "253":
			want = []string{cred, sysext}
			cmdline, devicetrees = "base", nil
		case "254":
			want = []string{"12 line", cred, sysext}
			devicetrees = nil
		case "255":
			want = []string{"12 line", cred, sysext, dtb}
		case "256":
			want = []string{"12 line", cred, sysext, confext, dtb}
		default:
			want = []string{"12 line", dtb, cred, sysext, confext, ucode, initrd}
			first, last = "ucode\x00\x00\x00", "initrd\x00\x00"
		}
		b := load(t, version, kexec(nil, image), linux, sec(".cmdline", "base"))
		wantEvents(t, version, b, want...)
		if b.Cmdline != cmdline || !slices.Equal(b.Devicetrees, devicetrees) || len(b.Ignored) > 0 {
			t.Errorf("%s: command line %q, devicetrees %q, ignored %q", version, b.Cmdline, b.Devicetrees, b.Ignored)
		}
		if got := read(t, b.Initrd...); !strings.HasPrefix(got, first+"070701") || !strings.HasSuffix(got, "TRAILER!!!\x00\x00\x00\x00"+last) {
			t.Errorf("%s: initrd %q", version, got)
		}
		for _, m := range b.Measurements { // what is hashed are the bytes of the section
			part := map[uint32]string{0x6c46f751: "dtb", 0xdac08e1a: "ucode", 0x49dffe0f: "initrd"}
			if m.Type == measure.EventTag && read(t, m.Content) != part[binary.LittleEndian.Uint32(m.Data)] {
				t.Errorf("%s: %s: %q", version, m.Description, read(t, m.Content))
			}
		}
	}
}

// TestAddonSectionAlone: which addons have something for a version, and what is
// said of the others.
func TestAddonSectionAlone(t *testing.T) {
	t.Parallel()
	for name, since := range map[string]string{".cmdline": "254", ".dtb": "255", ".initrd": "257", ".ucode": "257", ".uname": "999", ".osrel": "999", ".vendor": "999"} {
		for _, version := range allVersions {
			b := load(t, version, kexec(nil, []stub.File{addon(t, "x", sec(name, "text"))}), linux)
			want := []string{}
			if version < since && version >= "254" {
				want = []string{"addon x.addon.efi: it has nothing that systemd-stub " + version + " takes from an addon"}
			}
			if !slices.Equal(b.Ignored, want) || (len(events(t, b)) > 0) != (version >= since) {
				t.Errorf("%s in %s: %q, ignored %q", name, version, events(t, b), b.Ignored)
			}
		}
	}
}

// TestAddonZeroFill: as those of an image, sections of addons are VirtualSize bytes.
func TestAddonZeroFill(t *testing.T) {
	t.Parallel()
	b := load(t, "262", kexec(nil, []stub.File{addon(t, "x", ukitest.Section{Name: ".initrd", Data: []byte("abc"), VirtualSize: 6},
		ukitest.Section{Name: ".ucode", Data: []byte("defg"), VirtualSize: 2})}), linux)
	if got := read(t, b.Initrd...); got != "de\x00\x00abc\x00\x00\x00\x00\x00" {
		t.Errorf("initrd %q", got)
	}
	if got := read(t, b.Measurements[len(b.Measurements)-1].Content); got != "abc\x00\x00\x00" {
		t.Errorf("measured %q", got)
	}
}

// TestAddonOrder has the same parts in several addons: global before the image's
// own, each by name, and microcode backwards, in the events and in the initrd.
func TestAddonOrder(t *testing.T) {
	t.Parallel()
	make := func(names ...string) (list []stub.File) {
		for _, n := range names {
			list = append(list, addon(t, n, sec(".ucode", "u_"+n+"_"), sec(".initrd", "i_"+n+"_"), sec(".dtb", "d_"+n+"_"), sec(".cmdline", n)))
		}
		return list
	}
	b := load(t, "262", kexec(make("m", "B", "x"), make("c", "A")), linux, sec(".ucode", "UUUU"), sec(".initrd", "IIII"), sec(".dtb", "D"))
	wantEvents(t, "262", b, "12 B m x A c",
		"12 tag 6c46f751 B.addon.efi", "12 tag 6c46f751 m.addon.efi", "12 tag 6c46f751 x.addon.efi", "12 tag 6c46f751 A.addon.efi", "12 tag 6c46f751 c.addon.efi",
		"12 tag dac08e1a c.addon.efi", "12 tag dac08e1a A.addon.efi", "12 tag dac08e1a x.addon.efi", "12 tag dac08e1a m.addon.efi", "12 tag dac08e1a B.addon.efi",
		"12 tag 49dffe0f B.addon.efi", "12 tag 49dffe0f m.addon.efi", "12 tag 49dffe0f x.addon.efi", "12 tag 49dffe0f A.addon.efi", "12 tag 49dffe0f c.addon.efi")
	if got := strings.ReplaceAll(read(t, b.Initrd...), "_", ""); got != "ucuAuxumuBUUUUIIIIiBimixiAic" {
		t.Errorf("initrd %q", got)
	}
	if got := strings.Join(b.Devicetrees, ", "); got != "section .dtb, addon B.addon.efi, addon m.addon.efi, addon x.addon.efi, addon A.addon.efi, addon c.addon.efi" {
		t.Errorf("devicetrees: %s", got)
	}
	b = load(t, "255", kexec(make("m"), append(make("c", "A"), files("a.cred", "1")...)), linux)
	wantEvents(t, "255", b, "12 m A c", "12 Credentials initrd",
		"12 tag 6c46f751 m.addon.efi", "12 tag 6c46f751 A.addon.efi", "12 tag 6c46f751 c.addon.efi")
	// A name that is in both directories is two addons.
	wantEvents(t, "twice", load(t, "257", kexec(texts(t, "global"), texts(t, "own")), linux), "12 global own")
}

// TestAddonCmdline joins texts of addons (specification, 2.5 and 2.6).
func TestAddonCmdline(t *testing.T) {
	t.Parallel()
	none := []string{}
	for name, test := range map[string]struct {
		global, image    []string
		v254, v255, v257 []string // 255 and 256; 257 and newer
	}{
		"one":               {nil, []string{"a"}, []string{"a"}, []string{"a"}, []string{"a"}},
		"both":              {[]string{"a", "b"}, []string{"c", "d"}, []string{"a b", "c d"}, []string{"a b c d"}, []string{"a b c d"}},
		"only global":       {[]string{"a", "b"}, nil, []string{"a b"}, []string{"a b"}, []string{"a b"}},
		"newline":           {nil, []string{"a\n"}, []string{"a"}, []string{"a"}, []string{"a"}},
		"newlines":          {nil, []string{"a\n", "b\n"}, []string{"a  b"}, []string{"a  b"}, []string{"a b"}},
		"newline, global":   {[]string{"a\n"}, []string{"b\n"}, []string{"a", "b"}, []string{"a  b"}, []string{"a b"}},
		"inner blanks":      {nil, []string{"a\t b"}, []string{"a  b"}, []string{"a  b"}, []string{"a  b"}},
		"blanks around":     {nil, []string{" a ", " b "}, []string{" a   b"}, []string{"a   b"}, []string{"a b"}},
		"DEL":               {nil, []string{"\x7fa\x7fb\x7f"}, []string{"\x7fa\x7fb\x7f"}, []string{"a b"}, []string{"a b"}},
		"blank in between":  {nil, []string{"a", "\n", "c"}, []string{"a   c"}, []string{"a   c"}, []string{"a  c"}},
		"blanks in between": {nil, []string{"a", " ", "\t\t", "d"}, []string{"a      d"}, []string{"a      d"}, []string{"a   d"}},
		"nothing between":   {nil, []string{"a", "\x00", "c"}, []string{"a  c"}, []string{"a  c"}, []string{"a  c"}},
		"blank at first":    {nil, []string{"\n", "b"}, []string{"  b"}, []string{"b"}, []string{"b"}},
		"nothing at first":  {nil, []string{"\x00", "b"}, []string{"b"}, []string{"b"}, []string{"b"}},
		"blank at last":     {nil, []string{"a", "\n"}, []string{"a"}, []string{"a"}, []string{"a"}},
		"nothing at last":   {nil, []string{"a", "\x00"}, []string{"a"}, []string{"a"}, []string{"a"}},
		"nothing":           {[]string{"\x00"}, []string{"\x00x"}, none, none, none},
		"global is empty":   {[]string{"\x00"}, []string{"b"}, []string{"b"}, []string{"b"}, []string{"b"}},
		"own is empty":      {[]string{"a"}, []string{"\x00"}, []string{"a"}, []string{"a"}, []string{"a"}},
		"not UTF-8":         {nil, []string{"a\xffb", "c\xc3", "\xed\xa0\x80d"}, []string{"ab c d"}, []string{"ab c d"}, []string{"ab c d"}},
		"beyond U+FFFF":     {nil, []string{"a😀b", "ü€"}, []string{"ab ü€"}, []string{"ab ü€"}, []string{"ab ü€"}},
		"no profile":        {nil, []string{"@1 x"}, []string{"@1 x"}, []string{"@1 x"}, []string{"@1 x"}},
	} {
		for _, version := range allVersions {
			var want []string
			switch {
			case version < "254":
			case version == "254":
				want = test.v254
			case version < "257":
				want = test.v255
			default:
				want = test.v257
			}
			var list []string
			for _, text := range want {
				list = append(list, "12 "+text)
			}
			opts := kexec(texts(t, test.global...), texts(t, test.image...))
			b := load(t, version, opts, linux)
			wantEvents(t, name+", "+version, b, list...)
			if line := strings.Join(want, " "); b.Cmdline != line {
				t.Errorf("%s, %s: command line %q, want %q", name, version, b.Cmdline, line)
			}
			b = load(t, version, opts, linux, sec(".cmdline", "base"))
			if line := strings.Join(append([]string{"base"}, want...), " "); b.Cmdline != line {
				t.Errorf("%s, %s: command line %q, want %q", name, version, b.Cmdline, line)
			}
		}
	}
	// Only blanks, for 255 and 256, is undefined (specification, 2.4).
	for _, version := range []string{"254", "257", "262"} {
		b := load(t, version, kexec(texts(t, " \n"), texts(t, "\t")), linux)
		if wantEvents(t, "only blanks, "+version, b); b.Cmdline != "" {
			t.Errorf("%s: command line %q", version, b.Cmdline)
		}
	}
}

// TestAddonCmdlineDirectories: 255 joins the texts of each directory on its own,
// and then, with a space, what is not empty. The specification has "one event
// for both dirs (global first) joined with a space" and leaves this open; it is
// what the function cmdline_append_and_measure_addons of a version of stub.c
// between 254 and 256 does, the one with the defect of .uname that 255.0 to 255.4
// have. Newer ones, before and with 257, have one text for both directories; that
// 256 is as 255 is taken from its not cleaning the text of the SMBIOS, as 255.
func TestAddonCmdlineDirectories(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{"255": "g c", "256": "g c", "257": "g  c", "262": "g  c"} {
		b := load(t, version, kexec(texts(t, "g"), texts(t, "\x00", "c")), linux)
		wantEvents(t, version, b, "12 "+want)
	}
}

// TestAddonKeepsPassed: the command line that is passed does not count for
// addons, and Secure Boot, which refuses it, does not for them.
func TestAddonKeepsPassed(t *testing.T) {
	t.Parallel()
	trusted := func(string, *uki.File) (bool, error) { return true, nil }
	opts := stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("passed"), SecureBoot: true, ConfidentialVM: true, AcceptAddon: trusted,
		Sidecars: stub.Sidecars{Addons: texts(t, "global"), Image: texts(t, "own")}}
	b := load(t, "262", opts, linux, sec(".cmdline", "embedded"))
	if wantEvents(t, "262", b, "12 passed", "12 global own"); b.Cmdline != "embedded global own" {
		t.Errorf("%q", b.Cmdline)
	}
	b = load(t, "262", stub.Options{Via: stub.ViaKexec, Cmdline: new("passed"), Sidecars: opts.Sidecars}, linux, sec(".cmdline", "embedded"))
	if wantEvents(t, "kexec", b, "12 passed", "12 global own"); b.Cmdline != "passed global own" {
		t.Errorf("%q", b.Cmdline)
	}
	// What is appended is passed: it stands before the addons'.
	b = load(t, "262", stub.Options{Via: stub.ViaKexec, Append: "more", Sidecars: opts.Sidecars}, linux, sec(".cmdline", "embedded"))
	if wantEvents(t, "append", b, "12 embedded more", "12 global own"); b.Cmdline != "embedded more global own" {
		t.Errorf("%q", b.Cmdline)
	}
}

// TestAddonUname: an addon may be for one kernel only (specification, 2.6; the
// comparison is strncmp with the size of the addon's section).
func TestAddonUname(t *testing.T) {
	t.Parallel()
	const absent = "absent"
	uname := func(s string, more uint32) []ukitest.Section {
		if s == absent {
			return nil
		}
		return []ukitest.Section{{Name: ".uname", Data: []byte(s), VirtualSize: uint32(len(s)) + more}}
	}
	for _, test := range []struct {
		image, addon string
		more         uint32 // zero bytes behind that of the addon
		same         bool
	}{
		{"6.1.0", "6.1.0", 0, true},
		{"6.1.0", "6.1", 0, true}, // a prefix
		{"6.1.0", "6", 0, true},
		{"6.1.0", "6.1.0-x", 0, false},
		{"6.1.0", "6.1.1", 0, false},
		{"6.1.0", "7.1.0", 0, false},
		{"6.1.0", "6.1.0 ", 0, false},
		{"6.1.0", "6.1.0\n", 0, false},
		{"6.1.0\n", "6.1.0", 0, true},
		{"6.1.0", "6.1.0\x00", 0, true},
		{"6.1.0", "6.1.0", 9, true},
		{"6.1.0", "6.1.0\x00junk", 0, true},
		{"6.1.0", "6.1\x00", 0, false}, // with the NUL it is no prefix
		{"6.1.0", "6.1", 1, false},
		{"6.1.0", "\x00", 0, false},
		{"6.1.0\x00", "6.1.0", 0, true},
		{"6.1.0\x00junk", "6.1.0\x00", 0, true},
		{"6.1.0\x00junk", "6.1.0\x00other", 0, true},
		{"6.1.0\x00junk", "6.1.0j", 0, false},
		{"\x00", "\x00", 0, true},
		{"\x00", "6", 0, false},
		{absent, "6.1.0", 0, true},
		{"6.1.0", absent, 0, true},
		{"6.1.0", "", 0, true}, // as absent
	} {
		for version, checks := range map[string]bool{"254": true, "254.26": true, "255~rc1": false, "255": false, "255.0": false, "255.4": false, "255.5": true,
			"255.10": true, "256": true, "257.13": true, "262.1-1": true} {
			sections := append([]ukitest.Section{linux}, uname(test.image, 0)...)
			opts := kexec(nil, []stub.File{addon(t, "x", append(uname(test.addon, test.more), sec(".cmdline", "line"))...)})
			b := load(t, version, opts, sections...)
			want, ignored := []string{"12 line"}, []string{}
			if checks && !test.same {
				want, ignored = nil, []string{"addon x.addon.efi: it is for another kernel (.uname)"}
			}
			wantEvents(t, fmt.Sprintf("%s: image %q, addon %q and %d", version, test.image, test.addon, test.more), b, want...)
			if !slices.Equal(b.Ignored, ignored) {
				t.Errorf("%s: image %q, addon %q: ignored %q", version, test.image, test.addon, b.Ignored)
			}
		}
	}
	// The profile's own .uname counts.
	sections := []ukitest.Section{linux, sec(".uname", "1"), sec(".profile", "ID=a"), sec(".uname", "2")}
	wantEvents(t, "profile", load(t, "257", kexec(nil, []stub.File{addon(t, "x", sec(".uname", "2"), sec(".cmdline", "line"))}), sections...), "12 line")
	wantEvents(t, "not the base", load(t, "257", kexec(nil, []stub.File{addon(t, "x", sec(".uname", "1"), sec(".cmdline", "line"))}), sections...))
}

func TestAddonIgnored(t *testing.T) {
	t.Parallel()
	otherMachine := build(t, "262", sec(".cmdline", "line"))
	binary.LittleEndian.PutUint16(otherMachine[0x44:], 0xaa64)
	line := sec(".cmdline", "line")
	for name, test := range map[string]struct {
		version string
		addon   stub.File
		want    string
	}{
		"a UKI":           {"262", addon(t, "x", line, linux), "addon x.addon.efi: it has a .linux section: it is a UKI"},
		"a UKI, 254":      {"254", addon(t, "x", line, linux), "addon x.addon.efi: it has a .linux section: it is a UKI"},
		"a UKI, prefix":   {"256", addon(t, "x", line, sec(".linux2", "x")), "addon x.addon.efi: it has a .linux section: it is a UKI"},
		"empty .linux":    {"262", addon(t, "x", line, ukitest.Section{Name: ".linux"}), ""},
		"longer name":     {"257", addon(t, "x", line, sec(".linux2", "x")), ""},
		"only a kernel":   {"262", addon(t, "x", linux), "addon x.addon.efi: it has nothing that systemd-stub 262 takes from an addon"},
		"nothing":         {"262", addon(t, "x"), "addon x.addon.efi: it has nothing that systemd-stub 262 takes from an addon"},
		"empty":           {"262", addon(t, "x", ukitest.Section{Name: ".cmdline"}), "addon x.addon.efi: it has nothing that systemd-stub 262 takes from an addon"},
		"other machine":   {"262", stub.File{Name: "x.addon.efi", Content: measure.Bytes(otherMachine)}, "addon x.addon.efi: it is for arm64, the image is for amd64"},
		"only in profile": {"257", addon(t, "x", sec(".profile", "ID=a"), line), "addon x.addon.efi: it has nothing that systemd-stub 257 takes from an addon"},
		"256, profile":    {"256", addon(t, "x", sec(".profile", "ID=a"), line), ""},
		"in the base":     {"257", addon(t, "x", line, sec(".profile", "ID=a"), sec(".cmdline", "other")), ""},
	} {
		want, ignored := []string{"12 line"}, []string{}
		if test.want != "" {
			want, ignored = nil, []string{test.want}
		}
		b := load(t, test.version, kexec(nil, []stub.File{test.addon}), linux)
		wantEvents(t, name, b, want...)
		if !slices.Equal(b.Ignored, ignored) {
			t.Errorf("%s: ignored %q, want %q", name, b.Ignored, ignored)
		}
	}
}

// TestAddonSelection: sections of the same name, as in images (TestSelection).
func TestAddonSelection(t *testing.T) {
	t.Parallel()
	empty := ukitest.Section{Name: ".cmdline"}
	for name, test := range map[string]struct {
		sections   []ukitest.Section
		v256, v257 string
	}{
		"twice":          {[]ukitest.Section{sec(".cmdline", "1"), sec(".cmdline", "2")}, "12 2", "12 1"},
		"first is empty": {[]ukitest.Section{empty, sec(".cmdline", "2")}, "12 2", ""},
		"last is empty":  {[]ukitest.Section{sec(".cmdline", "1"), empty}, "", "12 1"},
		"devicetrees":    {[]ukitest.Section{sec(".dtb", "1"), sec(".dtb2", "2")}, "12 tag 6c46f751 x.addon.efi", "12 tag 6c46f751 x.addon.efi"},
	} {
		for version, want := range map[string]string{"256": test.v256, "257": test.v257, "262": test.v257} {
			b := load(t, version, kexec(nil, []stub.File{addon(t, "x", test.sections...)}), linux)
			if want == "" {
				wantEvents(t, name+", "+version, b)
			} else {
				wantEvents(t, name+", "+version, b, want)
			}
			if name != "devicetrees" {
				continue
			}
			content := map[bool]string{true: "2", false: "1"}[version == "256"]
			if got := read(t, b.Measurements[len(b.Measurements)-1].Content); got != content {
				t.Errorf("%s: devicetree %q, want %q", version, got, content)
			}
		}
	}
	// 255 and 256 take .dtbauto for .dtb; it stands last.
	b := load(t, "255", kexec(nil, []stub.File{addon(t, "x", sec(".dtb", "1"), sec(".dtbauto", "2"))}), linux)
	if wantEvents(t, "255", b, "12 tag 6c46f751 x.addon.efi"); read(t, b.Measurements[len(b.Measurements)-1].Content) != "2" {
		t.Errorf("devicetree %q", read(t, b.Measurements[len(b.Measurements)-1].Content))
	}
}

func TestAddonErrors(t *testing.T) {
	t.Parallel()
	whole := build(t, "262", sec(".cmdline", "line"))
	overlap := build(t, "262", sec(".cmdline", "line"), sec(".vendor", "v"))
	const firstAdded = 0x58 + 240 + 2*40
	copy(overlap[firstAdded+40+12:][:4], overlap[firstAdded+12:])
	for name, test := range map[string]struct {
		contents []byte
		want     string
	}{
		"empty":       {nil, `addon x.addon.efi: DOS header: truncated: wants 64 bytes at 0, the file has 0`},
		"one byte":    {[]byte("M"), `addon x.addon.efi: DOS header: truncated: wants 64 bytes at 0, the file has 1`},
		"text":        {bytes.Repeat([]byte("cmdline "), 10), `addon x.addon.efi: not a PE file: no MZ at offset 0`},
		"no sections": {whole[:len(whole)-512], `addon x.addon.efi: section ".cmdline": 512 bytes at 4096: outside the file (4096 bytes)`},
		"headers":     {whole[:0x200], `addon x.addon.efi: optional header: SizeOfHeaders 3072: the file has 512 bytes`},
		"overlap":     {overlap, `addon x.addon.efi: section .cmdline: overlaps with section ".vendor" in memory at 0x3000`},
		"long text": {build(t, "262", sec(".cmdline", strings.Repeat("x", 1<<20+1))),
			`addon x.addon.efi: section ".cmdline": 1048577 bytes: more text than 1048576`},
		"long name": {build(t, "262", sec(".cmdline", "x"), sec(".uname", strings.Repeat("x", 1<<20+1))),
			`addon x.addon.efi: section ".uname": 1048577 bytes: more text than 1048576`},
		"devicetree": {build(t, "262", sec(".dtbauto", "x")),
			`addon x.addon.efi: section .dtbauto: whether it is used depends on the hardware: cannot tell`},
	} {
		for _, dir := range []string{"global", "own"} {
			list := []stub.File{{Name: "x.addon.efi", Content: measure.Bytes(test.contents)}}
			opts := kexec(list, nil)
			if dir == "own" {
				opts = kexec(nil, list)
			}
			err := loadError(t, "262", opts, linux, sec(".uname", "x"))
			wantError(t, err, test.want)
			if errors.Is(err, stub.ErrCannotTell) != (name == "devicetree") {
				t.Errorf("%s: ErrCannotTell: %v", name, err)
			}
			load(t, "253", opts, linux, sec(".uname", "x")) // does not look at addons
		}
	}
}

// TestAddonHardware: what depends on the hardware counts only where the stub
// takes it from an addon (specification, 2.6: .efifw only stands in a message).
func TestAddonHardware(t *testing.T) {
	t.Parallel()
	line, hidden := sec(".cmdline", "line"), sec(".dtbauto", "x")
	for name, test := range map[string]struct {
		version  string
		sections []ukitest.Section
	}{
		"firmware":                 {"262", []ukitest.Section{line, sec(".efifw", "x")}},
		"firmware, 258":            {"258", []ukitest.Section{line, sec(".efifw", "x")}},
		"firmware, unknown to 257": {"257", []ukitest.Section{line, sec(".efifw", "x")}},
		"devicetree in a profile":  {"262", []ukitest.Section{line, sec(".profile", "ID=a"), hidden}},
		"empty devicetree":         {"262", []ukitest.Section{line, {Name: ".dtbauto"}}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := loadBytes(build(t, test.version, linux), kexec(nil, []stub.File{addon(t, "x", test.sections...)}))
			if err != nil {
				t.Fatal(err)
			}
			wantEvents(t, test.version, b, "12 line")
		})
	}
}

func TestAcceptAddon(t *testing.T) {
	t.Parallel()
	sidecars := stub.Sidecars{Addons: texts(t, "g0", "g1"), Image: texts(t, "i0")}
	opts := stub.Options{Via: stub.ViaKexec, SecureBoot: true, Sidecars: sidecars}
	err := loadError(t, "262", opts, linux)
	wantError(t, err, "addon 00.addon.efi: under Secure Boot it counts only if the firmware trusts its signature: cannot tell")
	if !errors.Is(err, stub.ErrCannotTell) {
		t.Errorf("not ErrCannotTell: %v", err)
	}
	load(t, "253", opts, linux)
	load(t, "262", stub.Options{Via: stub.ViaKexec, SecureBoot: true, Sidecars: stub.Sidecars{Image: files("a.cred", "1", ".b.addon.efi", "")}}, linux)

	for _, secure := range []bool{false, true} {
		var asked []string
		opts := stub.Options{Via: stub.ViaKexec, SecureBoot: secure, Sidecars: sidecars}
		opts.AcceptAddon = func(name string, f *uki.File) (bool, error) {
			text, err := f.Sections[len(f.Sections)-1].Text()
			asked = append(asked, name+" "+text)
			return text != "g1", err
		}
		b := load(t, "262", opts, linux)
		wantEvents(t, "262", b, "12 g0 i0")
		if want := []string{"addon 01.addon.efi: the firmware does not trust its signature"}; !slices.Equal(b.Ignored, want) {
			t.Errorf("ignored %q", b.Ignored)
		}
		if want := []string{"00.addon.efi g0", "01.addon.efi g1", "00.addon.efi i0"}; !slices.Equal(asked, want) {
			t.Errorf("asked for %q", asked)
		}

		cause := errors.New("no key")
		opts.AcceptAddon = func(string, *uki.File) (bool, error) { return true, cause }
		err := loadError(t, "262", opts, linux)
		if wantError(t, err, "addon 00.addon.efi: no key"); !errors.Is(err, cause) {
			t.Errorf("the cause of %v is lost", err)
		}
	}
}

func TestSMBIOS(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct{ v254, v257 string }{
		"a=1":         {"a=1", "a=1"},
		" a\tb\x7f ":  {" a\tb\x7f ", "a b"},
		"a  b":        {"a  b", "a  b"},
		" ":           {" ", ""},
		"\n\t":        {"\n\t", ""},
		"a😀ü":         {"aü", "aü"},
		"@1 x":        {"@1 x", "@1 x"},
		"\ufffd":      {"\ufffd", "\ufffd"},
		"😀":           {"", ""},
		"":            {"", ""},
		"quoted \" '": {"quoted \" '", "quoted \" '"},
	} {
		for _, version := range allVersions {
			want := map[bool]string{true: want.v257, false: want.v254}[version >= "257"]
			if version < "254" {
				want = ""
			}
			var list []string
			cmdline := "base"
			if want != "" {
				list = []string{"12 " + want}
				cmdline += " " + want
			}
			opts := stub.Options{Via: stub.ViaFirmware, SMBIOSCmdline: text}
			b := load(t, version, opts, linux, sec(".cmdline", "base"))
			if wantEvents(t, fmt.Sprintf("%s, %q", version, text), b, list...); b.Cmdline != cmdline {
				t.Errorf("%s, %q: command line %q", version, text, b.Cmdline)
			}
			opts.ConfidentialVM = true
			b = load(t, version, opts, linux, sec(".cmdline", "base"))
			if wantEvents(t, version+", confidential", b); b.Cmdline != "base" {
				t.Errorf("%s, %q, confidential: command line %q", version, text, b.Cmdline)
			}
		}
	}
	for text, want := range map[string]string{
		"a\x00b": "SMBIOS: command line: NUL at offset 1",
		"\x00":   "SMBIOS: command line: NUL at offset 0",
		"a\xff":  "SMBIOS: command line: not valid UTF-8",
	} {
		opts := stub.Options{Via: stub.ViaKexec, SMBIOSCmdline: text}
		for _, version := range []string{"254", "257", "262"} {
			wantError(t, loadError(t, version, opts, linux), want)
		}
		load(t, "253", opts, linux) // does not look
		opts.ConfidentialVM = true
		load(t, "262", opts, linux)
	}

	// Behind the passed command line and the addons', under Secure Boot too.
	opts := stub.Options{Via: stub.ViaFirmware, Cmdline: new("passed"), SMBIOSCmdline: "smbios", SecureBoot: true,
		AcceptAddon: func(string, *uki.File) (bool, error) { return true, nil },
		Sidecars:    stub.Sidecars{Image: append(texts(t, "addon"), files("a.cred", "1")...)}}
	b := load(t, "262", opts, linux)
	if wantEvents(t, "order", b, "12 passed", "12 addon", "12 smbios", "12 Credentials initrd"); b.Cmdline != "passed addon smbios" {
		t.Errorf("command line %q", b.Cmdline)
	}
	if b = load(t, "262", stub.Options{Via: stub.ViaKexec, SMBIOSCmdline: "alone"}, linux); b.Cmdline != "alone" {
		t.Errorf("command line %q", b.Cmdline)
	}
}
