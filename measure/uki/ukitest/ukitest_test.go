package ukitest

// These tests read the images with the standard library. That firmware and the real stub accept them is for
// the VM tests to show.

import (
	"bytes"
	"debug/pe"
	"strings"
	"testing"
)

func parse(t *testing.T, image []byte) *pe.File {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func names(f *pe.File) string {
	var s []string
	for _, sec := range f.Sections {
		s = append(s, sec.Name)
	}
	return strings.Join(s, " ")
}

// content is what a loaded image holds of a section.
func content(t *testing.T, s *pe.Section) []byte {
	t.Helper()
	raw, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, s.VirtualSize)
	copy(b, raw)
	return b
}

func TestMinimal(t *testing.T) {
	f := parse(t, Minimal("257.13-1"))
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	if f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || h.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION || h.NumberOfRvaAndSizes != 16 {
		t.Errorf("machine %#x, subsystem %d, %d directories", f.Machine, h.Subsystem, h.NumberOfRvaAndSizes)
	}
	if got := names(f); got != ".text .sdmagic" {
		t.Errorf("sections %s", got)
	}
	if got := string(content(t, f.Section(".sdmagic"))); got != "#### LoaderInfo: systemd-stub 257.13-1 ####" {
		t.Errorf(".sdmagic %q", got)
	}
}

func TestBuild(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 70000)
	in := []Section{
		{Name: ".linux", Data: big},
		{Name: ".osrel", Data: []byte("ID=a\n"), VirtualSize: 100},
		{Name: ".cmdline", Data: []byte("quiet"), VirtualSize: 3},
		{Name: ".dtb"},
		{Name: ".profile", Data: []byte("ID=0\n")},
		{Name: ".cmdline", Data: bytes.Repeat([]byte("y"), 512)},
		{Name: ".profile", Data: []byte("ID=1\n")},
	}
	image, err := Build(Minimal("257"), in...)
	if err != nil {
		t.Fatal(err)
	}
	f := parse(t, image)
	if got, want := names(f), ".text .sdmagic .linux .osrel .cmdline .dtb .profile .cmdline .profile"; got != want {
		t.Fatalf("sections %s, want %s", got, want)
	}
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	if len(image)%int(h.FileAlignment) != 0 || h.SizeOfImage%h.SectionAlignment != 0 {
		t.Errorf("%d bytes in the file, %d in memory", len(image), h.SizeOfImage)
	}
	end := h.SizeOfHeaders
	for i, s := range f.Sections {
		if s.VirtualAddress%h.SectionAlignment != 0 || s.VirtualAddress < end || s.VirtualAddress+s.VirtualSize > h.SizeOfImage {
			t.Errorf("%s: address %#x size %#x after %#x in %#x", s.Name, s.VirtualAddress, s.VirtualSize, end, h.SizeOfImage)
		}
		if s.Offset%h.FileAlignment != 0 || s.Size%h.FileAlignment != 0 {
			t.Errorf("%s: file offset %#x size %#x", s.Name, s.Offset, s.Size)
		}
		end = s.VirtualAddress + s.VirtualSize
		if i < 2 {
			continue
		}
		want := make([]byte, max(in[i-2].VirtualSize, s.VirtualSize))
		copy(want, in[i-2].Data)
		if got := content(t, s); !bytes.Equal(got, want[:s.VirtualSize]) {
			t.Errorf("%s: %q", s.Name, got)
		}
	}
	if f.Sections[3].VirtualSize != 100 || f.Sections[4].VirtualSize != 3 || f.Sections[5].VirtualSize != 0 {
		t.Error("virtual sizes not as asked")
	}
	if f.Section(".linux").Characteristics != 0x40000020 || f.Section(".osrel").Characteristics != 0x40000040 {
		t.Error("characteristics not those of ukify")
	}
}

func TestBuildGrowsHeaders(t *testing.T) {
	stub := Minimal("252")
	data := func(f *pe.File) string { return string(content(t, f.Section(".sdmagic"))) }
	before := data(parse(t, stub))
	for n, want := range map[int]int{68: 0, 69: 512, 90: 1024} {
		image, err := Build(stub, make([]Section, n-2)...)
		if err != nil {
			t.Fatal(err)
		}
		f := parse(t, image)
		if got := len(image) - len(stub); got != want {
			t.Errorf("%d sections: grew by %d, want %d", n, got, want)
		}
		if len(f.Sections) != n || data(f) != before {
			t.Errorf("%d sections: found %d, .sdmagic %q", n, len(f.Sections), data(f))
		}
	}
	if _, err := Build(stub, make([]Section, 98)...); err == nil || !strings.Contains(err.Error(), "do not fit before the first section") {
		t.Errorf("100 sections: %v", err)
	}
}

func TestBuildReplaces(t *testing.T) {
	stub, err := Build(Minimal("262"), Section{Name: ".sbat", Data: []byte("sbat,1,old old old\n"), VirtualSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	image, err := Build(stub, Section{Name: ".osrel", Data: []byte("a")}, Section{Name: ".sbat", Data: []byte("sbat,1\n")})
	if err != nil {
		t.Fatal(err)
	}
	f := parse(t, image)
	if got := names(f); got != ".text .sdmagic .sbat .osrel" {
		t.Errorf("sections %s", got)
	}
	raw, _ := f.Section(".sbat").Data()
	if want := append([]byte("sbat,1\n"), make([]byte, 505)...); !bytes.Equal(raw, want) || f.Section(".sbat").VirtualSize != 7 {
		t.Errorf(".sbat %q, virtual size %d", raw, f.Section(".sbat").VirtualSize)
	}
	if _, err := Build(stub, Section{Name: ".sbat", Data: make([]byte, 513)}); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("too long: %v", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	signed := Minimal("257")
	signed[0x40+4+coffSize+optSecurityDir] = 1
	for name, stub := range map[string][]byte{
		"not a PE file":    nil,
		"not a PE32+ file": make([]byte, 4096),
		"signed":           signed,
	} {
		if _, err := Build(stub); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Build(Minimal("257"), Section{Name: ".pcrpkeys"}); err == nil || !strings.Contains(err.Error(), "longer than 8") {
		t.Errorf("long name: %v", err)
	}
}
