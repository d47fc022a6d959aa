package stub

// These tests compare the parts that the rules are made of with archives of the
// real stub, with numbers of systemd-measure and with what the specification
// says. They do not prove that the parts are put together as the stub does; see
// golden_test.go.

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/uki"
)

// contents returns the bytes of contents that follow each other.
func contents(t testing.TB, pieces ...measure.Content) []byte {
	t.Helper()
	var all []byte
	for _, c := range pieces {
		b, err := measure.ReadAll(c, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func readFile(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCpio(t *testing.T) {
	file := func(name, data string) File { return File{name, measure.Bytes([]byte(data))} }
	const osRelease = "ID=testos\nVERSION_ID=1\nPRETTY_NAME=\"Test OS 1\"\n"
	for name, test := range map[string]struct {
		dir               string
		dirMode, fileMode uint32
		files             []File
	}{
		"meta-os-release": {".extra", 0o555, 0o444, []File{file("os-release", osRelease)}},
		"credentials": {".extra/credentials", 0o500, 0o400,
			[]File{file("Beta.CRED", "bb"), file("alpha.cred", "a"), file("zeta.cred", "secret-z\n")}},
		"sysext": {".extra/sysext", 0o555, 0o444, []File{file("one.sysext.raw", "SSSSS"), file("two.raw", "TTTTTT")}},
	} {
		want := readFile(t, "cpio", "cpio-"+name+".cpio")
		got := contents(t, Archive(test.dir, test.dirMode, test.fileMode, test.files...)...)
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%q\nthe stub has\n%q", name, got, want)
		}
		for i := range test.files { // one byte changed
			files := slices.Clone(test.files)
			b := contents(t, files[i].Content)
			b[len(b)-1] ^= 1
			files[i].Content = measure.Bytes(b)
			if bytes.Equal(contents(t, Archive(test.dir, test.dirMode, test.fileMode, files...)...), want) {
				t.Errorf("%s: file %d changed, the archive did not", name, i)
			}
		}
	}
}

func TestPadding(t *testing.T) {
	for size, want := range map[int64]int{0: 0, 1: 3, 2: 2, 3: 1, 4: 0, 5: 3, 1<<32 + 1: 3} {
		if got := padding(size); len(got) != want || strings.Trim(got, "\x00") != "" {
			t.Errorf("%d bytes are padded with %q", size, got)
		}
	}
}

// TestCanonicalOrder measures one of each section and wants what
// systemd-measure computes (testdata/systemd-measure/README.md).
func TestCanonicalOrder(t *testing.T) {
	var b Boot
	for _, s := range canonicalOrder {
		if s.name != ".pcrsig" {
			b.measureSection(s.name, measure.Bytes(readFile(t, "systemd-measure", "sections", s.name[1:])))
		}
	}
	if len(b.Measurements) != 28 {
		t.Fatalf("%d measurements", len(b.Measurements))
	}
	p, err := measure.Predict(&b.Image, measure.Options{Base: measure.Zero(measure.Banks(), measure.StubPCRs()...)})
	if err != nil {
		t.Fatal(err)
	}
	var phases []measure.Phase
	for line := range strings.Lines(string(readFile(t, "systemd-measure", "calculate-all.stderr"))) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "# PCR[11] Phase <")
		phase, err := measure.ParsePhase(strings.TrimSuffix(path, ">"))
		if !ok || err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		phases = append(phases, phase)
	}
	lines := bufio.NewScanner(bytes.NewReader(readFile(t, "systemd-measure", "calculate-all.txt")))
	n := 0
	for ; lines.Scan(); n++ {
		name, want, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "11:"), "=")
		bank, err := measure.ParseBank(name)
		if err != nil {
			t.Fatal(err)
		}
		pcrs, err := p.At(phases[n/2])
		if err != nil {
			t.Fatal(err)
		}
		if got := pcrs[bank][11].String(); got != want {
			t.Errorf("phase %q: %v %s, systemd-measure has %s", phases[n/2], bank, got, want)
		}
	}
	if n != 8 || len(phases) != 4 {
		t.Errorf("%d values at %d phases", n, len(phases))
	}
}

// TestKnownSections has the table of the specification.
func TestKnownSections(t *testing.T) {
	const (
		v252 = ".linux .osrel .cmdline .initrd .splash .dtb .pcrsig .pcrpkey"
		v254 = ".linux .osrel .cmdline .initrd .splash .dtb .uname .sbat .pcrsig .pcrpkey"
		v256 = ".linux .osrel .cmdline .initrd .ucode .splash .dtb .uname .sbat .pcrsig .pcrpkey"
	)
	for major, want := range map[int]string{
		252: v252, 253: v252, 254: v254, 255: v254, 256: v256, 257: v256 + " .profile .dtbauto .hwids",
		258: v256 + " .profile .dtbauto .hwids .efifw", 262: v256 + " .profile .dtbauto .hwids .efifw",
	} {
		if got := strings.Join(knownSections(major), " "); got != want {
			t.Errorf("%d knows %s, want %s", major, got, want)
		}
	}
}

