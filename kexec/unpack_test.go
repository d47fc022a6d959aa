package kexec

// Packed kernels are unpacked, and nothing else. What Linux packs is put
// together here, from the header of a real EFI zboot image and streams by the
// real compressors. A whole image of Debian's was unpacked by hand; see
// testdata/README.md. No kernel that was unpacked here has been started.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

const (
	zbootKernel     = "64b5df01b39724087d4085022c4d3b98a56e2a4908a8bb9981ff83af2e205a7a" // testdata/README.md
	zbootKernelSize = 16384
	zbootPayload    = 0x1000 // where zboot puts it
)

func zbootStream(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/zboot", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// zboot returns an EFI zboot image, as Linux's build puts it together
// (drivers/firmware/efi/libstub, zboot.lds): the headers, the payload, with its
// size behind it if it is not gzip, what unpacks it, and data.
func zboot(t testing.TB, method string, payload []byte) []byte {
	t.Helper()
	b := make([]byte, zbootPayload)
	copy(b, realKernel(t, "loong64-zboot").data[0])
	binary.LittleEndian.PutUint32(b[8:], zbootPayload)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	clear(b[24:56])
	copy(b[24:], method)
	b = append(b, payload...)
	if method != "gzip" {
		b = binary.LittleEndian.AppendUint32(b, zbootKernelSize)
	}
	b = append(b, noise(1000, 1)...)
	b = append(b, make([]byte, (512-len(b)%512)%512)...)
	text := uint32(len(b) - zbootPayload) // of .text
	b = append(b, make([]byte, 512)...)   // .data
	for at, v := range map[int]uint32{
		0x90: uint32(len(b)) + 512, 0x100: text, 0x108: text, 0x12C: zbootPayload + text, 0x134: zbootPayload + text,
	} {
		binary.LittleEndian.PutUint32(b[at:], v)
	}
	return b
}

// zboots are the names of the methods, and of files in testdata/zboot.
var zboots = map[string]string{
	"gzip": "gzip", "zstd22": "zstd", "zstd": "zstd", "lz4": "lz4", "lzma": "lzma", "xzkern": "xz", "xz": "xz",
}

// unpackAll returns the unpacked kernel, nil if it is not packed.
func unpackAll(linux measure.Content, arch string) (what string, kernel []byte, err error) {
	what, r, err := unpackKernel(linux, arch)
	if err != nil || r == nil {
		return what, nil, err
	}
	kernel, err = io.ReadAll(r)
	return what, kernel, err
}

func checkZbootKernel(t *testing.T, kernel []byte, err error) {
	t.Helper()
	sum := sha256.Sum256(kernel)
	if err != nil || hex.EncodeToString(sum[:]) != zbootKernel {
		t.Fatalf("%d bytes, %v", len(kernel), err)
	}
	if err := checkKernel(measure.Bytes(kernel), "quiet", "loong64"); err != nil {
		t.Error(err)
	}
}

func TestUnpackZboot(t *testing.T) {
	t.Parallel()
	for method, file := range zboots {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			stream := zbootStream(t, file)
			image := zboot(t, method, stream)
			what, kernel, err := unpackAll(measure.Bytes(image), "loong64")
			if what != "EFI zboot, "+method {
				t.Errorf("it is %q", what)
			}
			checkZbootKernel(t, kernel, err)
			if err := checkKernel(measure.Bytes(image), "", "loong64"); fmt.Sprint(err) != "kernel: it is packed (EFI zboot)" {
				t.Errorf("loaded as it is: %v", err)
			}
			// A signature behind it does not matter.
			_, kernel, err = unpackAll(measure.Bytes(append(image[:len(image):len(image)], noise(2000, 2)...)), "loong64")
			checkZbootKernel(t, kernel, err)

			changed := bytes.Clone(image)
			changed[zbootPayload+len(stream)/2] ^= 4
			if _, kernel, err := unpackAll(measure.Bytes(changed), "loong64"); err == nil && fmt.Sprintf("%x", sha256.Sum256(kernel)) == zbootKernel {
				t.Error("with one byte changed: nothing noticed")
			}
		})
	}
}

