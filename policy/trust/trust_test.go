package trust_test

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy/trust"
	"github.com/mkexec/mkexec/policy/trust/efivar"
)

const (
	recorded = "testdata/recorded"
	real     = "testdata/real"
)

func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func image(t testing.TB, name string) []byte { return read(t, recorded, name+".efi") }

func open(t testing.TB, b []byte) *uki.File {
	t.Helper()
	f, err := uki.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func certificate(t testing.TB, elem ...string) *x509.Certificate {
	t.Helper()
	certs, err := trust.ParseCertificates(read(t, elem...))
	if err != nil || len(certs) != 1 {
		t.Fatalf("%d certificates: %v", len(certs), err)
	}
	return certs[0]
}

// trusting returns options that trust certificates of testdata/recorded.
func trusting(t testing.TB, names ...string) trust.Options {
	t.Helper()
	var opts trust.Options
	for _, n := range names {
		opts.Anchors = append(opts.Anchors, certificate(t, recorded, n+".pem"))
	}
	return opts
}

// database concatenates signature lists of testdata/recorded.
func database(t testing.TB, names ...string) efivar.Database {
	t.Helper()
	var all []byte
	for _, n := range names {
		all = append(all, read(t, recorded, n+".esl")...)
	}
	d, err := efivar.ParseDatabase(all)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func check(t testing.TB, b []byte, store *trust.Store, opts trust.Options) *trust.Verdict {
	t.Helper()
	v, err := trust.Check(open(t, b), store, opts)
	if err != nil {
		t.Fatal(err)
	}
	if v.Trusted != (v.Reason == "") || v.Trusted != (v.Anchor != nil) || v.Trusted != (v.Detail == "") {
		t.Errorf("contradicts itself: %+v", v)
	}
	return v
}

func wantError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if b, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	return b
}

type efiHash = efivar.Hash

// A mapFS is a file system by path.
type mapFS map[string][]byte

func (m mapFS) fs() fstest.MapFS {
	f := fstest.MapFS{}
	for name, b := range m {
		f[name] = &fstest.MapFile{Data: b}
	}
	return f
}

var emptyDir = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
