package stub_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// What reviewers found. The strings are from the specification (spec/sd-stub.md
// 2.1), not from a boot; the golden tests have those.

// TestLoadOptionsUnmangled: systemd-boot measures what it hands over as it is,
// spaces at the end included.
func TestLoadOptionsUnmangled(t *testing.T) {
	image, _ := readGolden(t, "profiles_1")
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	for cmdline, want := range map[string]string{"foo ": "@1 foo ", "foo": "@1 foo", "": "@1"} {
		opts := stub.Options{Via: stub.ViaSystemdBoot, Profile: "1"}
		if cmdline != "" {
			opts.Cmdline = &cmdline
		}
		b, err := stub.Load(f, opts)
		if err != nil {
			t.Fatal(err)
		}
		var z []byte
		for _, u := range append(utf16.Encode([]rune(want)), 0) {
			z = binary.LittleEndian.AppendUint16(z, u)
		}
		if got := b.Measurements[0].Data; !bytes.Equal(got, z) {
			t.Errorf("%q: %q, want %q", cmdline, got, z)
		}
	}
}

// TestChoice: where the load options spell the choice of a profile in another
// way, profile 0 included, that is what systemd-boot measures.
func TestChoice(t *testing.T) {
	image, _ := readGolden(t, "profiles_1")
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		choice, cmdline, want string
		profile               int
	}{
		{"@01 ", "foo", "@01 foo", 1}, {"@1", "foo", "@1 foo", 1}, {"@0 ", " foo", "@0  foo", 0}, {"@0", "", "@0", 0}, {"@00 ", "", "@00 ", 0},
	} {
		opts := stub.Options{Via: stub.ViaSystemdBoot, Profile: "3", Choice: test.choice}
		if test.cmdline != "" {
			opts.Cmdline = &test.cmdline
		}
		b, err := stub.Load(f, opts)
		if err != nil {
			t.Fatal(err)
		}
		if got := fromUTF16z(b.Measurements[0].Data); got != test.want || b.Profile != test.profile {
			t.Errorf("%q, %q: %q, profile %d", test.choice, test.cmdline, got, b.Profile)
		}
	}
	for choice, want := range map[string]string{"1": "not @ and a number", "@x": "not @ and a number", "@1 foo": "not @ and a number", "@99": `profile "99": unknown`} {
		if _, err := stub.Load(f, stub.Options{Via: stub.ViaSystemdBoot, Choice: choice}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", choice, err)
		}
	}
}

func TestJoin(t *testing.T) {
	for _, test := range []struct{ a, b, want string }{
		{"", "", ""}, {" a", "", " a"}, {"", "b", "b"}, {" a", "b", " a b"},
	} {
		if got := stub.Join(test.a, test.b); got != test.want {
			t.Errorf("%q and %q: %q", test.a, test.b, got)
		}
	}
}

// TestUnknownVia: nothing defaults.
func TestUnknownVia(t *testing.T) {
	image, _ := readGolden(t, "plain_262")
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	for _, via := range []stub.Via{"", "grub"} {
		if _, err := stub.Load(f, stub.Options{Via: via}); err == nil || !strings.Contains(err.Error(), "unknown (known: [kexec firmware systemd-boot])") {
			t.Errorf("%q: %v", via, err)
		}
	}
}

// TestZeroFillOfManySections: each section may claim a little more than the file
// has, but not all of them together.
func TestZeroFillOfManySections(t *testing.T) {
	var sections []ukitest.Section
	for i := range 5 {
		sections = append(sections, ukitest.Section{Name: fmt.Sprintf(".z%d", i), Data: []byte{1}, VirtualSize: 16 << 20})
	}
	for n, want := range map[int]string{4: "", 5: `section ".z4": claims 16777216 bytes, but the file has 512 of them; with the sections before it, more than 67108864 are missing`} {
		image, err := ukitest.Build(ukitest.Minimal("262.1"), sections[:n]...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = uki.Open(bytes.NewReader(image), int64(len(image)))
		if want == "" && err != nil || want != "" && fmt.Sprint(err) != want {
			t.Errorf("%d sections: %v, want %q", n, err, want)
		}
	}
}