func TestUnpackStream(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"gzip", "zstd", "lz4", "lzma", "xz", "bzip2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := zbootStream(t, name)
			for _, arch := range []string{"arm64", "riscv64", "loong64"} {
				for _, padding := range []int{0, 1, 4, 511, 70000} {
					what, kernel, err := unpackAll(measure.Bytes(append(stream[:len(stream):len(stream)], make([]byte, padding)...)), arch)
					if !strings.HasPrefix(what, name) { // lz4 legacy
						t.Errorf("it is %q", what)
					}
					checkZbootKernel(t, kernel, err)
				}
			}
			tail := append(make([]byte, 4), 1)
			_, _, err := unpackAll(measure.Bytes(append(stream[:len(stream):len(stream)], tail...)), "arm64")
			if err == nil || !strings.HasSuffix(err.Error(), " stream: something follows it that is not padding") {
				t.Error(err)
			}
			if _, _, err := unpackAll(measure.Bytes(stream[:len(stream)-1]), "arm64"); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("without the last byte: %v", err)
			}
		})
	}
}

func TestUnpackNot(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, arch string
		kernel     measure.Content
	}{
		{"bzImage", "amd64", measure.Bytes(bzImage(0x1000))},
		{"gzip", "amd64", measure.Bytes(zbootStream(t, "gzip"))},
		{"zboot", "amd64", measure.Bytes(zboot(t, "gzip", zbootStream(t, "gzip")))},
		{"gzip", "ppc64le", measure.Bytes(zbootStream(t, "gzip"))},
		{"Debian's", "arm64", realKernel(t, "arm64")},
		{"Debian's", "riscv64", realKernel(t, "riscv64")},
		{"Debian's, unpacked", "loong64", realKernel(t, "loong64")},
		{"UKI", "arm64", measure.Bytes(build(t, "257.1", ukitest.Section{Name: ".linux", Data: zbootStream(t, "gzip")}))},
		{"empty", "arm64", measure.Bytes(nil)},
		{"a part of the header", "arm64", measure.Bytes(zboot(t, "gzip", nil)[:63])},
	} {
		if what, r, err := unpackKernel(test.kernel, test.arch); what != "" || r != nil || err != nil {
			t.Errorf("%s, %s: %q, %v, %v", test.arch, test.name, what, r, err)
		}
	}
}

