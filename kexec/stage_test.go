package kexec

// What is staged is the image, byte for byte, sealed, and laid out as the stub's
// rules say; an image that changes meanwhile is refused or staged as one of its
// states. The rules themselves are what package measure/stub's golden tests
// prove; here they are taken from the original file.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
	"golang.org/x/sys/unix"
)

// kexecOptions is what NewPlan makes of the options.
func kexecOptions(profile string) stub.Options {
	return stub.Options{Via: stub.ViaKexec, Profile: profile}
}

type stageCase struct {
	name, profile string
	image         []byte
	linux         []byte // that was put in
	initrd        []byte // nil: only compared with what the rules say
}

// stageCases are images of all shapes.
func stageCases(t testing.TB) []stageCase {
	linux := testKernel(t, 5003)
	section := func(name string, data []byte) ukitest.Section { return ukitest.Section{Name: name, Data: data} }
	text := func(name, data string) ukitest.Section { return section(name, []byte(data)) }
	initrd, ucode := noise(3001, 2), noise(1026, 3)
	pad := func(b []byte) []byte { return append(slices.Clone(b), make([]byte, (4-len(b)%4)%4)...) }

	var cases []stageCase
	for _, version := range []string{"252.33-1", "256.7-1", "257.13-1", "262.1-1"} {
		cases = append(cases, stageCase{version, "", build(t, version,
			text(".osrel", "ID=test\nVERSION=1\n"), text(".cmdline", "quiet  splash "), text(".uname", "6.12"),
			section(".ucode", ucode), text(".pcrsig", `{"sha256":[]}`), text(".pcrpkey", "-----BEGIN PUBLIC KEY-----\n"),
			section(".initrd", initrd), section(".linux", linux),
			text(".profile", "ID=one\n"),
		), linux, nil})
	}
	var unusual []stageCase
	add := func(name string, want []byte, sections ...ukitest.Section) {
		unusual = append(unusual, stageCase{name, "", build(t, "262.1-1", append(sections, section(".linux", linux))...), linux, want})
	}
	add("no initrd", []byte{})
	add("initrd alone is not padded", initrd, section(".initrd", initrd))
	add("initrd and ucode are padded", slices.Concat(pad(ucode), pad(initrd)), section(".initrd", initrd), section(".ucode", ucode))
	add("one byte", []byte{7}, section(".initrd", []byte{7}))
	add("large", noise(3<<20+5, 4), section(".initrd", noise(3<<20+5, 4)))
	add("zero fill", append(slices.Clone(initrd), make([]byte, 5000)...), ukitest.Section{Name: ".initrd", Data: initrd, VirtualSize: 8001})
	add("zero fill in the middle", slices.Concat(pad(append(slices.Clone(ucode), make([]byte, 4001)...)), pad(initrd)),
		ukitest.Section{Name: ".ucode", Data: ucode, VirtualSize: 1026 + 4001}, section(".initrd", initrd))
	add("nothing but zero fill", make([]byte, 1003), ukitest.Section{Name: ".initrd", VirtualSize: 1003})
	add("raw size without padding", initrd[:3000], ukitest.Section{Name: ".initrd", Data: initrd, VirtualSize: 3000})

	// bytes behind the last section belong to no section, but to the file
	tail := unusual[1]
	tail.name, tail.image = "tail", append(slices.Clone(tail.image), noise(777, 5)...)
	// a section without bytes may claim to be anywhere: inside another, say, or nowhere
	for name, offset := range map[string]uint32{"empty section inside the kernel": 0, "empty section outside the file": 0xFFFFFF00} {
		c := stageCase{name, "", build(t, "262.1-1", section(".linux", linux),
			ukitest.Section{Name: ".initrd", VirtualSize: 1003}, section(".osrel", []byte("ID=test\n"))), linux, nil}
		if offset == 0 {
			offset = binary.LittleEndian.Uint32(sectionHeader(t, c.image, ".linux", 0)[20:]) + 1000
		}
		h := sectionHeader(t, c.image, ".initrd", 0)
		if binary.LittleEndian.Uint32(h[16:]) != 0 {
			t.Fatal("the section has bytes in the file")
		}
		binary.LittleEndian.PutUint32(h[20:], offset)
		unusual = append(unusual, c)
	}
	cases = append(cases, append(unusual, tail)...)

	profiles := build(t, "262.1-1",
		text(".cmdline", "base"), section(".initrd", initrd), section(".linux", linux),
		text(".profile", "ID=main\n"),
		text(".profile", "ID=own\n"), text(".cmdline", "own"), section(".initrd", noise(2222, 6)), section(".ucode", ucode),
		text(".profile", "ID=other\n"), section(".linux", testKernel(t, 4444)), text(".osrel", "ID=other\n"),
	)
	for _, p := range []string{"", "0", "main", "own", "2"} {
		want := linux
		if p == "2" {
			want = testKernel(t, 4444)
		}
		cases = append(cases, stageCase{"profile " + p, p, profiles, want, nil})
	}
	return cases
}

