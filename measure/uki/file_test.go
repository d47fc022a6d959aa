package uki_test

// These tests give hostile and unusual headers to Open and read sections of
// images that package ukitest made. They do not prove that firmware maps an
// image as this package reads it; the golden boots in measure/stub do.

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// Where things are in the images of ukitest.Minimal.
const (
	peAt      = 0x40
	optAt     = peAt + 24
	tableAt   = optAt + 240
	headers   = 0xc00
	virtSize  = 8
	virtAddr  = 12
	rawSize   = 16
	rawOffset = 20
)

// header returns where the n-th section header is.
func header(n int) int { return tableAt + n*40 }

// testImage has the sections .text and .sdmagic (0xc00 and 0xe00 in the file,
// 0x1000 and 0x2000 in memory), .linux (0x1000 to 0x1400, 0x3000) and .cmdline
// (0x1400 to 0x1600, 0x4000); SizeOfImage is 0x5000.
func testImage(t testing.TB) []byte {
	return build(t, "262.1",
		ukitest.Section{Name: ".linux", Data: bytes.Repeat([]byte("kernel "), 100)},
		ukitest.Section{Name: ".cmdline", Data: []byte("quiet")})
}

func build(t testing.TB, version string, sections ...ukitest.Section) []byte {
	t.Helper()
	b, err := ukitest.Build(ukitest.Minimal(version), sections...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t testing.TB, image []byte) *uki.File {
	t.Helper()
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func find(t testing.TB, f *uki.File, name string) *uki.Section {
	t.Helper()
	i := slices.IndexFunc(f.Sections, func(s *uki.Section) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no section %s", name)
	}
	return f.Sections[i]
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func put16(b []byte, at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }

func TestOpen(t *testing.T) {
	image := testImage(t)
	f := open(t, image)
	if f.Machine.Arch() != "amd64" || f.Machine.String() != "amd64" || f.Size() != int64(len(image)) || f.Signed() {
		t.Errorf("machine %v, %d bytes, signed %v", f.Machine, f.Size(), f.Signed())
	}
	var names []string
	for _, s := range f.Sections {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != ".text .sdmagic .linux .cmdline" {
		t.Errorf("sections %s", got)
	}
	got := make([]byte, 16)
	if n, err := f.ReadAt(got, 0x1000); n != 16 || err != nil || string(got) != "kernel kernel ke" {
		t.Errorf("ReadAt: %d %v %q", n, err, got)
	}
	if got := uki.Machine(0x1c2).String(); got != "0x01c2" {
		t.Errorf("unknown machine is %s", got)
	}
}

func TestOpenPE32(t *testing.T) {
	image := testImage(t)
	// PE32 has its data directories 16 bytes earlier; the header's size stays.
	put16(image, optAt, 0x10b)
	put16(image, peAt+4, 0x14c)
	put32(image, optAt+92, 16)
	if f := open(t, image); f.Machine.Arch() != "386" || len(f.Sections) != 4 {
		t.Errorf("machine %v, %d sections", f.Machine, len(f.Sections))
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(b []byte) []byte // may change b
		want   string
	}{
		"empty":   {func([]byte) []byte { return nil }, `DOS header: truncated: wants 64 bytes at 0, the file has 0`},
		"MZ only": {func([]byte) []byte { return []byte("MZ") }, `DOS header: truncated: wants 64 bytes at 0, the file has 2`},
		"text": {func([]byte) []byte { return bytes.Repeat([]byte("#!/bin/sh\n"), 20) },
			`not a PE file: no MZ at offset 0`},
		"DOS program": {func(b []byte) []byte { clear(b[2:]); return b }, `not a PE file: no PE signature at offset 0`},
		"PE header beyond the file": {func(b []byte) []byte { put32(b, 0x3c, 0x2000); return b },
			`PE header: truncated: wants 24 bytes at 8192, the file has 5632`},
		"PE header at 4 GiB": {func(b []byte) []byte { put32(b, 0x3c, 0xffffffff); return b },
			`PE header: truncated: wants 24 bytes at 4294967295, the file has 5632`},
		"PE header across the end": {func(b []byte) []byte { put32(b, 0x3c, uint32(len(b)-4)); return b },
			`PE header: truncated: wants 24 bytes at 5628, the file has 5632`},
		"no signature": {func(b []byte) []byte { b[peAt+2] = 1; return b }, `not a PE file: no PE signature at offset 64`},
		"machine":      {func(b []byte) []byte { put16(b, peAt+4, 0x200); return b }, `PE header: machine 0x0200: unknown`},
		"65535 sections": {func(b []byte) []byte { put16(b, peAt+6, 65535); return b },
			`PE header: 65535 sections: more than 4096`},
		"4096 sections": {func(b []byte) []byte { put16(b, peAt+6, 4096); return b },
			`section table: ends at 164168, beyond the headers (3072 bytes)`},
		"no optional header": {func(b []byte) []byte { put16(b, peAt+20, 0); return b }, `optional header: 0 bytes: too short`},
		"one byte":           {func(b []byte) []byte { put16(b, peAt+20, 1); return b }, `optional header: 1 bytes: too short`},
		"optional header too short": {func(b []byte) []byte { put16(b, peAt+20, 111); return b },
			`optional header: 111 bytes: too short, wants 112`},
		"PE32 too short": {func(b []byte) []byte { put16(b, optAt, 0x10b); put16(b, peAt+20, 95); return b },
			`optional header: 95 bytes: too short, wants 96`},
		"optional header beyond the file": {func(b []byte) []byte { put16(b, peAt+20, 65535); return b },
			`optional header: truncated: wants 65535 bytes at 88, the file has 5632`},
		"ROM image": {func(b []byte) []byte { put16(b, optAt, 0x107); return b },
			`optional header: magic 0x0107: neither PE32 nor PE32+`},
		"data directories": {func(b []byte) []byte { put32(b, optAt+108, 17); return b },
			`optional header: 17 data directories do not fit into 240 bytes`},
		"4 G data directories": {func(b []byte) []byte { put32(b, optAt+108, 0xffffffff); return b },
			`optional header: 4294967295 data directories do not fit into 240 bytes`},
		"headers smaller than the table": {func(b []byte) []byte { put32(b, optAt+60, 487); return b },
			`section table: ends at 488, beyond the headers (487 bytes)`},
		"headers beyond the file": {func(b []byte) []byte { put32(b, optAt+60, 6000); return b },
			`optional header: SizeOfHeaders 6000: the file has 5632 bytes`},
		"headers of more than 1 MiB": {func(b []byte) []byte { put32(b, optAt+60, 1<<20+1); return append(b, make([]byte, 1<<20)...) },
			`optional header: SizeOfHeaders 1048577: more than 1048576`},
		"section outside the file": {func(b []byte) []byte { put32(b, header(3)+rawSize, 513); return b },
			`section ".cmdline": 513 bytes at 5120: outside the file (5632 bytes)`},
		"section at 4 GiB": {func(b []byte) []byte {
			put32(b, header(3)+rawSize, 0xffffffff)
			put32(b, header(3)+rawOffset, 0xffffffff)
			return b
		}, `section ".cmdline": 4294967295 bytes at 4294967295: outside the file (5632 bytes)`},
		"section inside the headers": {func(b []byte) []byte { put32(b, header(3)+rawOffset, headers-1); return b },
			`section ".cmdline": at 3071: inside the headers (3072 bytes)`},
		"overlap in the file": {func(b []byte) []byte { put32(b, header(3)+rawOffset, 0x13ff); return b },
			`sections ".linux" and ".cmdline" overlap in the file at 5119`},
		"same place": {func(b []byte) []byte { put32(b, header(3)+rawOffset, 0x1000); return b },
			`sections ".linux" and ".cmdline" overlap in the file at 4096`},
		"address wraps": {func(b []byte) []byte { put32(b, header(3)+virtAddr, 0xfffffffe); return b },
			`section ".cmdline": 5 bytes at address 0xfffffffe: wraps around 4 GiB`},
		"address beyond the image": {func(b []byte) []byte { put32(b, header(3)+virtAddr, 0x4ffc); return b },
			`section ".cmdline": ends at address 0x5001, beyond the image (0x5000)`},
		"raw data beyond the image": { // EDK2 maps the raw data if VirtualSize is 0
			func(b []byte) []byte { put32(b, header(3)+virtSize, 0); put32(b, header(3)+virtAddr, 0x4f00); return b },
			`section ".cmdline": ends at address 0x5100, beyond the image (0x5000)`},
		"zero fill": {func(b []byte) []byte {
			put32(b, header(3)+virtSize, 0xffffffff)
			put32(b, header(3)+virtAddr, 0)
			put32(b, optAt+56, 0xffffffff)
			return b
		}, `section ".cmdline": claims 4294967295 bytes, but the file has 512 of them; more than 67108864 are missing`},
		"zero fill of nothing": {func(b []byte) []byte {
			put32(b, header(3)+rawSize, 0)
			put32(b, header(3)+virtSize, 64<<20+1)
			put32(b, optAt+56, 0xffffffff)
			return b
		}, `section ".cmdline": claims 67108865 bytes, but the file has 0 of them; more than 67108864 are missing`},
		"certificates outside": {func(b []byte) []byte { put32(b, optAt+144, 5000); put32(b, optAt+148, 633); return b },
			`certificate table: 633 bytes at 5000: outside the file (5632 bytes)`},
		"certificates at 4 GiB": {func(b []byte) []byte { put32(b, optAt+144, 0xffffffff); put32(b, optAt+148, 0xffffffff); return b },
			`certificate table: 4294967295 bytes at 4294967295: outside the file (5632 bytes)`},
	} {
		t.Run(name, func(t *testing.T) {
			b := test.change(testImage(t))
			_, err := uki.Open(bytes.NewReader(b), int64(len(b)))
			wantError(t, err, test.want)
		})
	}
}

// TestOpenAccepts has what is at the edge of what TestOpenRefuses refuses.
func TestOpenAccepts(t *testing.T) {
	for name, change := range map[string]func(b []byte){
		"headers as large as the table":   func(b []byte) { put32(b, optAt+60, 488) },
		"headers up to the first section": func(b []byte) { put32(b, optAt+60, headers) },
		"no data directories":             func(b []byte) { put32(b, optAt+108, 0) },
		"end of the image":                func(b []byte) { put32(b, header(3)+virtAddr, 0x4ffb) },
		"end of the address space": func(b []byte) {
			put32(b, header(3)+virtAddr, 0xfffffff0)
			put32(b, optAt+56, 0xffffffff)
		},
		"64 MiB of zeros": func(b []byte) {
			put32(b, header(3)+rawSize, 0)
			put32(b, header(3)+virtSize, 64<<20)
			put32(b, optAt+56, 0xffffffff)
		},
		"certificates up to the end": func(b []byte) { put32(b, optAt+144, 5600); put32(b, optAt+148, 32) },
		"no sections":                func(b []byte) { put16(b, peAt+6, 0) },
		"sections in another order":  func(b []byte) { swapHeaders(b, 2, 3) },
	} {
		b := testImage(t)
		change(b)
		if _, err := uki.Open(bytes.NewReader(b), int64(len(b))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func swapHeaders(b []byte, i, j int) {
	h := bytes.Clone(b[header(i):][:40])
	copy(b[header(i):][:40], b[header(j):][:40])
	copy(b[header(j):][:40], h)
}

// TestOpenTruncated cuts an image at every length. All of it belongs to the
// headers or a section, but for 13 bytes behind the last one.
func TestOpenTruncated(t *testing.T) {
	image := testImage(t)
	whole := len(image)
	image = append(image, "thirteen more"...)
	for n := range image {
		f, err := uki.Open(bytes.NewReader(image[:n]), int64(n))
		switch {
		case n < whole && err == nil:
			t.Fatalf("%d of %d bytes: no error", n, len(image))
		case n < whole && !strings.Contains(err.Error(), fmt.Sprint(n)):
			t.Fatalf("%d bytes: the error does not say the file's size: %v", n, err)
		case n >= whole && err != nil:
			t.Fatalf("%d of %d bytes: %v", n, len(image), err)
		case n >= whole:
			for _, s := range f.Sections {
				if _, err := io.ReadAll(io.NewSectionReader(s, 0, s.Size())); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestOpenShrunk cuts the file after its size was taken: what is missing is an
// error, not zero bytes.
func TestOpenShrunk(t *testing.T) {
	image := testImage(t)
	for n := range headers {
		_, err := uki.Open(bytes.NewReader(image[:n]), int64(len(image)))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	f, err := uki.Open(bytes.NewReader(image[:0x1100]), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	s := find(t, f, ".linux")
	_, err = s.ReadAt(make([]byte, s.Size()), 0)
	wantError(t, err, `section ".linux": read at 4096: unexpected EOF`)
}

// failing fails from the n-th read on.
type failing struct {
	io.ReaderAt
	n int
}

func (r *failing) ReadAt(b []byte, off int64) (int, error) {
	if r.n--; r.n < 0 {
		return 0, iotest.ErrTimeout
	}
	return r.ReaderAt.ReadAt(b, off)
}

func TestReadErrors(t *testing.T) {
	image := build(t, "262", ukitest.Section{Name: ".profile", Data: []byte("ID=a\n")})
	for n, want := range []string{
		"DOS header: read at 0: timeout",
		"PE header: read at 64: timeout",
		"optional header: read at 88: timeout",
		"headers: read at 0: timeout",
	} {
		_, err := uki.Open(&failing{bytes.NewReader(image), n}, int64(len(image)))
		wantError(t, err, want)
		if !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("the cause of %v is lost", err)
		}
	}

	f, err := uki.Open(&failing{bytes.NewReader(image), 4}, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Stub()
	wantError(t, err, `section ".sdmagic": read at 3584: timeout`)
	_, _, err = f.Profiles()
	wantError(t, err, `section ".profile": read at 4096: timeout`)
}

// TestSectionReads reads at all offsets, with several lengths.
func TestSectionReads(t *testing.T) {
	data := make([]byte, 600)
	for i := range data {
		data[i] = byte(i%250 + 1)
	}
	f := open(t, build(t, "262",
		ukitest.Section{Name: ".cut", Data: data, VirtualSize: 513},     // raw: 1024
		ukitest.Section{Name: ".longer", Data: data, VirtualSize: 1500}, // raw: 1024
		ukitest.Section{Name: ".equal", Data: data[:512]},               // raw: 512
		ukitest.Section{Name: ".zero", VirtualSize: 40},                 // raw: 0
		ukitest.Section{Name: ".one", Data: data[:1]},                   // raw: 512
	))
	for name, want := range map[string][]byte{
		".cut":    data[:513],
		".longer": append(bytes.Clone(data), make([]byte, 900)...),
		".equal":  data[:512],
		".zero":   make([]byte, 40),
		".one":    data[:1],
	} {
		s := find(t, f, name)
		if s.Size() != int64(len(want)) {
			t.Fatalf("%s: %d bytes, want %d", name, s.Size(), len(want))
		}
		for off := 0; off <= len(want)+1; off++ {
			for _, n := range []int{1, 7, len(want), len(want) - min(off, len(want))} {
				got := bytes.Repeat([]byte{0xee}, n)
				m, err := s.ReadAt(got, int64(off))
				wantN := max(0, min(n, len(want)-off))
				var wantErr error
				if wantN < n || off >= len(want) {
					wantErr = io.EOF
				}
				if m != wantN || err != wantErr || wantN > 0 && !bytes.Equal(got[:m], want[off:off+wantN]) {
					t.Fatalf("%s: %d bytes at %d: %d, %v", name, n, off, m, err)
				}
			}
		}
		if all, err := io.ReadAll(io.NewSectionReader(s, 0, s.Size())); err != nil || !bytes.Equal(all, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := find(t, f, ".one").ReadAt(make([]byte, 1), -1)
	wantError(t, err, `section ".one": read at -1: negative offset`)
}

func TestFileRangeAndPrefix(t *testing.T) {
	f := open(t, build(t, "262", ukitest.Section{Name: ".a", Data: []byte("abcdef"), VirtualSize: 4},
		ukitest.Section{Name: ".b", Data: []byte("abcdef"), VirtualSize: 600}))
	for name, want := range map[string]int64{".a": 4, ".b": 512} {
		if _, size := find(t, f, name).FileRange(); size != want {
			t.Errorf("%s: %d bytes in the file, want %d", name, size, want)
		}
	}
	b := find(t, f, ".b")
	p := b.Prefix(3)
	got, err := io.ReadAll(io.NewSectionReader(p, 0, 100))
	if err != nil || string(got) != "abc" || p.Size() != 3 || p.Name != ".b" {
		t.Errorf("prefix %q of %d bytes: %v", got, p.Size(), err)
	}
	if b.Size() != 600 {
		t.Errorf("Prefix changed the section: %d bytes", b.Size())
	}
	if _, size := b.Prefix(0).FileRange(); size != 0 {
		t.Errorf("empty prefix has %d bytes", size)
	}
}

func TestOverlapping(t *testing.T) {
	for name, test := range map[string]struct {
		change func(b []byte)
		linux  string // what overlaps with .linux
	}{
		"none":          {func([]byte) {}, ""},
		"adjacent":      {func(b []byte) { put32(b, header(2)+virtSize, 0x1000) }, ""},
		"one byte":      {func(b []byte) { put32(b, header(2)+virtSize, 0x1001) }, ".cmdline"},
		"same address":  {func(b []byte) { put32(b, header(3)+virtAddr, 0x3000) }, ".cmdline"},
		"inside":        {func(b []byte) { put32(b, header(3)+virtAddr, 0x3010) }, ".cmdline"},
		"earlier in it": {func(b []byte) { put32(b, header(3)+virtAddr, 0x2ffc) }, ".cmdline"},
		"with an empty": {func(b []byte) {
			put32(b, header(3)+virtAddr, 0x3010)
			put32(b, header(3)+virtSize, 0)
			put32(b, header(3)+rawSize, 0)
		}, ""},
		"with raw bytes": {func(b []byte) { put32(b, header(3)+virtAddr, 0x3010); put32(b, header(3)+virtSize, 0) }, ".cmdline"},
	} {
		b := testImage(t)
		test.change(b)
		f := open(t, b)
		got := ""
		if o := f.Overlapping(find(t, f, ".linux")); o != nil {
			got = o.Name
			if back := f.Overlapping(o); back == nil || back.Name != ".linux" {
				t.Errorf("%s: overlaps one way only", name)
			}
		}
		if got != test.linux {
			t.Errorf("%s: overlaps with %q, want %q", name, got, test.linux)
		}
	}
}

func TestStub(t *testing.T) {
	for _, test := range []struct {
		magic, version string
		kind           uki.StubKind
		major, minor   int
	}{
		{"#### LoaderInfo: systemd-stub 262.1-1 ####", "262.1-1", uki.StubKindStub, 262, 1},
		{"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####", "257.13-1~deb13u1", uki.StubKindStub, 257, 13},
		{"#### LoaderInfo: systemd-stub 254.26-1~bpo12+1 ####\x00", "254.26-1~bpo12+1", uki.StubKindStub, 254, 26},
		{"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\x00\x00", "252.39-1~deb12u2", uki.StubKindStub, 252, 39},
		{"#### LoaderInfo: systemd-stub v258-rc1-12-gabcdef ####", "v258-rc1-12-gabcdef", uki.StubKindStub, 258, 0},
		{"#### LoaderInfo: systemd-stub 259~rc1 ####", "259~rc1", uki.StubKindStub, 259, 0},
		{"#### LoaderInfo: systemd-stub 255 ####", "255", uki.StubKindStub, 255, 0},
		{"#### LoaderInfo: systemd-stub 256.4 (256.4-1.fc41) ####", "256.4 (256.4-1.fc41)", uki.StubKindStub, 256, 4},
		{"#### LoaderInfo: systemd-addon 258~devel ####", "258~devel", uki.StubKindAddon, 258, 0},
		{"#### LoaderInfo: systemd-boot 262.1-1 ####", "262.1-1", uki.StubKindBoot, 262, 1},
	} {
		image := ukitest.Minimal("1")
		data := []byte(test.magic)
		copy(image[0xe00:0x1000], append(data, make([]byte, 512-len(data))...))
		put32(image, header(1)+virtSize, uint32(len(data)))
		got, err := open(t, image).Stub()
		want := uki.Stub{Kind: test.kind, Version: test.version, Major: test.major, Minor: test.minor}
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", test.magic, got, err)
		}
		if got.String() != string(test.kind)+" "+test.version {
			t.Errorf("%q prints as %s", test.magic, got)
		}
	}
}

func TestParseMagicRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                               `section .sdmagic: "": not of the form "#### LoaderInfo: systemd-stub VERSION ####"`,
		"#### LoaderInfo: systemd-stub 262.1":            `section .sdmagic: "#### LoaderInfo: systemd-stub 262.1": not of the form "#### LoaderInfo: systemd-stub VERSION ####"`,
		"LoaderInfo: systemd-stub 262.1 ####":            `section .sdmagic: "LoaderInfo: systemd-stub 262.1 ####": not of the form "#### LoaderInfo: systemd-stub VERSION ####"`,
		"#### LoaderInfo: systemd-stub ####":             `section .sdmagic: "#### LoaderInfo: systemd-stub ####": not of the form "#### LoaderInfo: systemd-stub VERSION ####"`,
		"#### LoaderInfo:  ####":                         `section .sdmagic: "#### LoaderInfo:  ####": not of the form "#### LoaderInfo: systemd-stub VERSION ####"`,
		"#### LoaderInfo: lanzaboote 0.4 ####":           `section .sdmagic: "lanzaboote": unknown EFI program`,
		"#### LoaderInfo: systemd-stub git ####":         `systemd-stub version "git": does not begin with a number`,
		"#### LoaderInfo: systemd-stub  ####":            `systemd-stub version "": does not begin with a number`,
		"#### LoaderInfo: systemd-stub -1 ####":          `systemd-stub version "-1": does not begin with a number`,
		"#### LoaderInfo: systemd-stub 257. ####":        `systemd-stub version "257.": no number after the dot`,
		"#### LoaderInfo: systemd-stub 257.x ####":       `systemd-stub version "257.x": no number after the dot`,
		"#### LoaderInfo: systemd-stub 9999999 ####":     `systemd-stub version "9999999": does not begin with a number`,
		"#### LoaderInfo: systemd-stub 257.9999999 ####": `systemd-stub version "257.9999999": no number after the dot`,
	} {
		_, err := uki.ParseMagic(text)
		if err == nil {
			t.Errorf("%q: no error", text)
			continue
		}
		wantError(t, err, want)
	}
}

// withoutMagic returns an image whose .sdmagic is called .x, and with the .sbat
// given, if any.
func withoutMagic(t testing.TB, sbat ...string) []byte {
	var sections []ukitest.Section
	for _, s := range sbat {
		sections = append(sections, ukitest.Section{Name: ".sbat", Data: []byte(s)})
	}
	b := build(t, "262", sections...)
	copy(b[header(1):][:8], ".x\x00\x00\x00\x00\x00\x00")
	return b
}

func TestStubFromSBAT(t *testing.T) {
	const sbat = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n"
	for line, major := range map[string]int{
		"systemd-stub,1,The systemd Developers,systemd,257,https://systemd.io/\n":                                                 257,
		"systemd-stub,1,The systemd Developers,systemd,262~rc2,https://systemd.io/\n\x00\x00":                                     262,
		"systemd,1,The systemd Developers,systemd,252,https://systemd.io/\n":                                                      252,
		"linux,1,The kernel,linux,6.12,https://kernel.org\nsystemd-stub,1,The systemd Developers,systemd,258,https://systemd.io/": 258,
	} {
		got, err := open(t, withoutMagic(t, sbat+line)).Stub()
		if err != nil || got.Major != major || got.Kind != uki.StubKindStub {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	for line, want := range map[string]string{
		"": `not systemd-stub: no .sdmagic section, and no systemd-stub line in .sbat`,
		"systemd.debian,1,Debian,systemd,257.13-1,x\n":    `not systemd-stub: no .sdmagic section, and no systemd-stub line in .sbat`,
		"systemd-boot,1,The systemd Developers,s,257,x":   `not systemd-stub: no .sdmagic section, and no systemd-stub line in .sbat`,
		"systemd-stub,1,The systemd Developers\n":         `not systemd-stub: no .sdmagic section, and no systemd-stub line in .sbat`,
		"systemd-stub,1,The systemd Developers,s,new,x":   `systemd-stub version "new": does not begin with a number`,
		"\x00systemd-stub,1,The systemd Developers,s,257": `not systemd-stub: no .sdmagic section, and no systemd-stub line in .sbat`,
	} {
		_, err := open(t, withoutMagic(t, sbat+line)).Stub()
		wantError(t, err, want)
	}
	_, err := open(t, withoutMagic(t)).Stub()
	wantError(t, err, `not systemd-stub: neither a .sdmagic nor a .sbat section`)

	big := withoutMagic(t, strings.Repeat("x", 1<<20+1))
	_, err = open(t, big).Stub()
	wantError(t, err, `section ".sbat": 1048577 bytes: more text than 1048576`)
}

func TestProfiles(t *testing.T) {
	profile := func(text string) ukitest.Section { return ukitest.Section{Name: ".profile", Data: []byte(text)} }
	linux := ukitest.Section{Name: ".linux", Data: []byte("k")}
	cmdline := func(s string) ukitest.Section { return ukitest.Section{Name: ".cmdline", Data: []byte(s)} }
	type want struct{ id, title, sections string }
	for name, test := range map[string]struct {
		sections []ukitest.Section
		base     string
		want     []want
	}{
		"none": {[]ukitest.Section{linux}, ".text .sdmagic .linux", nil},
		"one":  {[]ukitest.Section{linux, profile("ID=a\nTITLE=The a\n")}, ".text .sdmagic .linux", []want{{"a", "The a", ".profile"}}},
		"three": {[]ukitest.Section{linux, cmdline("0"), profile("ID=a\n"), profile("ID=b"), cmdline("1"), profile("TITLE=c"), cmdline("2"), linux},
			".text .sdmagic .linux .cmdline",
			[]want{{"a", "", ".profile"}, {"b", "", ".profile .cmdline"}, {"", "c", ".profile .cmdline .linux"}}},
		"duplicate IDs": {[]ukitest.Section{profile("ID=a"), profile("ID=a")}, ".text .sdmagic",
			[]want{{"a", "", ".profile"}, {"a", "", ".profile"}}},
		"quoted": {[]ukitest.Section{profile("ID='a b'\nTITLE=\"it's\"\n"), profile("ID=\"\nTITLE='a\"\n"), profile("ID=''\nTITLE=\"\"\n")}, ".text .sdmagic",
			[]want{{"a b", "it's", ".profile"}, {`"`, `'a"`, ".profile"}, {"", "", ".profile"}}},
		"odd lines": {[]ukitest.Section{profile("# ID=no\n\n  ID=a=b  \r\n=x\njunk\nTITLE=1\nTITLE=2")}, ".text .sdmagic",
			[]want{{"a=b", "2", ".profile"}}},
		"not quoted": {[]ukitest.Section{profile("ID=aba\nTITLE='a' 'b\n")}, ".text .sdmagic", []want{{"aba", "'a' 'b", ".profile"}}},
		"NUL":        {[]ukitest.Section{profile("ID=a\x00\nID=b\n")}, ".text .sdmagic", []want{{"a", "", ".profile"}}},
		"empty":      {[]ukitest.Section{{Name: ".profile"}}, ".text .sdmagic", []want{{"", "", ".profile"}}},
	} {
		t.Run(name, func(t *testing.T) {
			base, profiles, err := open(t, build(t, "262", test.sections...)).Profiles()
			if err != nil {
				t.Fatal(err)
			}
			if got := names(base); got != test.base {
				t.Errorf("base %s, want %s", got, test.base)
			}
			var got []want
			for _, p := range profiles {
				got = append(got, want{p.ID, p.Title, names(p.Sections)})
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("profiles %q, want %q", got, test.want)
			}
		})
	}

	_, _, err := open(t, build(t, "262", profile(strings.Repeat("x", 1<<20+1)))).Profiles()
	wantError(t, err, `section ".profile": 1048577 bytes: more text than 1048576`)
}

func names(sections []*uki.Section) string {
	var n []string
	for _, s := range sections {
		n = append(n, s.Name)
	}
	return strings.Join(n, " ")
}

func TestText(t *testing.T) {
	f := open(t, build(t, "262",
		ukitest.Section{Name: ".zero", VirtualSize: 1 << 22}, // none of it in the file
		ukitest.Section{Name: ".pad", Data: []byte("text"), VirtualSize: 1 << 22},
		ukitest.Section{Name: ".cut", Data: []byte("text"), VirtualSize: 2},
		ukitest.Section{Name: ".limit", Data: bytes.Repeat([]byte("x"), 1<<20)}))
	for name, want := range map[string]string{".zero": "", ".pad": "text", ".cut": "te", ".limit": strings.Repeat("x", 1<<20)} {
		if got, err := find(t, f, name).Text(); err != nil || got != want {
			t.Errorf("%s: %.20q, %v", name, got, err)
		}
	}
}

// TestTrimPadding has a real signature (testdata/authenticode/README.md).
func TestTrimPadding(t *testing.T) {
	signed, err := os.ReadFile("testdata/authenticode/signed.efi")
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(signed))
	last := append(bytes.Clone(signed), make([]byte, 200<<10)...)
	last[len(last)-1] = 1
	for name, test := range map[string]struct {
		image []byte
		want  int64
	}{
		"signed":                  {signed, size},
		"one zero byte":           {append(bytes.Clone(signed), 0), size},
		"200 KiB of zeros":        {append(bytes.Clone(signed), make([]byte, 200<<10)...), size},
		"one other byte":          {append(bytes.Clone(signed), 1), size + 1},
		"the last byte not zero":  {last, int64(len(last))},
		"not signed, zeros":       {append(testImage(t), 0, 0), 5634},
		"not signed, no trailing": {testImage(t), 5632},
	} {
		f := open(t, test.image)
		if got, err := f.TrimPadding(); err != nil || got != test.want {
			t.Errorf("%s: %d, %v; want %d", name, got, err, test.want)
		}
	}

	f, err := uki.Open(&failing{bytes.NewReader(append(bytes.Clone(signed), 0)), 4}, size+1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.TrimPadding()
	wantError(t, err, fmt.Sprintf("padding: read at %d: timeout", size))

	huge := io.NewSectionReader(sparse{signed}, 0, size+64<<20+1) // more than is looked at
	f, err = uki.Open(huge, huge.Size())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.TrimPadding(); err != nil || got != huge.Size() {
		t.Errorf("64 MiB and a byte: %d, %v", got, err)
	}
}

// sparse is a file that goes on with zero bytes behind head.
type sparse struct{ head []byte }

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(s.head)) {
		n = copy(b, s.head[off:])
	}
	clear(b[n:])
	return len(b), nil
}

// counting counts what is read.
type counting struct {
	io.ReaderAt
	bytes, reads int
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	c.bytes += len(b)
	c.reads++
	return c.ReaderAt.ReadAt(b, off)
}

// TestReadsLittle looks at an image of 300 MB.
func TestReadsLittle(t *testing.T) {
	const large = 300 << 20
	image := build(t, "262", ukitest.Section{Name: ".cmdline", Data: []byte("a")}, ukitest.Section{Name: ".profile", Data: []byte("ID=a")},
		ukitest.Section{Name: ".profile", Data: []byte("ID=b")}, ukitest.Section{Name: ".initrd", Data: []byte("i")})
	h := header(5) // .initrd, the last one, goes on for 300 MB
	put32(image, h+virtSize, large)
	put32(image, h+rawSize, large)
	put32(image, optAt+56, binary.LittleEndian.Uint32(image[h+virtAddr:])+large)
	size := int64(binary.LittleEndian.Uint32(image[h+rawOffset:])) + large

	c := &counting{ReaderAt: sparse{image}}
	f, err := uki.Open(c, size)
	if err != nil {
		t.Fatal(err)
	}
	_, profiles, err1 := f.Profiles()
	version, err2 := f.Stub()
	if err := cmp.Or(err1, err2); err != nil || len(profiles) != 2 || version.Major != 262 || find(t, f, ".initrd").Size() != large {
		t.Errorf("%d profiles, %v: %v", len(profiles), version, err)
	}
	if c.bytes >= 64<<10 || c.bytes < headers {
		t.Errorf("read %d bytes in %d reads", c.bytes, c.reads)
	}
}
