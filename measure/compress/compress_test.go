package compress_test

// What the real compressors packed is unpacked, and nothing else is; what
// follows a stream is left alone. It is not proven that the libraries unpack
// everything that the real tools can produce: there is one file for each kind.

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mkexec/mkexec/measure/compress"
)

const (
	seq60   = "c7dd0ed5b305379503f19dea73407e2aa13d23ece255ec5f3c1ebcbf9e975038" // sha256sum, testdata/README.md
	seq2500 = "2994c787c563c0bfe55411f1225ba7e4b36d8f9044f1b2a51e32d1cad0399804"

	seq60Size = 233580
)

// files are those that can be unpacked; see testdata/README.md.
var files = []struct {
	name   string
	method compress.Method
}{
	{"gzip", compress.Gzip},
	{"zstd", compress.Zstd},
	{"zstd22", compress.Zstd},
	{"zstd-bare", compress.Zstd},
	{"lz4", compress.LZ4},
	{"lz4-linked", compress.LZ4},
	{"lz4-bare", compress.LZ4},
	{"lz4-legacy", compress.LZ4Legacy},
	{"lzma", compress.LZMA},
	{"lzma-64K", compress.LZMA},
	{"xz-crc32", compress.XZ},
	{"xz-crc64", compress.XZ},
	{"xz-sha256", compress.XZ},
	{"xz-none", compress.XZ},
	{"xz-blocks", compress.XZ},
	{"xz-blocks-open", compress.XZ},
	{"xz-128M", compress.XZ},
	{"bzip2", compress.Bzip2},
	{"bzip2-two", compress.Bzip2},
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpack returns the output and what is left of the input.
func unpack(m compress.Method, r io.Reader, limit int64) (out, rest []byte, err error) {
	in := bufio.NewReader(r)
	z, err := compress.NewReader(m, in, limit)
	if err != nil {
		return nil, nil, err
	}
	if out, err = io.ReadAll(z); err != nil {
		return out, nil, err
	}
	if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return out, nil, fmt.Errorf("read behind the end: %d, %v", n, err)
	}
	rest, err = io.ReadAll(in)
	return out, rest, err
}

func sum(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

func TestRealTools(t *testing.T) {
	t.Parallel()
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			packed := read(t, f.name)
			m, ok := compress.Detect(packed)
			if m != f.method || !ok {
				t.Fatalf("detected as %q, %v", m, ok)
			}
			if m, ok := compress.Detect(append([]byte{packed[0] ^ 1}, packed[1:]...)); ok {
				t.Errorf("with the first byte changed, detected as %q", m)
			}
			if f.method == compress.LZ4Legacy {
				packed = append(packed, 0, 0, 0, 0) // its end
			}
			for _, tail := range []string{"", "\x00", "\x00\x00", "\x00\x00\x00", "\x00\x00\x00\x00", "B", "Bz", "070701", string(packed)} {
				if f.method == compress.Bzip2 && strings.HasPrefix(tail, "BZ") {
					continue // counts as the same
				}
				out, rest, err := unpack(m, bytes.NewReader(append(packed[:len(packed):len(packed)], tail...)), seq60Size)
				if err != nil || sum(out) != seq60 {
					t.Fatalf("with %.10q behind: %d bytes, %v", tail, len(out), err)
				}
				if got := strings.TrimPrefix(string(rest), strings.Repeat("\x00", len(rest)-len(tail))); got != tail {
					t.Errorf("left %q, want %q", got, tail)
				}
			}
			if out, _, err := unpack(m, iotest.OneByteReader(bytes.NewReader(packed)), 1<<62); err != nil || sum(out) != seq60 {
				t.Errorf("byte by byte: %d bytes, %v", len(out), err)
			}
		})
	}
}

func TestLegacyBlocks(t *testing.T) {
	t.Parallel()
	packed := read(t, "lz4-legacy-10M")
	out, _, err := unpack(compress.LZ4Legacy, bytes.NewReader(packed), 1<<30)
	if err != nil || sum(out) != seq2500 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	// Linux goes on with the next stream, too.
	out, _, err = unpack(compress.LZ4Legacy, bytes.NewReader(append(packed, packed...)), 1<<30)
	if err != nil || len(out) != 2*9732500 {
		t.Errorf("two streams: %d bytes, %v", len(out), err)
	}
}