// viewOf puts the staged UKI together again.
func viewOf(s *staged, size int64) *view {
	return &view{size: size, rest: s.rest, extents: s.layout(s.boot)}
}

func TestStageUKI(t *testing.T) {
	for _, test := range stageCases(t) {
		t.Run(test.name, func(t *testing.T) {
			opts := kexecOptions(test.profile)
			original, err := load(measure.Bytes(test.image), opts)
			if err != nil {
				t.Fatal(err)
			}
			var copied atomic.Int64
			s, err := stage(Source{UKI: measure.Bytes(test.image)}, opts, func(n int64) { copied.Add(n) })
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if copied.Load() != int64(len(test.image)) {
				t.Errorf("%d bytes were copied, the image has %d", copied.Load(), len(test.image))
			}

			if got := readFile(t, s.linux); !bytes.Equal(got, test.linux) {
				t.Errorf("kernel: %d bytes, not the %d of .linux", len(got), len(test.linux))
			}
			want := concat(t, original.Initrd)
			if test.initrd != nil && !bytes.Equal(want, test.initrd) {
				t.Errorf("by the rules the initrd is %d bytes, not the %d expected", len(want), len(test.initrd))
			}
			if got := readFile(t, s.initrd); !bytes.Equal(got, want) {
				t.Errorf("initrd: %d bytes, not the %d of the rules", len(got), len(want))
			}
			if s.boot.Cmdline != original.Cmdline || s.boot.Profile != original.Profile {
				t.Errorf("command line %q, profile %d", s.boot.Cmdline, s.boot.Profile)
			}

			v := viewOf(s, int64(len(test.image)))
			checkReads(t, v, test.image)
			checkSealed(t, s.linux, s.initrd, s.rest)

			a, b := predict(t, &original.Image), predict(t, &s.boot.Image)
			if i := measure.FirstDifference(a.Events, b.Events); i >= 0 {
				t.Errorf("event %d differs", i)
			}
			pa, _ := a.At("")
			pb, _ := b.At("")
			checkPCRs(t, pa, pb)
			if a.InitrdDigest.String() != b.InitrdDigest.String() {
				t.Error("the digest of the initrd differs")
			}
			if got := measure.SHA256.Sum(want); len(want) > 0 && got.String() != b.InitrdDigest.String() {
				t.Error("the digest is not that of the staged initrd")
			}
		})
	}
}

// TestStageOneByteChanged is the sibling of TestStageUKI: no byte of a measured
// section can change without the prediction, and none elsewhere with it.
func TestStageOneByteChanged(t *testing.T) {
	image := planImage(t)
	of := func(image []byte) measure.PCRs {
		s, err := stage(Source{UKI: measure.Bytes(image)}, kexecOptions("1"), func(int64) {})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		pcrs, err := predict(t, &s.boot.Image).At("")
		if err != nil {
			t.Fatal(err)
		}
		return pcrs
	}
	before := of(image)
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, section := range f.Sections {
		n := seen[section.Name]
		seen[section.Name]++
		measured := slices.Contains([]string{".osrel", ".linux", ".initrd"}, section.Name) ||
			slices.Contains([]string{".cmdline", ".profile"}, section.Name) && n == 1
		if section.Name == ".sdmagic" {
			continue // it tells which rules hold
		}
		off, size := section.FileRange()
		changed := slices.Clone(image)
		at := off + size - 1
		if section.Name == ".profile" {
			at -= 2 // a letter of the ID
		}
		changed[at] ^= 1
		if moved := len(differences(before, of(changed))) > 0; moved != measured {
			t.Errorf("section %s (%d): the prediction changes: %v", section.Name, n, moved)
		}
	}
	// the padding of the file
	if moved := len(differences(before, of(append(slices.Clone(image), 1)))) > 0; moved {
		t.Error("a byte behind the sections changes the prediction")
	}
}

