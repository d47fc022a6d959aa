package efivar_test

// Lists that efitools made and real databases (../testdata/README.md). The
// variables around them are tested in policy/trust.

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/policy/trust"
	"github.com/mkexec/mkexec/policy/trust/efivar"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseDatabase(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][3]int{ // certificates, images, TBS
		"recorded/self.x509.esl":   {1, 0, 0},
		"recorded/self.image.esl":  {0, 1, 0},
		"recorded/self.tbs256.esl": {0, 0, 1},
		"recorded/self.tbs384.esl": {0, 0, 1},
		"recorded/self.tbs512.esl": {0, 0, 1},
		"recorded/mixed.esl":       {2, 1, 1},
		"real/db.ms.esl":           {2, 0, 0},
		"real/dbx.ms.esl":          {0, 1, 0},
		"real/db.snakeoil.esl":     {1, 0, 0},
		"real/dbx-2020-10-12.esl":  {3, 183, 0},
	} {
		d, err := efivar.ParseDatabase(read(t, name))
		if got := [3]int{len(d.Certificates), len(d.Images), len(d.TBS)}; err != nil || got != want || d.Ignored != nil || d.Unknown != nil {
			t.Errorf("%s: %v, want %v; %v %v %v", name, got, want, d.Ignored, d.Unknown, err)
		}
	}
	if d, err := efivar.ParseDatabase(nil); err != nil || len(d.Images) != 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestHasTBS(t *testing.T) {
	t.Parallel()
	certs, err := trust.ReadCertificates(os.DirFS("../testdata/recorded"), "self.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{"tbs256", "tbs384", "tbs512"} {
		d, err := efivar.ParseDatabase(read(t, "recorded/self."+list+".esl"))
		if err != nil {
			t.Fatal(err)
		}
		tbs := bytes.Clone(certs[0].RawTBSCertificate)
		if !d.HasTBS(tbs) {
			t.Errorf("%s: not found", list)
		}
		tbs[len(tbs)-1] ^= 1
		if d.HasTBS(tbs) || (efivar.Database{}).HasTBS(tbs) {
			t.Errorf("%s: found", list)
		}
	}
}

func TestHasImage(t *testing.T) {
	t.Parallel()
	b := read(t, "real/dbx-2020-10-12.esl")
	d, err := efivar.ParseDatabase(b)
	if err != nil {
		t.Fatal(err)
	}
	digest := bytes.Clone(b[len(b)-32:])
	if !d.HasImage(crypto.SHA256, digest) || d.HasImage(crypto.SHA512, digest) || (efivar.Database{}).HasImage(crypto.SHA256, digest) {
		t.Error("last digest")
	}
	digest[0] ^= 1
	if d.HasImage(crypto.SHA256, digest) {
		t.Error("found")
	}
}