func version(t testing.TB, s string) uki.Stub {
	t.Helper()
	v, err := uki.ParseMagic("#### LoaderInfo: systemd-stub " + s + " ####")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMangle(t *testing.T) {
	const (
		raw = iota // nothing is changed
		old        // controls become spaces, spaces at the end go
		now        // also at the beginning, and DEL
	)
	classes := map[string]int{"252": raw, "252.1": raw, "252.2": raw, "252.3": old, "252.39": old, "253": old, "254.26": old,
		"255": now, "256.4": now, "257.13": now, "262.1": now}
	for in, want := range map[string][3]string{
		"":              {"", "", ""},
		"quiet":         {"quiet", "quiet", "quiet"},
		"a\tb\nc":       {"a\tb\nc", "a b c", "a b c"},
		"a  \t b":       {"a  \t b", "a    b", "a    b"},
		"quiet\n":       {"quiet\n", "quiet", "quiet"},
		"quiet \t\n ":   {"quiet \t\n ", "quiet", "quiet"},
		"  quiet":       {"  quiet", "  quiet", "quiet"},
		"\n\x01 quiet":  {"\n\x01 quiet", "   quiet", "quiet"},
		" \n\t ":        {" \n\t ", "", ""},
		"a\x7fb\x7f":    {"a\x7fb\x7f", "a\x7fb\x7f", "a b"},
		"\x7fa":         {"\x7fa", "\x7fa", "a"},
		"\u00a0a\u0085": {"\u00a0a\u0085", "\u00a0a\u0085", "\u00a0a\u0085"},
		"ü€😀":           {"ü€😀", "ü€😀", "ü€😀"},
	} {
		for v, class := range classes {
			if got := toUTF8(mangle(toUTF16(in), version(t, v))); got != want[class] {
				t.Errorf("%s makes %q of %q, want %q", v, got, in, want[class])
			}
		}
	}
}

func TestFromUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"a\x00b":                     "a",
		"\x00":                       "",
		"aü€":                        "aü€",
		"a\U0001F600b":               "ab", // beyond U+FFFF
		"a\xff\xfeb":                 "ab", // never valid
		"a\xc3":                      "a",  // ends early
		"a\xe2\x82b":                 "ab", // ends early
		"a\xed\xa0\x80\xed\xb0\x80b": "ab", // encoded surrogates
		"a\xc0\x80b":                 "ab", // an overlong NUL
		"a\ufffdb":                   "a\ufffdb",
		"\uffff":                     "\uffff",
	} {
		if got := toUTF8(fromUTF8(in)); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestUTF16z(t *testing.T) {
	if got := utf16z(toUTF16("a€😀")); !bytes.Equal(got, []byte{'a', 0, 0xac, 0x20, 0x3d, 0xd8, 0x00, 0xde, 0, 0}) {
		t.Errorf("% x", got)
	}
	if got := utf16z(nil); !bytes.Equal(got, []byte{0, 0}) {
		t.Errorf("% x", got)
	}
}

func TestIsGarbage(t *testing.T) {
	for _, test := range []struct {
		text                 string
		v257, v262           bool
		v259, v259CannotTell bool
	}{
		{"", false, false, false, false},
		{"quiet splash", false, false, false, false},
		{"\x01quiet", true, true, true, false},
		{"\tquiet", true, true, true, false},
		{"a\tb", false, true, false, true},
		{"a\n", false, true, false, true},
		{"a\x7f b", false, false, false, false},
		{" \x1f", false, true, false, true},
		{"\x20a", false, false, false, false},
	} {
		for v, want := range map[string]bool{"252": test.v257, "254.26": test.v257, "257.13": test.v257, "261": test.v262, "262.1": test.v262} {
			if got, err := isGarbage(toUTF16(test.text), version(t, v)); got != want || err != nil {
				t.Errorf("%s: %q is garbage: %v, %v", v, test.text, got, err)
			}
		}
		for _, v := range []string{"258", "259~rc1", "260.2"} {
			got, err := isGarbage(toUTF16(test.text), version(t, v))
			if got != test.v259 || errors.Is(err, ErrCannotTell) != test.v259CannotTell {
				t.Errorf("%s: %q is garbage: %v, %v", v, test.text, got, err)
			}
		}
	}
}

func TestSelectsProfile(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "@": false, "@ 1": false, "@x": false, "quiet @1": false, " @1": false, "@1\tquiet": false, "@1x": false,
		"@-1": false, "@+1": false, "@0x1": false, "@1_0": false, "@4294967296": false,
		"@0": true, "@1": true, "@1 ": true, "@1 quiet": true, "@007 x": true, "@4294967295": true,
	} {
		if got := func() bool { _, _, ok := SplitProfile(text); return ok }(); got != want {
			t.Errorf("%q selects a profile: %v", text, got)
		}
	}
}

func TestConcat(t *testing.T) {
	c := concat([]measure.Content{measure.Bytes([]byte("abc")), measure.Bytes(nil), measure.Bytes([]byte("de")), measure.Bytes([]byte("f"))})
	const want = "abcdef"
	if c.Size() != int64(len(want)) {
		t.Fatalf("%d bytes", c.Size())
	}
	for off := range len(want) + 2 {
		for n := range len(want) + 2 {
			b := make([]byte, n)
			m, err := c.ReadAt(b, int64(off))
			rest := want[min(off, len(want)):]
			rest = rest[:min(n, len(rest))]
			if string(b[:m]) != rest || (m < n) != (err == io.EOF) && n > 0 {
				t.Errorf("%d at %d: %q, %v", n, off, b[:m], err)
			}
		}
	}
	one := measure.Bytes([]byte("x"))
	if concat([]measure.Content{one}) != one {
		t.Error("one content is wrapped")
	}
}