// checkReads reads c whole and at random places and lengths, past the end too.
func checkReads(t *testing.T, c measure.Content, want []byte) {
	t.Helper()
	if c.Size() != int64(len(want)) {
		t.Fatalf("size %d, want %d", c.Size(), len(want))
	}
	if !bytes.Equal(readAll(t, c), want) {
		t.Error("read whole, it is not the original")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		off := r.IntN(len(want) + 100)
		b := make([]byte, r.IntN(1+min(len(want), 20000)/(1+r.IntN(20)))+r.IntN(3))
		n, err := c.ReadAt(b, int64(off))
		rest := want[min(off, len(want)):]
		if n != min(len(b), len(rest)) || !bytes.Equal(b[:n], rest[:n]) {
			t.Fatalf("read of %d at %d: %d bytes, or others", len(b), off, n)
		}
		if (n < len(b)) != (err == io.EOF) || n == len(b) && err != nil {
			t.Fatalf("read of %d at %d of %d: %d, %v", len(b), off, len(want), n, err)
		}
	}
}

// checkSealed tries to change files in every way.
func checkSealed(t *testing.T, files ...*os.File) {
	t.Helper()
	for _, f := range files {
		if f == nil {
			continue
		}
		before := readFile(t, f)
		seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		if err != nil || seals&0xF != unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL {
			t.Errorf("%s: seals 0x%x, %v", f.Name(), seals, err)
		}
		for what, try := range map[string]func() error{
			"write":  func() error { _, err := f.WriteAt([]byte{1}, 0); return err },
			"append": func() error { _, err := f.WriteAt([]byte{1}, int64(len(before))); return err },
			"shrink": func() error { return f.Truncate(int64(len(before)) / 2) },
			"grow":   func() error { return f.Truncate(int64(len(before)) + 1) },
			"punch": func() error {
				return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
			},
			"map": func() error {
				_, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				return err
			},
			"write through /proc": func() error {
				g, err := os.OpenFile(procPath(f), os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer g.Close()
				_, err = g.Write([]byte{1})
				return err
			},
			"seal more": func() error {
				_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)
				return err
			},
		} {
			if err := try(); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: %s: %v", f.Name(), what, err)
			}
		}
		if !bytes.Equal(readFile(t, f), before) {
			t.Errorf("%s: changed", f.Name())
		}
	}
}

// A turncoat is a file that is replaced by another at a given read.
type turncoat struct {
	before, after []byte
	at, reads     int // the read from which on it is the other; what it counts
}

func (c *turncoat) Size() int64 { return int64(len(c.before)) }
func (c *turncoat) ReadAt(b []byte, off int64) (int, error) {
	c.reads++
	now := c.before
	if c.at > 0 && c.reads >= c.at {
		now = c.after
	}
	return bytes.NewReader(now).ReadAt(b, off)
}