func TestUnpackHostile(t *testing.T) {
	t.Parallel()
	gzip, zstd := zbootStream(t, "gzip"), zbootStream(t, "zstd")
	u32 := func(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }
	change := func(b []byte, at int, s string) []byte {
		b = bytes.Clone(b)
		copy(b[at:], s)
		return b
	}
	image := zboot(t, "gzip", gzip)
	zstdImage := zboot(t, "zstd", zstd)
	size := func(n uint32) []byte { return change(zstdImage, zbootPayload+len(zstd), u32(n)) }
	for _, test := range []struct {
		name, arch string
		kernel     []byte
		want       string
	}{
		{"for another", "arm64", image, "kernel: EFI zboot: it is for loong64, this machine is arm64"},
		{"machine changed", "loong64", change(image, 0x44, "\x64\x50"), "kernel: EFI zboot: it is for riscv64, this machine is loong64"},
		{"no PE file", "loong64", change(image, 0x40, "XE"), "kernel: EFI zboot: not a PE file: no PE signature at offset 64"},
		{"header alone", "loong64", image[:64], "kernel: EFI zboot: PE header: truncated: wants 24 bytes at 64, the file has 64"},
		{"cut", "loong64", image[:len(image)-513], "kernel: EFI zboot: section \".text\": "},
		{"unknown method", "loong64", change(image, 24, "gzap"), "kernel: EFI zboot: compression \"gzap\": unknown"},
		{"bzip2", "loong64", zboot(t, "bzip2", zbootStream(t, "bzip2")), "kernel: EFI zboot: compression \"bzip2\": unknown"},
		{"no method", "loong64", change(image, 24, "\x00"), "kernel: EFI zboot: compression \"\": unknown"},
		{"long method", "loong64", change(image, 24, strings.Repeat("g", 32)), "kernel: EFI zboot: compression \"" + strings.Repeat("g", 32) + "\": unknown"},
		{"lzo", "loong64", zboot(t, "lzo", zbootStream(t, "lzo")), "kernel: EFI zboot: lzo stream: not supported"},
		{"another method", "loong64", change(image, 24, "xz\x00\x00"), "kernel: EFI zboot: the payload is not of the compression \"xz\""},
		{"the other lz4", "loong64", zboot(t, "lz4", []byte("\x04\x22\x4D\x18\x60\x40\x82\x00\x00\x00\x00")), "kernel: EFI zboot: the payload is not of the compression \"lz4\""},
		{"payload in the header", "loong64", change(image, 8, u32(63)), "kernel: EFI zboot: payload of 7639 bytes at 63: outside the file (13312 bytes)"},
		{"payload elsewhere", "loong64", change(image, 8, u32(zbootPayload+1)), "kernel: EFI zboot: the payload is not of the compression \"gzip\""},
		{"payload outside", "loong64", change(image, 8, u32(uint32(len(image)-len(gzip)+1))), "kernel: EFI zboot: payload of 7639 bytes at 5674: outside the file (13312 bytes)"},
		{"payload far outside", "loong64", change(image, 8, u32(0xFFFFFFFF)+u32(0xFFFFFFFF)), "kernel: EFI zboot: payload of 4294967295 bytes at 4294967295: outside the file (13312 bytes)"},
		{"no payload", "loong64", change(image, 12, u32(0)), "kernel: EFI zboot: payload of 0 bytes at 4096: outside the file (13312 bytes)"},
		{"no room for the size", "loong64", change(zstdImage, 12, u32(uint32(len(zstdImage)-zbootPayload))), fmt.Sprintf("kernel: EFI zboot: payload of %d bytes at 4096: outside the file (%d bytes)", len(zstdImage)-zbootPayload, len(zstdImage))},
		{"one byte less", "loong64", change(change(zstdImage, 12, u32(uint32(len(zstd)-1))), zbootPayload+len(zstd)-1, u32(zbootKernelSize)), "kernel: EFI zboot: zstd stream: unexpected EOF"},
		{"one byte more", "loong64", change(change(zstdImage, 12, u32(uint32(len(zstd)+1))), zbootPayload+len(zstd), "\x00"+u32(zbootKernelSize)), "kernel: EFI zboot: something follows the stream in the payload"},
		{"size one less", "loong64", size(zbootKernelSize - 1), "kernel: EFI zboot: zstd stream: unpacks to more than 16383 bytes"},
		{"size one more", "loong64", size(zbootKernelSize + 1), "kernel: EFI zboot: unpacks to 16384 bytes, says that it has 16385"},
		{"size 512 MiB", "loong64", size(maxKernel), "kernel: EFI zboot: unpacks to 16384 bytes, says that it has 536870912"},
		{"size one more than that", "loong64", size(maxKernel + 1), "kernel: EFI zboot: a kernel of 536870913 bytes: more than 536870912"},
		{"gzip's own size", "loong64", change(image, zbootPayload+len(gzip)-4, u32(zbootKernelSize+1)), "kernel: EFI zboot: gzip stream: gzip: invalid checksum"},
		{"truncated", "loong64", change(zstdImage, zbootPayload+len(zstd)-7, "\xF7"), "kernel: EFI zboot: zstd stream: "},
		{"lzo alone", "arm64", zbootStream(t, "lzo"), "kernel: lzo stream: not supported"},
		{"gzip, bad", "arm64", change(gzip, 2, "\x07"), "kernel: gzip stream: gzip: invalid header"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := unpackAll(measure.Bytes(test.kernel), test.arch)
			if got := fmt.Sprint(err); got != test.want && (!strings.HasSuffix(test.want, ": ") || !strings.HasPrefix(got, test.want)) {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
		})
	}
}

// TestUnpackTwice: what is unpacked must be a kernel.
func TestUnpackTwice(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		kernel []byte
		want   string
	}{
		{"zboot", zboot(t, "gzip", zbootStream(t, "gzip")), "kernel: it is packed (EFI zboot)"},
		{"gzip", zbootStream(t, "gzip"), "kernel: it is packed (gzip)"},
		{"lzo", zbootStream(t, "lzo"), "kernel: it is packed (lzo)"},
		{"UKI", build(t, "257.1", ukitest.Section{Name: ".linux", Data: make([]byte, 100)}), "kernel: it is for amd64, this machine is loong64"},
		{"text", bytes.Repeat([]byte("x"), 1000), "kernel: neither a LoongArch EFI kernel (MZ, 0x818223cd at offset 56) nor an ELF file"},
		{"nothing", nil, "kernel: neither a LoongArch EFI kernel (MZ, 0x818223cd at offset 56) nor an ELF file"},
	} {
		packed := append([]byte("\x02\x21\x4C\x18"), lz4Literals(test.kernel)...)
		what, kernel, err := unpackAll(measure.Bytes(packed), "loong64")
		if what != "lz4 legacy" || !bytes.Equal(kernel, test.kernel) || err != nil {
			t.Fatalf("%s: %q, %d bytes, %v", test.name, what, len(kernel), err)
		}
		if err := checkKernel(measure.Bytes(kernel), "", "loong64"); fmt.Sprint(err) != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.name, err, test.want)
		}
	}
}

