package uki_test

// These tests compare Authenticode digests with those of systemd-pcrlock and
// osslsigncode (testdata/authenticode/README.md). They do not prove that a
// signature is valid, nor what firmware measures into PCR 4.

import (
	"bytes"
	"crypto"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

const goldenDir = "testdata/authenticode"

var hashes = map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

// goldenImages returns the images in testdata by name.
func goldenImages(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*.efi"))
	if err != nil || len(paths) != 6 {
		t.Fatalf("%d golden images: %v", len(paths), err)
	}
	images := map[string][]byte{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		images[strings.TrimSuffix(filepath.Base(p), ".efi")] = b
	}
	return images
}

func digest(t testing.TB, image []byte, hash crypto.Hash) string {
	t.Helper()
	h := hash.New()
	if err := open(t, image).Authenticode(h); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestAuthenticodePcrlock(t *testing.T) {
	for name, image := range goldenImages(t) {
		b, err := os.ReadFile(filepath.Join(goldenDir, name+".pcrlock"))
		if err != nil {
			t.Fatal(err)
		}
		var lock struct {
			Records []struct {
				PCR     int
				Digests []struct{ HashAlg, Digest string }
			}
		}
		if err := json.Unmarshal(b, &lock); err != nil {
			t.Fatal(err)
		}
		if len(lock.Records) != 1 || lock.Records[0].PCR != 4 || len(lock.Records[0].Digests) != len(hashes) {
			t.Fatalf("%s: %+v", name, lock)
		}
		for _, d := range lock.Records[0].Digests {
			if got := digest(t, image, hashes[d.HashAlg]); got != d.Digest {
				t.Errorf("%s: %s %s, systemd-pcrlock has %s", name, d.HashAlg, got, d.Digest)
			}
		}
	}
}

func TestAuthenticodeOsslsigncode(t *testing.T) {
	images := goldenImages(t)
	b, err := os.ReadFile(filepath.Join(goldenDir, "osslsigncode.txt"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if got := digest(t, images[f[0]], hashes[f[1]]); got != f[2] {
			t.Errorf("%s: %s %s, osslsigncode has %s", f[0], f[1], got, f[2])
		}
		n++
	}
	if n != 2*len(images) {
		t.Errorf("%d digests for %d images", n, len(images))
	}
}

// TestAuthenticodeTampered changes each byte of the headers and every eighth
// behind them. Only the checksum, the directory entry of the certificate table
// and that table do not count.
func TestAuthenticodeTampered(t *testing.T) {
	const checksum, entry = optAt + 64, optAt + 112 + 4*8
	for name, image := range goldenImages(t) {
		want := digest(t, image, crypto.SHA256)
		certificates := len(image)
		if f := open(t, image); f.Signed() {
			certificates = int(binary.LittleEndian.Uint32(image[entry:]))
		}
		same, different := 0, 0
		for i := range image {
			if i >= headers && i%8 != 0 {
				continue
			}
			tampered := bytes.Clone(image)
			tampered[i] ^= 1
			f, err := uki.Open(bytes.NewReader(tampered), int64(len(tampered)))
			if err != nil {
				continue // a header that counts
			}
			h := crypto.SHA256.New()
			if err := f.Authenticode(h); err != nil {
				continue
			}
			left := i >= checksum && i < checksum+4 || i >= entry && i < entry+8 || i >= certificates
			if got := hex.EncodeToString(h.Sum(nil)); (got == want) != left {
				t.Fatalf("%s: byte %d changed: digest the same: %v", name, i, got == want)
			}
			if left {
				same++
			} else {
				different++
			}
		}
		if same < 4 || different < 2500 {
			t.Errorf("%s: %d changes do not count, %d do", name, same, different)
		}
	}
}

// TestAuthenticodeOrder has the sections in the table in another order than in
// the file: hashed is by the order in the file. Only the headers change.
func TestAuthenticodeOrder(t *testing.T) {
	image := testImage(t)
	swapHeaders(image, 2, 3)
	h := crypto.SHA256.New()
	covered := bytes.Clone(image)
	h.Write(covered[:optAt+64])
	h.Write(covered[optAt+68 : optAt+144])
	h.Write(covered[optAt+152:])
	if got, want := digest(t, image, crypto.SHA256), hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestAuthenticodeNoDirectory has no directory entry for certificates to leave out.
func TestAuthenticodeNoDirectory(t *testing.T) {
	image := testImage(t)
	put32(image, optAt+108, 4)
	h := crypto.SHA256.New()
	h.Write(image[:optAt+64])
	h.Write(image[optAt+68:])
	if got, want := digest(t, image, crypto.SHA256), hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAuthenticodeRefuses(t *testing.T) {
	signed := goldenImages(t)["signed"] // certificates: 1576 bytes at 5632
	gap := build(t, "262", ukitest.Section{Name: ".a", Data: make([]byte, 600)}, ukitest.Section{Name: ".b", Data: []byte("b")})
	put32(gap, header(2)+rawSize, 512)
	for name, test := range map[string]struct {
		change func(b []byte) []byte
		want   string
	}{
		"gap behind the headers": {func(b []byte) []byte { put32(b, optAt+60, 0xa00); return b },
			`section ".text": starts at 3072, but what is before it ends at 2560`},
		"gap between sections": {func([]byte) []byte { return gap },
			`section ".b": starts at 5120, but what is before it ends at 4608`},
		"certificates not at the end": {func(b []byte) []byte { return append(b, make([]byte, 8)...) },
			`certificate table: ends at 7208, not at the end of the file (7216 bytes)`},
		"certificates inside a section": {func(b []byte) []byte { put32(b, optAt+144, 5624); put32(b, optAt+148, 1584); return b },
			`certificate table: starts at 5624, inside the sections (5632)`},
		"certificates from the headers on": {func(b []byte) []byte { put32(b, optAt+144, 8); put32(b, optAt+148, 7200); return b },
			`certificate table: starts at 8, inside the sections (5632)`},
		"certificates not aligned": {func(b []byte) []byte { put32(b, optAt+144, 5636); put32(b, optAt+148, 1572); return b },
			`certificate table: starts at 5636, not at a multiple of 8`},
	} {
		t.Run(name, func(t *testing.T) {
			b := test.change(bytes.Clone(signed))
			wantError(t, open(t, b).Authenticode(crypto.SHA256.New()), test.want)
		})
	}
}

func TestAuthenticodeReadErrors(t *testing.T) {
	image := testImage(t)
	f, err := uki.Open(&failing{bytes.NewReader(image), 4}, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	err = f.Authenticode(crypto.SHA256.New())
	wantError(t, err, "read at 3072: timeout")
	if !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("the cause of %v is lost", err)
	}

	f, err = uki.Open(bytes.NewReader(image[:5000]), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	err = f.Authenticode(crypto.SHA256.New())
	wantError(t, err, "read at 5000: unexpected EOF")
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the cause of %v is lost", err)
	}
}

func FuzzOpen(f *testing.F) {
	seeds := [][]byte{testImage(f), ukitest.Minimal("257.13-1"), withoutMagic(f, "systemd,1,The systemd Developers,systemd,252,x\n"),
		build(f, "262", ukitest.Section{Name: ".profile", Data: []byte("ID=a\n")}, ukitest.Section{Name: ".linux", Data: []byte("k"), VirtualSize: 5000})}
	for _, image := range goldenImages(f) {
		seeds = append(seeds, image, image[:len(image)/2], image[:0x200], image[:len(image)-1])
	}
	if len(seeds) < 20 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add(s)
	}
	buf := make([]byte, 64<<10)
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := uki.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, s := range img.Sections {
			// the beginning, the border of what the file backs, the end
			_, backed := s.FileRange()
			for _, off := range []int64{0, backed - 1, backed, s.Size() - 1} {
				if off < 0 || off >= s.Size() {
					continue
				}
				want := min(int64(len(buf)), s.Size()-off)
				if n, err := s.ReadAt(buf[:want], off); int64(n) != want || err != nil {
					t.Fatalf("section %q: %d of %d bytes at %d: %v", s.Name, n, want, off, err)
				}
			}
			if s.Size()-backed > 64<<20 {
				t.Fatalf("section %q: %d bytes, %d of them in the file", s.Name, s.Size(), backed)
			}
			img.Overlapping(s)
			s.Text()
		}
		base, profiles, err := img.Profiles()
		if err == nil {
			n := len(base)
			for _, p := range profiles {
				n += len(p.Sections)
			}
			if n != len(img.Sections) {
				t.Fatalf("%d of %d sections are in the base or a profile", n, len(img.Sections))
			}
		}
		img.Stub()
		img.Authenticode(crypto.SHA256.New())
		if n, err := img.TrimPadding(); err != nil || n > int64(len(b)) {
			t.Fatalf("TrimPadding: %d, %v", n, err)
		}
	})
}