// list returns a list with signatures of the given size, all of one byte.
func list(guid [16]byte, header, size uint32, body int) []byte {
	b := append([]byte(nil), guid[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(28+body))
	b = binary.LittleEndian.AppendUint32(b, header)
	b = binary.LittleEndian.AppendUint32(b, size)
	return append(b, bytes.Repeat([]byte{7}, body)...)
}

var (
	guidSHA256 = [16]byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	guidX509   = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	// EFI_CERT_RSA2048_GUID, which nothing looks at
	guidRSA2048 = [16]byte{0xe8, 0x66, 0x57, 0x3c, 0x9c, 0x26, 0x34, 0x4e, 0xaa, 0x14, 0xed, 0x77, 0x6e, 0x85, 0xb3, 0xb6}
)

func TestOtherTypes(t *testing.T) {
	t.Parallel()
	unknown := guidSHA256
	unknown[15] ^= 1
	d, err := efivar.ParseDatabase(slices.Concat(list(guidRSA2048, 0, 272, 544), list(guidSHA256, 0, 48, 0), list(unknown, 0, 20, 20)))
	if err != nil || !slices.Equal(d.Ignored, []string{"RSA2048"}) || len(d.Unknown) != 1 || len(d.Images) != 0 {
		t.Fatalf("%+v, %v", d, err)
	}
	if got := d.Unknown[0].String(); got != "c1c41626-504c-4092-aca9-41f936934329" {
		t.Error(got)
	}
}

func TestBadLists(t *testing.T) {
	t.Parallel()
	good := list(guidSHA256, 0, 48, 96)
	change := func(at int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	for name, test := range map[string]struct {
		list []byte
		want string
	}{
		"one byte":           {[]byte{1}, "signature list at 0: truncated: 1 bytes are left, a header has 28"},
		"header cut off":     {good[:27], "signature list at 0: truncated: 27 bytes are left, a header has 28"},
		"body cut off":       {good[:100], "signature list at 0: size 124: not from 28 to the 100 that are left"},
		"bytes behind":       {append(bytes.Clone(good), 0), "signature list at 124: truncated: 1 bytes are left"},
		"second list":        {slices.Concat(good, good[:60]), "signature list at 124: size 124: not from 28 to the 60 that are left"},
		"size 0":             {change(16, 0), "signature list at 0: size 0: not from 28"},
		"size 27":            {change(16, 27), "signature list at 0: size 27: not from 28"},
		"size huge":          {change(16, 0xffffffff), "signature list at 0: size 4294967295: not from 28"},
		"header":             {change(20, 4), "signature list at 0: header of 4 bytes: unknown"},
		"header huge":        {change(20, 0xffffffff), "signature list at 0: header of 4294967295 bytes: unknown"},
		"signature size 0":   {change(24, 0), "signature list at 0: type SHA256: signatures of 0 bytes"},
		"signature size 47":  {change(24, 47), "signature list at 0: type SHA256: signatures of 47 bytes"},
		"signature size 64":  {change(24, 64), "signature list at 0: type SHA256: signatures of 64 bytes"},
		"no whole number":    {list(guidSHA256, 0, 48, 95), "signature list at 0: type SHA256: 95 bytes are not a multiple of 48"},
		"owner alone":        {list(guidX509, 0, 16, 32), "signature list at 0: type X509: signatures of 16 bytes"},
		"certificate cut":    {list(guidX509, 0, 100, 90), "signature list at 0: type X509: 90 bytes are not a multiple of 100"},
		"unknown, owner cut": {list([16]byte{1}, 0, 15, 15), "signature list at 0: type 00000001-0000-0000-0000-000000000000: signatures of 15 bytes"},
	} {
		d, err := efivar.ParseDatabase(test.list)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
		if d.Certificates != nil || d.Images != nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func FuzzSignatureLists(f *testing.F) {
	for _, name := range []string{"recorded/mixed.esl", "recorded/self.tbs384.esl", "recorded/self.tbs512.esl", "real/db.ms.esl", "real/dbx.ms.esl", "real/dbx-2020-10-12.esl"} {
		f.Add(read(f, name))
	}
	f.Add(list(guidRSA2048, 0, 272, 544))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := efivar.ParseDatabase(b)
		if err != nil {
			return
		}
		// nothing comes from outside of b, and nothing is kept of it twice
		size := 0
		for _, c := range d.Certificates {
			size += len(c)
			if !bytes.Contains(b, c) {
				t.Fatalf("certificate %x", c)
			}
		}
		for _, m := range []map[efivar.Hash]bool{d.Images, d.TBS} {
			for h := range m {
				size += len(h.Digest)
				if len(h.Digest) != h.Hash.Size() || !bytes.Contains(b, []byte(h.Digest)) {
					t.Fatalf("digest %x", h.Digest)
				}
			}
		}
		if size > len(b) {
			t.Fatalf("%d bytes of %d", size, len(b))
		}
		// lists can be put one behind the other
		twice, err := efivar.ParseDatabase(slices.Concat(b, b))
		if err != nil || len(twice.Certificates) != 2*len(d.Certificates) || len(twice.Images) != len(d.Images) || len(twice.TBS) != len(d.TBS) {
			t.Fatalf("twice: %+v, %v", twice, err)
		}
	})
}