func TestOneByteChanged(t *testing.T) {
	t.Parallel()
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			packed := read(t, f.name)
			for _, at := range []int{len(packed) / 4, len(packed) / 2, len(packed) * 3 / 4} {
				changed := bytes.Clone(packed)
				changed[at] ^= 4
				if out, _, err := unpack(f.method, bytes.NewReader(changed), 1<<22); err == nil && sum(out) == seq60 {
					t.Errorf("changed at %d: nothing noticed", at)
				}
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	for _, f := range files {
		if f.name == "bzip2-two" { // whose first stream is one, too
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			packed := read(t, f.name)
			for n := 0; n < len(packed); n += 1 + n/10 {
				if f.name == "lz4-legacy" && n >= 4 && n < 8 { // the size of a block is missing, or padding
					continue
				}
				out, _, err := unpack(f.method, bytes.NewReader(packed[:n]), 1<<22)
				if err == nil {
					t.Fatalf("%d bytes of %d: %d bytes, no error", n, len(packed), len(out))
				}
			}
			_, _, err := unpack(f.method, bytes.NewReader(packed[:len(packed)-1]), 1<<22)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("without the last byte: %v", err)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	for _, f := range files {
		for _, limit := range []int64{seq60Size - 1, 1000, 0} {
			out, _, err := unpack(f.method, bytes.NewReader(read(t, f.name)), limit)
			want := fmt.Sprintf("%s stream: unpacks to more than %d bytes", f.method, limit)
			if int64(len(out)) != limit || fmt.Sprint(err) != want {
				t.Errorf("%s: %d bytes\n got %v\nwant %s", f.name, len(out), err, want)
			}
		}
	}
}

// crc returns b with its CRC32 behind, as the headers of xz have it.
func crc(b string) string {
	return b + string(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(b))))
}

func TestHostile(t *testing.T) {
	t.Parallel()
	zero := strings.Repeat("\x00", 64)
	xz := func(block string) string {
		return "\xFD7zXZ\x00" + "\x00\x01" + crc("\x00\x01")[2:] + block + zero
	}
	openBlock := crc("\x02\x00\x21\x01\x08\x00\x00\x00") + "\x01\x00\x00x\x00\x00\x00\x00" + "\x83\x16\xDC\x8C" // the CRC32 of x
	for _, test := range []struct {
		name   string
		method compress.Method
		packed string
		want   string
	}{
		{"lzo", compress.LZO, string(read(t, "lzo")), "lzo stream: not supported"},
		{"no such method", "brotli", "", "brotli stream: not supported"},

		{"gzip, nothing", compress.Gzip, "", "gzip stream: unexpected EOF"},
		{"gzip, other", compress.Gzip, zero, "gzip stream: gzip: invalid header"},
		{"gzip, a method of its own", compress.Gzip, "\x1F\x8B\x07" + zero, "gzip stream: gzip: invalid header"},
		{"gzip, an endless name", compress.Gzip, "\x1F\x8B\x08\x08\x00\x00\x00\x00\x00\x03" + strings.Repeat("x", 2000), "gzip stream: gzip: invalid header"},

		{"zstd, other", compress.Zstd, zero, "zstd stream: invalid input: magic number mismatch"},
		{"zstd, 256 MiB", compress.Zstd, string(read(t, "zstd-256M")), "zstd stream: a window of 268435456 bytes: more than 134217728"},
		{"zstd, 128 MiB and an eighth", compress.Zstd, "\x28\xB5\x2F\xFD\x00\x89" + zero, "zstd stream: a window of 150994944 bytes: more than 134217728"},
		{"zstd, all in one window", compress.Zstd, "\x28\xB5\x2F\xFD\xA0\x01\x00\x00\x08" + zero, "zstd stream: a window of 134217729 bytes: more than 134217728"},
		{"zstd, 16 EiB in one window", compress.Zstd, "\x28\xB5\x2F\xFD\xE0" + strings.Repeat("\xFF", 8), "zstd stream: a window of 18446744073709551615 bytes: more than 134217728"},
		{"zstd, dictionary", compress.Zstd, "\x28\xB5\x2F\xFD\x01\x58\x05" + zero, "zstd stream: needs a dictionary"},
		{"zstd, reserved block", compress.Zstd, "\x28\xB5\x2F\xFD\x00\x58\x0F\x00\x00" + zero, "zstd stream: a block of a reserved type"},
		{"zstd, large block", compress.Zstd, "\x28\xB5\x2F\xFD\x00\x58\x01\xFF\xFF" + zero, "zstd stream: window size exceeded"},

		{"lz4, other", compress.LZ4, zero, "lz4 stream: lz4: bad magic number"},
		{"lz4, dictionary", compress.LZ4, "\x04\x22\x4D\x18\x61\x40" + zero, "lz4 stream: needs a dictionary"},
		{"lz4, content size", compress.LZ4, "\x04\x22\x4D\x18\x68\x40" + strings.Repeat("\xFF", 8) + "\x00", "lz4 stream: a content of 18446744073709551615 bytes"},
		{"lz4, large block", compress.LZ4, "\x04\x22\x4D\x18\x60\x40\x82\x01\x00\x01\x00" + zero, "lz4 stream: lz4: invalid block size"},

		{"legacy, other", compress.LZ4Legacy, zero, "lz4 legacy stream: no magic number"},
		{"legacy, frame", compress.LZ4Legacy, string(read(t, "lz4")), "lz4 legacy stream: no magic number"},
		{"legacy, large block", compress.LZ4Legacy, "\x02\x21\x4C\x18\x91\x80\x80\x00" + zero, "lz4 legacy stream: a block of 8421521 bytes: more than 8421520"},
		{"legacy, largest block", compress.LZ4Legacy, "\x02\x21\x4C\x18\x90\x80\x80\x00" + zero, "lz4 legacy stream: unexpected EOF"},
		{"legacy, bad block", compress.LZ4Legacy, "\x02\x21\x4C\x18\x04\x00\x00\x00\x0F\xFF\xFF\xFF", "lz4 legacy stream: lz4: invalid source or destination buffer too short"},
		{"legacy, part of a size", compress.LZ4Legacy, "\x02\x21\x4C\x18\x01", "lz4 legacy stream: unexpected EOF"},

		{"lzma, properties", compress.LZMA, "\xE1\x00\x00\x01\x00" + zero, "lzma stream: lzma: invalid properties code"},
		{"lzma, 256 MiB", compress.LZMA, string(read(t, "lzma-256M")), "lzma stream: a window of 268435456 bytes: more than 134217728"},
		{"lzma, 4 GiB", compress.LZMA, "\x5D" + strings.Repeat("\xFF", 12) + zero, "lzma stream: a window of 4294967295 bytes: more than 134217728"},

		{"xz, other", compress.XZ, zero, "xz stream: no magic number"},
		{"xz, check of type 2", compress.XZ, "\xFD7zXZ\x00\x00\x02" + zero, "xz stream: check type 2: not known"},
		{"xz, 256 MiB", compress.XZ, string(read(t, "xz-256M")), "xz stream: a window of 268435456 bytes: more than 134217728"},
		{"xz, 4 GiB", compress.XZ, xz(crc("\x02\x00\x21\x01\x28\x00\x00\x00")), "xz stream: a window of 4294967295 bytes: more than 134217728"},
		{"xz, more than that", compress.XZ, xz(crc("\x02\x00\x21\x01\x29\x00\x00\x00")), "xz stream: lzma: invalid dictionary size code"},
		{"xz, arm64", compress.XZ, string(read(t, "xz-arm64")), "xz stream: filter 0xa: not supported, only LZMA2 alone is"},
		{"xz, LZMA2 twice", compress.XZ, xz(crc("\x02\x01\x21\x01\x08\x21\x01\x08")), "xz stream: filter 0x21: not supported, only LZMA2 alone is"},
		{"xz, endless number", compress.XZ, xz("\x04\x40" + strings.Repeat("\xFF", 14)), "xz stream: a number without an end"},
		{"xz, no dictionary size", compress.XZ, xz(crc("\x02\x00\x21\x00\x00\x00\x00\x00")), "xz stream: block header: no dictionary size"},
		{"xz, LZMA2 chunk", compress.XZ, xz(crc("\x02\x00\x21\x01\x08\x00\x00\x00") + "\x03"), "xz stream: LZMA2 chunk of type 0x03"},
		{"xz, 256 small blocks", compress.XZ, xz(strings.Repeat(openBlock, 256)), "xz stream: xz: index length is 0; want 256"},
		{"xz, 257 small blocks", compress.XZ, xz(strings.Repeat(openBlock, 257)), "xz stream: more than 256 blocks of unknown size"},
		{"xz, endless index", compress.XZ, xz("\x00" + strings.Repeat("\xFF", 20)), "xz stream: a number without an end"},

		{"bzip2, other", compress.Bzip2, zero, "bzip2 stream: bzip2 data invalid: bad magic value"},
		{"bzip2, level", compress.Bzip2, "BZh0" + zero, "bzip2 stream: bzip2 data invalid: invalid compression level"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			out, _, err := unpack(test.method, strings.NewReader(test.packed), 1<<20)
			runtime.ReadMemStats(&after)
			if fmt.Sprint(err) != test.want {
				t.Errorf("%d bytes, error:\n got %v\nwant %s", len(out), err, test.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 512<<20 { // all that there ever was, not at a time
				t.Errorf("%d bytes allocated", n)
			}
		})
	}
}

// TestContentSize: the library does not look at it.
func TestContentSize(t *testing.T) {
	t.Parallel()
	packed := read(t, "lz4-bare")
	header := append(packed[:4:4], packed[4]|8, packed[5])
	header = binary.LittleEndian.AppendUint64(header, seq60Size+1)
	packed = append(append(header, 0), packed[7:]...)
	for i := range 256 { // the header's checksum is one of these
		packed[14] = byte(i)
		_, _, err := unpack(compress.LZ4, bytes.NewReader(packed), 1<<30)
		if err == nil {
			t.Fatalf("checksum 0x%02x: no error", i)
		}
		if strings.HasPrefix(err.Error(), "lz4 stream: unpacks to ") {
			if want := "lz4 stream: unpacks to 233580 bytes, says that it has 233581"; err.Error() != want {
				t.Error(err)
			}
			return
		}
	}
	t.Error("no checksum fits")
}

// TestReadError: the error of the input is seen, and is not taken for a bad stream.
func TestReadError(t *testing.T) {
	t.Parallel()
	errDisk := errors.New("no such luck")
	for _, f := range files {
		packed := read(t, f.name)
		for _, n := range []int{0, 3, len(packed) / 2, len(packed) - 1} {
			r := io.MultiReader(bytes.NewReader(packed[:n]), iotest.ErrReader(errDisk))
			if _, _, err := unpack(f.method, r, 1<<22); !errors.Is(err, errDisk) {
				t.Errorf("%s after %d bytes: %v", f.name, n, err)
			}
		}
	}
}

// FuzzUnpack checks that the output does not depend on how the input comes, that
// the limit is kept and that what follows the stream is left.
func FuzzUnpack(f *testing.F) {
	for _, file := range files {
		f.Add(read(f, file.name))
	}
	for _, name := range []string{"lzo", "xz-arm64", "xz-256M"} {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		m, ok := compress.Detect(packed)
		if !ok {
			return
		}
		const limit = 1 << 20
		out, rest, err := unpack(m, bytes.NewReader(packed), limit)
		if len(out) > limit {
			t.Fatalf("%d bytes, the limit is %d", len(out), limit)
		}
		slow, slowRest, slowErr := unpack(m, iotest.HalfReader(bytes.NewReader(packed)), limit)
		if !bytes.Equal(out, slow) || !bytes.Equal(rest, slowRest) || (err == nil) != (slowErr == nil) {
			t.Fatalf("%d bytes, %d left, %v; in pieces: %d, %d, %v", len(out), len(rest), err, len(slow), len(slowRest), slowErr)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), string(m)+" stream: ") {
				t.Fatal(err)
			}
			return
		}
		if m == compress.Bzip2 || m == compress.LZ4Legacy {
			return // have no end of their own
		}
		alone, rest, err := unpack(m, bytes.NewReader(packed[:len(packed)-len(rest)]), limit)
		if !bytes.Equal(out, alone) || len(rest) > 0 || err != nil {
			t.Fatalf("%d bytes; with nothing behind: %d, %d left, %v", len(out), len(alone), len(rest), err)
		}
	})
}