// lz4Literals returns b as one block of literals (lz4, doc/lz4_Block_format.md)
// with its size before it.
func lz4Literals(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	block := []byte{0xF0}
	n := len(b) - 15
	for ; n >= 255; n -= 255 {
		block = append(block, 255)
	}
	block = append(append(block, byte(n)), b...)
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(block))), block...)
}

// TestUnpackReadError: an error of the disk is seen as one.
func TestUnpackReadError(t *testing.T) {
	t.Parallel()
	for _, image := range [][]byte{zboot(t, "gzip", zbootStream(t, "gzip")), zbootStream(t, "xz")} {
		for at := 0; at < len(image); at += 600 {
			_, _, err := unpackAll(&brokenContent{image, at}, "loong64")
			if !errors.Is(err, errFake) && at < len(zbootStream(t, "xz")) {
				t.Errorf("at %d of %d: %v", at, len(image), err)
			}
		}
	}
}

// A brokenContent cannot be read beyond good bytes.
type brokenContent struct {
	b    []byte
	good int
}

func (c *brokenContent) Size() int64 { return int64(len(c.b)) }

func (c *brokenContent) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > int64(c.good) && int64(c.good) < c.Size() {
		n := copy(b, c.b[min(off, int64(c.good)):c.good])
		return n, errFake
	}
	return bytes.NewReader(c.b).ReadAt(b, off)
}

// FuzzUnpackKernel checks that a kernel is unpacked to the size that its header
// says, whatever pieces it is read in, and that an error names the kernel.
func FuzzUnpackKernel(f *testing.F) {
	for method, file := range zboots {
		f.Add(zboot(f, method, zbootStream(f, file)))
		f.Add(zbootStream(f, file))
	}
	f.Add(zboot(f, "lzo", zbootStream(f, "lzo")))
	f.Fuzz(func(t *testing.T, image []byte) {
		what, r, err := unpackKernel(measure.Bytes(image), "loong64")
		if err != nil || r == nil {
			if err != nil && (!strings.HasPrefix(err.Error(), "kernel: ") || r != nil || what != "") {
				t.Fatal(what, r, err)
			}
			return
		}
		const limit = 1 << 20
		kernel, err := io.ReadAll(io.LimitReader(r, limit))
		if err != nil && !strings.HasPrefix(err.Error(), "kernel: ") {
			t.Fatal(err)
		}
		if len(kernel) == limit {
			return
		}
		if err == nil && strings.HasPrefix(what, "EFI zboot") {
			at := binary.LittleEndian.Uint32(image[8:]) + binary.LittleEndian.Uint32(image[12:])
			if strings.HasSuffix(what, "gzip") {
				at -= 4
			}
			if want := binary.LittleEndian.Uint32(image[at:]); int(want) != len(kernel) {
				t.Fatalf("%d bytes, the header says %d", len(kernel), want)
			}
		}
		_, r, _ = unpackKernel(measure.Bytes(image), "loong64")
		again, againErr := io.ReadAll(iotest.OneByteReader(r))
		if !bytes.Equal(kernel, again) || fmt.Sprint(err) != fmt.Sprint(againErr) {
			t.Fatalf("%d bytes, %v; byte by byte %d, %v", len(kernel), err, len(again), againErr)
		}
		if checkKernel(measure.Bytes(kernel), "", "loong64") == nil {
			if what, r, err := unpackKernel(measure.Bytes(kernel), "loong64"); what != "" || r != nil || err != nil {
				t.Fatalf("a kernel, and packed in %s: %v", what, err)
			}
		}
	})
}