func TestSourceChanges(t *testing.T) {
	sections := func(linux, ucode int, profile string, seed uint64) []ukitest.Section {
		k := testKernel(t, linux)
		copy(k[0x300:], noise(100, seed))
		return []ukitest.Section{
			{Name: ".osrel", Data: []byte("ID=test\n" + profile)},
			{Name: ".cmdline", Data: []byte("seed=" + fmt.Sprint(seed))},
			{Name: ".initrd", Data: noise(3001, seed)},
			{Name: ".linux", Data: k},
			{Name: ".ucode", Data: noise(ucode, seed)},
		}
	}
	base := build(t, "262.1-1", sections(5001, 1001, "", 10)...)
	swapped := sections(5001, 1001, "", 11)
	swapped[2], swapped[3] = swapped[3], swapped[2]
	hole := sections(5001, 1001, "", 16) // as long in memory, not in the file
	hole[4] = ukitest.Section{Name: ".ucode", VirtualSize: 1001}
	filled := func(size uint32) []byte { // the last piece goes on in memory
		s := sections(5001, 1001, "", 17)
		s[0].Name = ".uname"
		s[2].VirtualSize = size
		return build(t, "262.1-1", s...)
	}
	for _, test := range []struct {
		name    string
		other   []byte
		changed bool // at some read, the change has to be noticed
	}{
		{"other zero fill", filled(8000), true},
		{"same places", build(t, "262.1-1", sections(5001, 1001, "", 12)...), false},
		{"other kernel size", build(t, "262.1-1", sections(4999, 1001, "", 13)...), true},
		{"other initrd size", build(t, "262.1-1", sections(5001, 1002, "", 14)...), true},
		{"other pieces", build(t, "262.1-1", sections(5001, 1001, "VERSION=1\n", 15)...), true},
		{"other order", build(t, "262.1-1", swapped...), true},
		{"a hole", append(build(t, "262.1-1", hole...), make([]byte, 1024)...), true},
		{"other rules", build(t, "256.1-1", sections(5001, 1001, "", 10)...), true},
		{"no image", make([]byte, len(base)), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := base
			if test.name == "other zero fill" {
				base = filled(5000)
			}
			count := &turncoat{before: base, after: test.other}
			s, err := stage(Source{UKI: count}, kexecOptions(""), func(int64) {})
			if err != nil {
				t.Fatal(err)
			}
			s.close()
			noticed, staged := 0, 0
			for at := 1; at <= count.reads+1; at++ {
				files := countFiles(t)
				s, err := stage(Source{UKI: &turncoat{before: base, after: test.other, at: at}}, kexecOptions(""), func(int64) {})
				if errors.Is(err, ErrChanged) {
					noticed++
				}
				if err != nil {
					if n := countFiles(t); n != files {
						t.Errorf("read %d: %d files are open, %d were", at, n, files)
					}
					continue
				}
				staged++
				// whatever it is: one thing
				snapshot := readAll(t, viewOf(s, int64(len(base))))
				again, err := load(measure.Bytes(snapshot), kexecOptions(""))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(readFile(t, s.linux), readAll(t, again.Kernel)) {
					t.Errorf("read %d: the kernel is not what the rules make of the staged image", at)
				}
				if !bytes.Equal(readFile(t, s.initrd), concat(t, again.Initrd)) {
					t.Errorf("read %d: the initrd is not what the rules make of the staged image", at)
				}
				if s.boot.Cmdline != again.Cmdline {
					t.Errorf("read %d: command line %q", at, s.boot.Cmdline)
				}
				if i := measure.FirstDifference(predict(t, &s.boot.Image).Events, predict(t, &again.Image).Events); i >= 0 {
					t.Errorf("read %d: event %d is not that of the staged image", at, i)
				}
				checkSealed(t, s.linux, s.initrd, s.rest)
				s.close()
			}
			if (noticed > 0) != test.changed || staged == 0 {
				t.Errorf("ErrChanged %d times, staged %d times", noticed, staged)
			}
		})
	}
}

// A short file says that it is longer than it is, from a read on.
type short struct {
	*bytes.Reader
	at, reads int
	err       error // instead of io.EOF
}

func (s *short) ReadAt(b []byte, off int64) (int, error) {
	s.reads++
	if s.reads == s.at && len(b) > 0 {
		n, _ := s.Reader.ReadAt(b[:len(b)/2], off)
		return n, s.err
	}
	return s.Reader.ReadAt(b, off)
}

// errIrrelevant: the first look at an image, which decides nothing, got over it.
var errIrrelevant = errors.New("staged all the same")

func TestShortReads(t *testing.T) {
	image := planImage(t)
	linux, initrd := testKernel(t, 5001), noise(1<<20+1, 1)
	for name, stageWith := range map[string]func(at int, err error) (reads int, _ error){
		"UKI": func(at int, fail error) (int, error) {
			src := &short{bytes.NewReader(image), at, 0, fail}
			s, err := stage(Source{UKI: src}, kexecOptions(""), func(int64) {})
			if err == nil {
				defer s.close()
				if !bytes.Equal(readAll(t, viewOf(s, int64(len(image)))), image) || len(readFile(t, s.linux)) != len(linux) {
					t.Errorf("read %d: something else is staged", at)
				}
				if at > 0 {
					err = errIrrelevant
				}
			}
			return src.reads, err
		},
		"kernel": func(at int, fail error) (int, error) {
			src := &short{bytes.NewReader(linux), at, 0, fail}
			s, err := stage(Source{Linux: src, Initrds: []measure.Content{measure.Bytes(initrd)}}, kexecOptions(""), func(int64) {})
			if err == nil {
				s.close()
			}
			return src.reads, err
		},
		"initrd": func(at int, fail error) (int, error) {
			src := &short{bytes.NewReader(initrd), at, 0, fail}
			s, err := stage(Source{Linux: measure.Bytes(linux), Initrds: []measure.Content{measure.Bytes(initrd), src}}, kexecOptions(""), func(int64) {})
			if err == nil {
				s.close()
			}
			return src.reads, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			reads, err := stageWith(0, nil)
			if err != nil || reads == 0 {
				t.Fatal(reads, err)
			}
			for at := 1; at <= reads; at++ {
				for _, fail := range []error{nil, io.EOF, errFake} {
					files := countFiles(t)
					_, err := stageWith(at, fail)
					want := fail
					if fail == nil || fail == io.EOF {
						want = io.ErrUnexpectedEOF
					}
					if !errors.Is(err, want) && !(fail == nil && err != nil) && err != errIrrelevant {
						t.Errorf("read %d with %v: %v", at, fail, err)
					}
					if n := countFiles(t); n != files {
						t.Errorf("read %d with %v: %d files are open, %d were", at, fail, n, files)
					}
				}
			}
		})
	}
}

