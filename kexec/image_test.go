package kexec

// Images, a kernel and helpers for the tests of this package. They prove
// nothing by themselves: the images pass for real ones, but do not boot.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// bzImage returns a file of size bytes, at least 0x268, with the header that
// Linux looks at for amd64.
func bzImage(size int) []byte {
	b := noise(size, 1)
	clear(b[:0x268])
	putBzImage(b)
	return b
}

func putBzImage(b []byte) {
	binary.LittleEndian.PutUint16(b[0x1FE:], 0xAA55)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x020F)
	b[0x211] = 1                                      // loaded high
	binary.LittleEndian.PutUint16(b[0x236:], 0x3F)    // 64 bit, above 4 GiB and more
	binary.LittleEndian.PutUint32(b[0x238:], 2047)    // cmdline_size
	binary.LittleEndian.PutUint32(b[0x1F4:], 0x12345) // not looked at
}

// testKernel returns a kernel that passes checkKernel on this machine.
func testKernel(t testing.TB, size int) []byte {
	b := bzImage(size)
	switch runtime.GOARCH {
	case "amd64":
	case "arm64":
		b[16] = 1 // image_size
		copy(b[56:], "ARM\x64")
	case "riscv64":
		b[16], b[32] = 1, 2 // image_size, version
		copy(b[56:], "RSC\x05")
	default:
		t.Fatal("no test kernel for " + runtime.GOARCH)
	}
	return b
}

// noise returns size bytes that are not zero and differ by seed.
func noise(size int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(1 + r.IntN(255))
	}
	return b
}

func build(t testing.TB, version string, sections ...ukitest.Section) []byte {
	t.Helper()
	b, err := ukitest.Build(ukitest.Minimal(version), sections...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sectionHeader returns the header, in file, of the n-th section of that name.
func sectionHeader(t testing.TB, file []byte, name string, n int) []byte {
	t.Helper()
	f, err := uki.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	pe := int(binary.LittleEndian.Uint32(file[0x3C:]))
	table := pe + 24 + int(binary.LittleEndian.Uint16(file[pe+20:]))
	for i, s := range f.Sections {
		if s.Name == name {
			if n == 0 {
				return file[table+40*i:][:40]
			}
			n--
		}
	}
	t.Fatalf("no section %s", name)
	return nil
}

func readAll(t testing.TB, c measure.Content) []byte {
	t.Helper()
	b, err := measure.ReadAll(c, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func concat(t testing.TB, pieces []measure.Content) []byte {
	t.Helper()
	var all []byte
	for _, c := range pieces {
		all = append(all, readAll(t, c)...)
	}
	return all
}

// readFile returns all of a memory file, nil for none.
func readFile(t testing.TB, f *os.File) []byte {
	t.Helper()
	if f == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// checkPCRs compares both ways.
func checkPCRs(t testing.TB, want, got measure.PCRs) {
	t.Helper()
	for _, d := range differences(want, got) {
		t.Error(d)
	}
}

func predict(t testing.TB, image *measure.Image) *measure.Prediction {
	t.Helper()
	p, err := measure.Predict(image, measure.Options{
		Base: measure.Zero(measure.Banks(), measure.StubPCRs()...), InitrdDigest: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A fakeKernel records what is asked of it, and fails where it is told to.
type fakeKernel struct {
	calls         []string
	count         map[string]int   // by call
	fail          map[string]error // by call, or by call and number: "load", "load 2"
	before        func()           // called before each call; may not return
	deaf          bool             // Load says yes and does nothing
	loaded        bool
	frozen        bool
	linux, initrd []byte
	cmdline       string
}

func (k *fakeKernel) call(name string) error {
	if k.before != nil {
		k.before()
	}
	k.calls = append(k.calls, name)
	if k.count == nil {
		k.count = map[string]int{}
	}
	k.count[name]++
	if err := k.fail[fmt.Sprint(name, " ", k.count[name])]; err != nil {
		return err
	}
	if k.frozen && (name == "load" || name == "unload") {
		return errFrozen
	}
	return k.fail[name]
}

func (k *fakeKernel) Load(linux, initrd *os.File, cmdline string) error {
	if err := k.call("load"); err != nil || k.deaf {
		return err
	}
	var err error
	if k.linux, err = os.ReadFile(procPath(linux)); err != nil {
		return err
	}
	k.initrd = nil
	if initrd != nil {
		if k.initrd, err = os.ReadFile(procPath(initrd)); err != nil {
			return err
		}
	}
	k.loaded, k.cmdline = true, cmdline
	return nil
}

func (k *fakeKernel) Loaded() (bool, error) {
	err := k.call("loaded")
	return k.loaded && err == nil, err
}

func (k *fakeKernel) Unload() error {
	if err := k.call("unload"); err != nil {
		return err
	}
	k.loaded = false
	return nil
}

func (k *fakeKernel) Freeze() error {
	err := k.call("freeze")
	k.frozen = k.frozen || err == nil
	return err
}

func (k *fakeKernel) Exec() error    { return k.call("exec") }
func (k *fakeKernel) Restart() error { return k.call("restart") }

func (k *fakeKernel) check(t testing.TB, calls ...string) {
	t.Helper()
	if !slices.Equal(k.calls, calls) {
		t.Errorf("the kernel was asked to %v, want %v", k.calls, calls)
	}
	k.calls = nil
}

var (
	errFake   = errors.New("told to fail")
	errFrozen = errors.New("frozen")
)

func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// countFiles counts the open files of this process. The garbage collector,
// which would close files that are lost, is stopped until the test ends.
func countFiles(t testing.TB) int {
	t.Helper()
	old := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(old) })
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