// TestTruncated cuts the image while its size stays what it was.
func TestTruncated(t *testing.T) {
	image := planImage(t)
	for _, size := range []int{0, 1, 63, 64, 100, 0xc00, len(image) / 2, len(image) - 1} {
		for at := 1; at < 10; at++ {
			files := countFiles(t)
			s, err := stage(Source{UKI: &turncoat{before: image, after: image[:size], at: at}}, kexecOptions(""), func(int64) {})
			if err == nil {
				t.Errorf("%d bytes from read %d on: staged", size, at)
				s.close()
			}
			if n := countFiles(t); n != files {
				t.Errorf("%d files are open, %d were", n, files)
			}
		}
	}
}

func TestStageBare(t *testing.T) {
	linux := testKernel(t, 5003)
	one, two, three := noise(1001, 1), noise(3<<20+2, 2), noise(4, 3)
	zeros := func(n int) []byte { return make([]byte, n) }
	for _, test := range []struct {
		name    string
		initrds [][]byte
		want    []byte
		cmdline string
	}{
		{"no initrd", nil, nil, ""},
		{"one initrd", [][]byte{one}, one, "root=/dev/x  quiet"},
		{"three initrds", [][]byte{one, two, three}, slices.Concat(one, zeros(3), two, zeros(2), three), " a "},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := Source{Linux: measure.Bytes(linux), Cmdline: test.cmdline}
			for _, b := range test.initrds {
				src.Initrds = append(src.Initrds, measure.Bytes(b))
			}
			s, err := stage(src, kexecOptions(""), func(int64) {})
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if !bytes.Equal(readFile(t, s.linux), linux) {
				t.Error("the kernel is not the original")
			}
			if got := readFile(t, s.initrd); !bytes.Equal(got, test.want) || (got == nil) != (test.want == nil) {
				t.Errorf("initrd: %d bytes, want %d", len(got), len(test.want))
			}
			checkSealed(t, s.linux, s.initrd)
			original, err := stub.Bare(src.Linux, src.Initrds, src.Cmdline)
			if err != nil {
				t.Fatal(err)
			}
			a, b := predict(t, &original.Image), predict(t, &s.boot.Image)
			if i := measure.FirstDifference(a.Events, b.Events); i >= 0 {
				t.Errorf("event %d differs", i)
			}
			if a.InitrdDigest.String() != b.InitrdDigest.String() || s.boot.Cmdline != original.Cmdline {
				t.Error("the initrd or command line differs")
			}
			want := 2
			if test.initrds != nil {
				want += 2
			}
			if test.cmdline != "" {
				want += 2
			}
			if len(b.Events) != want {
				t.Errorf("%d events, want %d", len(b.Events), want)
			}
		})
	}
	for name, src := range map[string]Source{
		"kernel: empty":                              {Linux: measure.Bytes(nil)},
		"initrd 2: empty":                            {Linux: measure.Bytes(linux), Initrds: []measure.Content{measure.Bytes(one), measure.Bytes(nil)}},
		"command line: NUL at offset 1":              {Linux: measure.Bytes(linux), Cmdline: "a\x00b"},
		"command line: not valid UTF-8":              {Linux: measure.Bytes(linux), Cmdline: "\xff"},
		"kernel: read at 2501: told to fail":         {Linux: &short{bytes.NewReader(linux), 1, 0, errFake}},
		"kernel: read at 0: unexpected EOF":          {Linux: &turncoat{before: linux, after: nil, at: 1}},
		"initrd, piece 1: read at 500: told to fail": {Linux: measure.Bytes(linux), Initrds: []measure.Content{&short{bytes.NewReader(one), 1, 0, errFake}}},
	} {
		files := countFiles(t)
		if _, err := stage(src, kexecOptions(""), func(int64) {}); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("want %s: %v", name, err)
		}
		if n := countFiles(t); n != files {
			t.Errorf("%s: %d files are open, %d were", name, n, files)
		}
	}
}
