package trust_test

// Revocation and databases, with signature lists that efitools made. What
// firmware really does with them is not proved here, but in the virtual machine.

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
	"github.com/mkexec/mkexec/policy/trust"
	"github.com/mkexec/mkexec/policy/trust/efivar"
	"github.com/mkexec/mkexec/policy/trust/sbat"
)

func TestRevoked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, image    string
		db, dbx        []string
		mok, mokx      []string
		reason         trust.Reason
		anchor, detail string
	}{
		{name: "nothing trusted", image: "self", reason: trust.ReasonUntrusted,
			detail: `signed by "CN=mkexec test self": neither that certificate nor an issuer of it is trusted here`},
		{name: "db", image: "self", db: []string{"self.x509"}, anchor: `"CN=mkexec test self" in db`},
		{name: "MokList", image: "self", mok: []string{"self.x509"}, anchor: `"CN=mkexec test self" in MokListRT`},
		{name: "db and MokList", image: "self", db: []string{"ca.x509"}, mok: []string{"self.x509"}, anchor: `"CN=mkexec test self" in MokListRT`},
		{name: "unrelated dbx", image: "self", db: []string{"self.x509"}, dbx: []string{"ca.x509", "leaf.tbs256", "unsigned.image"}, reason: trust.ReasonRevokedHash,
			detail: "the image's digest (SHA-256) is in dbx"}, // signing changes nothing in the digest
		{name: "unrelated certificates", image: "self", db: []string{"self.x509"}, dbx: []string{"ca.x509", "leaf.tbs256"}, anchor: `"CN=mkexec test self" in db`},
		{name: "image in dbx", image: "self", db: []string{"self.x509"}, dbx: []string{"self.image"}, reason: trust.ReasonRevokedHash,
			detail: "the image's digest (SHA-256) is in dbx"},
		{name: "image in MokListX", image: "self", db: []string{"self.x509"}, mokx: []string{"self.image"}, reason: trust.ReasonRevokedHash,
			detail: "the image's digest (SHA-256) is in MokListXRT"},
		{name: "unsigned image in dbx", image: "unsigned", dbx: []string{"unsigned.image"}, reason: trust.ReasonRevokedHash,
			detail: "the image's digest (SHA-256) is in dbx"},
		{name: "tampered image not in dbx", image: "tampered", db: []string{"self.x509"}, dbx: []string{"self.image"}, reason: trust.ReasonDigestMismatch},
		{name: "signer in dbx", image: "self", db: []string{"self.x509"}, dbx: []string{"self.x509"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test self": revoked: "CN=mkexec test self" in dbx`},
		{name: "signer in MokListX", image: "self", db: []string{"self.x509"}, mokx: []string{"self.x509"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test self": revoked: "CN=mkexec test self" in MokListXRT`},
		{name: "signer in dbx, not trusted", image: "self", dbx: []string{"self.x509"}, reason: trust.ReasonRevokedCertificate},
		{name: "signer by TBS SHA-256", image: "self", db: []string{"self.x509"}, dbx: []string{"self.tbs256"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test self": revoked: "CN=mkexec test self" in dbx`},
		{name: "signer by TBS SHA-384", image: "self", db: []string{"self.x509"}, dbx: []string{"self.tbs384"}, reason: trust.ReasonRevokedCertificate},
		{name: "signer by TBS SHA-512", image: "self", db: []string{"self.x509"}, mokx: []string{"self.tbs512"}, reason: trust.ReasonRevokedCertificate},
		{name: "anchor by TBS", image: "direct", db: []string{"ca.x509"}, dbx: []string{"ca.tbs256"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test direct": revoked: "CN=mkexec test ca" in dbx`},
		{name: "intermediate by TBS", image: "chain", db: []string{"ca.x509"}, dbx: []string{"inter.tbs256"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test leaf": revoked: "CN=mkexec test inter" in dbx`},
		{name: "intermediate by TBS above the anchor", image: "chain", db: []string{"leaf.x509"}, dbx: []string{"inter.tbs256"}, reason: trust.ReasonRevokedCertificate},
		{name: "intermediate", image: "chain", db: []string{"ca.x509"}, dbx: []string{"inter.x509"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test leaf": revoked: "CN=mkexec test inter" in dbx`},
		{name: "intermediate that is not in the signature", image: "nointer", db: []string{"leaf.x509"}, dbx: []string{"inter.x509"}, reason: trust.ReasonRevokedCertificate},
		{name: "issuer of the anchor", image: "direct", db: []string{"direct.x509"}, dbx: []string{"ca.x509"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test direct": revoked: "CN=mkexec test ca" in dbx`},
		{name: "issuer of the issuer", image: "chain", db: []string{"leaf.x509"}, dbx: []string{"ca.x509"}, reason: trust.ReasonRevokedCertificate},
		{name: "weak and revoked", image: "sha1", dbx: []string{"self.tbs256"}, reason: trust.ReasonRevokedCertificate},
		{name: "one of two signatures, first", image: "dual", db: []string{"ca.x509"}, dbx: []string{"self.x509"}, reason: trust.ReasonRevokedCertificate,
			detail: `signed by "CN=mkexec test self": revoked: "CN=mkexec test self" in dbx`},
		{name: "one of two signatures, last", image: "dual", db: []string{"self.x509"}, dbx: []string{"direct.tbs256"}, reason: trust.ReasonRevokedCertificate},
		{name: "image in db", image: "self", db: []string{"self.image"}, anchor: "image digest in db"},
		{name: "image in MokList", image: "self", mok: []string{"self.image"}, anchor: "image digest in MokListRT"},
		{name: "unsigned image in db", image: "unsigned", db: []string{"unsigned.image"}, anchor: "image digest in db"},
		{name: "image in db, forged signature", image: "forged", db: []string{"self.image"}, anchor: "image digest in db"},
		{name: "image in db, tampered with", image: "tampered", db: []string{"self.image"}, reason: trust.ReasonDigestMismatch},
		{name: "image in db and dbx", image: "unsigned", db: []string{"unsigned.image"}, dbx: []string{"unsigned.image"}, reason: trust.ReasonRevokedHash},
		{name: "image in db, signer in dbx", image: "self", db: []string{"self.image"}, dbx: []string{"self.x509"}, reason: trust.ReasonRevokedCertificate},
		{name: "shim and SHA-384", image: "sha384", mok: []string{"self.x509"}, reason: trust.ReasonUntrusted},
		{name: "firmware and SHA-384", image: "sha384", db: []string{"self.x509"}, anchor: `"CN=mkexec test self" in db`},
		{name: "many lists", image: "self", db: []string{"mixed"}, dbx: []string{"leaf.x509", "inter.tbs256"}, anchor: "image digest in db"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store := &trust.Store{DB: database(t, test.db...), DBX: database(t, test.dbx...),
				MokList: database(t, test.mok...), MokListX: database(t, test.mokx...)}
			v := check(t, image(t, test.image), store, trust.Options{})
			if v.Reason != test.reason {
				t.Errorf("%q (%s), want %q", v.Reason, v.Detail, test.reason)
			}
			if v.Trusted && v.Anchor.String() != test.anchor {
				t.Errorf("anchor %v, want %s", v.Anchor, test.anchor)
			}
			if test.detail != "" && v.Detail != test.detail {
				t.Errorf("%s\nwant %s", v.Detail, test.detail)
			}
		})
	}
}

// TestRevokedOneByte changes the last byte of a list: nothing is revoked then.
func TestRevokedOneByte(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"self.image", "self.tbs256", "self.tbs384", "self.tbs512"} {
		d := database(t, list)
		store := &trust.Store{DB: database(t, "self.x509"), DBX: d}
		if v := check(t, image(t, "self"), store, trust.Options{}); v.Trusted {
			t.Errorf("%s: trusted", list)
		}
		for _, m := range []map[efiHash]bool{d.Images, d.TBS} {
			for h := range m {
				delete(m, h)
				b := []byte(h.Digest)
				b[len(b)-1] ^= 1
				m[efiHash{Hash: h.Hash, Digest: string(b)}] = true
			}
		}
		if v := check(t, image(t, "self"), store, trust.Options{}); !v.Trusted {
			t.Errorf("%s, one byte changed: %s", list, v.Detail)
		}
	}
}

// TestRevokedOtherHashes has digests of the image that only dbx asks for.
func TestRevokedOtherHashes(t *testing.T) {
	t.Parallel()
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		h := hash.New()
		if err := open(t, image(t, "self")).Authenticode(h); err != nil {
			t.Fatal(err)
		}
		store := &trust.Store{DBX: efivar.Database{Images: map[efiHash]bool{{Hash: hash, Digest: string(h.Sum(nil))}: true}}}
		v := check(t, image(t, "self"), store, trusting(t, "self"))
		if v.Reason != trust.ReasonRevokedHash || v.Detail != fmt.Sprintf("the image's digest (%v) is in dbx", hash) {
			t.Errorf("%v: %+v", hash, v)
		}
		// SHA-1 vouches for nothing, and shim knows SHA-256 only
		store.DB, store.DBX = store.DBX, efivar.Database{}
		if v := check(t, image(t, "unsigned"), store, trust.Options{}); v.Trusted != (hash != crypto.SHA1) {
			t.Errorf("%v in db: %+v", hash, v)
		}
		store.MokList, store.DB = store.DB, efivar.Database{}
		if v := check(t, image(t, "unsigned"), store, trust.Options{}); v.Trusted != (hash == crypto.SHA256) {
			t.Errorf("%v in MokListRT: %+v", hash, v)
		}
	}
}

func TestCannotTellRevoked(t *testing.T) {
	t.Parallel()
	store := &trust.Store{DBX: database(t, "self.x509")}
	store.DBX.Certificates[0][4] ^= 1
	_, err := trust.Check(open(t, image(t, "self")), store, trust.Options{})
	wantError(t, err, "dbx: certificate 0: x509: ")
	store = &trust.Store{}
	store.MokListX.Unknown = append(store.MokListX.Unknown, [16]byte{1})
	_, err = trust.Check(open(t, image(t, "self")), store, trust.Options{})
	wantError(t, err, "MokListXRT: signature type 00000001-0000-0000-0000-000000000000: unknown")
	_, err = trust.CheckKernel(open(t, image(t, "self")), store, trust.Options{})
	wantError(t, err, "MokListXRT: signature type")
	// in db it vouches for nothing
	store = &trust.Store{DB: database(t, "self.x509", "ca.x509")}
	store.DB.Certificates[1][4] ^= 1
	store.DB.Unknown = append(store.DB.Unknown, [16]byte{1})
	if v := check(t, image(t, "self"), store, trust.Options{}); !v.Trusted {
		t.Error(v.Detail)
	}
	if v := check(t, image(t, "direct"), store, trust.Options{}); v.Reason != trust.ReasonUntrusted {
		t.Error(v.Reason)
	}
}

func TestIgnoreDB(t *testing.T) {
	t.Parallel()
	store := &trust.Store{IgnoreDB: true, DB: database(t, "mixed"), MokList: database(t, "inter.x509")}
	if v := check(t, image(t, "self"), store, trust.Options{}); v.Reason != trust.ReasonUntrusted {
		t.Errorf("db counts: %+v", v)
	}
	if v := check(t, image(t, "chain"), store, trust.Options{}); !v.Trusted {
		t.Error(v.Detail)
	}
	if v := check(t, image(t, "self"), store, trusting(t, "self")); !v.Trusted || v.Anchor.Source != "--trust" {
		t.Errorf("%+v", v)
	}
	// the firmware, which does not know of it, may load the file
	_, err := trust.AcceptAddon(store, trust.Options{})("a", open(t, image(t, "self")))
	if !errors.Is(err, stub.ErrCannotTell) {
		t.Error(err)
	}
}

func TestSeveralReasons(t *testing.T) {
	t.Parallel()
	v := check(t, image(t, "dual"), &trust.Store{}, trust.Options{})
	want := `signed by "CN=mkexec test self": neither that certificate nor an issuer of it is trusted here; ` +
		`signed by "CN=mkexec test direct": neither that certificate nor an issuer of it is trusted here`
	if v.Detail != want || len(v.Signatures) != 2 {
		t.Errorf("%+v", v)
	}
	v = check(t, image(t, "dual"), &trust.Store{}, trusting(t, "ca"))
	if got := v.Signatures[1].String(); got != `signed by "CN=mkexec test direct", trusted by "CN=mkexec test ca" in --trust` {
		t.Error(got)
	}
	if v.Signatures[0].Reason != trust.ReasonUntrusted || v.Anchor.Certificate.Subject.CommonName != "mkexec test ca" {
		t.Errorf("%+v", v)
	}
}

// withSBAT returns an unsigned image that a database vouches for.
func withSBAT(t testing.TB, text string) ([]byte, *trust.Store) {
	t.Helper()
	b, err := ukitest.Build(ukitest.Minimal("262.1-1"), ukitest.Section{Name: ".sbat", Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	store := &trust.Store{DB: database(t, "unsigned.image")}
	v := check(t, b, store, trust.Options{})
	store.DB.Images[efiHash{Hash: crypto.SHA256, Digest: string(v.Digest)}] = true
	return b, store
}

func TestSBAT(t *testing.T) {
	t.Parallel()
	const text = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n" +
		"systemd-stub,1,The systemd Developers,systemd,262,https://systemd.io/\n"
	b, store := withSBAT(t, text)
	for _, test := range []struct {
		level  sbat.Level
		reason trust.Reason
		detail string
	}{
		{nil, "", ""},
		{sbat.Level{{Component: "sbat", Generation: 1}}, "", ""},
		{sbat.Level{{Component: "systemd-stub", Generation: 1}, {Component: "shim", Generation: 9}}, "", ""},
		{sbat.Level{{Component: "systemd-stub", Generation: 2}}, trust.ReasonRevokedSBAT,
			`generation 1 of "systemd-stub" is revoked: this machine demands 2 (SbatLevelRT)`},
		{sbat.Level{{Component: "systemd-stub", Generation: 1}, {Component: "systemd-stub", Generation: 2}}, "", ""}, // the first counts
	} {
		store.Level = test.level
		if v := check(t, b, store, trust.Options{}); v.Reason != test.reason || v.Detail != test.detail || len(v.SBAT) != 2 {
			t.Errorf("%v: %+v", test.level, v)
		}
	}
	none, err := ukitest.Build(ukitest.Minimal("262.1-1"), ukitest.Section{Name: ".sbat", Data: make([]byte, 9)})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"empty": none, "missing": image(t, "self")} {
		store := &trust.Store{DB: database(t, "self.x509"), Level: sbat.Level{{Component: "sbat", Generation: 1}}}
		f := open(t, b)
		v := check(t, b, &trust.Store{}, trust.Options{})
		store.DB.Images[efiHash{Hash: crypto.SHA256, Digest: string(v.Digest)}] = true
		if v = check(t, b, store, trust.Options{}); v.Reason != trust.ReasonNoSBAT || v.Detail != "no SBAT data, but shim demands it" {
			t.Errorf("%s: %+v", name, v)
		}
		switch yes, err := trust.AcceptAddon(store, trust.Options{})("a", f); {
		case name == "missing" && (err != nil || !yes), name == "empty" && !errors.Is(err, stub.ErrCannotTell):
			t.Errorf("%s: %v, %v", name, yes, err)
		}
	}
	// who is not trusted for another reason stays so, and is refused by SBAT besides
	store = &trust.Store{Level: sbat.Level{{Component: "sbat", Generation: 2}}}
	if v := check(t, image(t, "self"), store, trust.Options{}); v.Reason != trust.ReasonUntrusted || v.SBATReason != trust.ReasonNoSBAT {
		t.Errorf("%+v", v)
	}
	if v := check(t, b, store, trust.Options{}); v.Reason != trust.ReasonUnsigned || v.SBATReason != trust.ReasonRevokedSBAT ||
		v.SBATDetail != `generation 1 of "sbat" is revoked: this machine demands 2 (SbatLevelRT)` {
		t.Errorf("%+v", v)
	}
	bad, _ := withSBAT(t, text)
	i := indexOf(t, bad, "systemd-stub,1")
	bad[i+len("systemd-stub,")] = 'x'
	_, err = trust.Check(open(t, bad), store, trust.Options{})
	wantError(t, err, `section .sbat: line 2: generation "x": not a number up to 65535`)
}

func indexOf(t testing.TB, b []byte, s string) int {
	t.Helper()
	for i := range len(b) - len(s) {
		if string(b[i:i+len(s)]) == s {
			return i
		}
	}
	t.Fatalf("no %q", s)
	return 0
}

func TestAcceptAddon(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		image string
		dbx   []string
		want  string // yes, no, unsure
	}{
		{"self", nil, "yes"},
		{"direct", nil, "no"},
		{"unsigned", nil, "no"},
		{"tampered", nil, "no"},
		{"dual", nil, "yes"},
		{"dual", []string{"ca.x509"}, "unsure"},
		{"self", []string{"self.tbs256"}, "no"},
		{"self", []string{"self.image"}, "no"},
		{"sha1", nil, "unsure"},
		{"appended", nil, "unsure"},
	} {
		store := &trust.Store{DB: database(t, "self.x509"), DBX: database(t, test.dbx...)}
		yes, err := trust.AcceptAddon(store, trust.Options{})("a.addon.efi", open(t, image(t, test.image)))
		got := map[bool]string{true: "yes", false: "no"}[yes]
		if errors.Is(err, stub.ErrCannotTell) && !yes {
			got = "unsure"
		}
		if got != test.want {
			t.Errorf("%s, dbx %v: %s, want %s (%v)", test.image, test.dbx, got, test.want, err)
		}
	}
}

// TestCheckKernel: Linux looks at the first signature only, and at no digests;
// those that are revoked count all the same.
func TestCheckKernel(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		image   string
		db, dbx []string
		reason  trust.Reason
	}{
		{"unsigned", []string{"unsigned.image"}, nil, trust.ReasonUnsigned},
		{"self", []string{"self.x509"}, nil, ""},
		{"self", []string{"self.x509"}, []string{"self.image"}, trust.ReasonRevokedHash},
		{"self", nil, []string{"self.image"}, trust.ReasonRevokedHash},
		{"self", []string{"self.image"}, nil, trust.ReasonUntrusted},
		{"self", []string{"self.x509"}, []string{"self.x509"}, trust.ReasonRevokedCertificate},
		{"self", []string{"self.x509"}, []string{"self.tbs256"}, trust.ReasonRevokedCertificate},
		{"dual", []string{"self.x509"}, nil, ""},
		{"dual", []string{"direct.x509"}, nil, trust.ReasonUntrusted},
		{"dual", []string{"self.x509"}, []string{"direct.x509"}, ""},
		{"tampered", []string{"self.x509"}, nil, trust.ReasonDigestMismatch},
	} {
		store := &trust.Store{DB: database(t, test.db...), DBX: database(t, test.dbx...), Level: sbat.Level{{Component: "sbat", Generation: 1}}}
		v, err := trust.CheckKernel(open(t, image(t, test.image)), store, trust.Options{})
		if err != nil || v.Reason != test.reason || v.Trusted != (test.reason == "") {
			t.Errorf("%s, db %v, dbx %v: %+v, %v", test.image, test.db, test.dbx, v, err)
		}
	}
	unsigned, err := trust.CheckKernel(open(t, image(t, "unsigned")), &trust.Store{DBX: database(t, "unsigned.image")}, trust.Options{})
	if err != nil || unsigned.Reason != trust.ReasonRevokedHash {
		t.Errorf("unsigned and revoked: %+v, %v", unsigned, err)
	}
	// Debian's fallback loader is no kernel, but is signed and has SBAT data: shim,4
	loader := open(t, gunzip(t, read(t, real, "fbx64.efi.signed.gz")))
	for _, test := range []struct {
		level   sbat.Level
		trusted bool
		reason  trust.Reason
	}{
		{sbat.Level{{Component: "shim", Generation: 4}}, true, ""},
		{sbat.Level{{Component: "shim", Generation: 99}}, true, trust.ReasonRevokedSBAT},
		{sbat.Level{{Component: "shim", Generation: 4}}, false, trust.ReasonUntrusted},
		{sbat.Level{{Component: "shim", Generation: 99}}, false, trust.ReasonRevokedSBAT},
	} {
		store := &trust.Store{Level: test.level}
		if test.trusted {
			store.MokList.Certificates = [][]byte{read(t, real, "debian-uefi-ca.der")}
		}
		if v, err := trust.CheckKernel(loader, store, trust.Options{}); err != nil || v.Reason != test.reason {
			t.Errorf("level %v, trusted %t: %+v, %v", test.level, test.trusted, v, err)
		}
	}
	_, err = trust.CheckKernel(open(t, image(t, "padded")), &trust.Store{}, trust.Options{})
	wantError(t, err, "certificate table: ends at 7176, not at the end of the file (7184 bytes)")
}

func TestReadCertificates(t *testing.T) {
	t.Parallel()
	fsys := mapFS{
		"dir/a.pem":      slices.Concat(read(t, recorded, "self.pem"), read(t, recorded, "ca.pem")),
		"dir/b.der":      read(t, real, "debian-uefi-ca.der"),
		"dir/README":     []byte("not a certificate"),
		"none/README":    []byte("not a certificate"),
		"key.pem":        []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		"bad.pem":        []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"cut.pem":        read(t, recorded, "self.pem")[:500],
		"garbage.der":    []byte("garbage"),
		"empty":          nil,
		"bad/a.pem":      []byte("garbage"),
		"large.pem":      make([]byte, 1<<20+1),
		"broken/big.crt": make([]byte, 9),
	}.fs()
	for name, want := range map[string]int{"dir": 3, "dir/a.pem": 2, "dir/b.der": 1} {
		if certs, err := trust.ReadCertificates(fsys, name); err != nil || len(certs) != want {
			t.Errorf("%s: %d, %v", name, len(certs), err)
		}
	}
	for name, want := range map[string]string{
		"none":        "none: no file in it ends in .pem, .crt, .cer or .der",
		"key.pem":     `key.pem: PEM block 1: "PRIVATE KEY": not a certificate`,
		"bad.pem":     "bad.pem: PEM block 1: x509: malformed certificate",
		"cut.pem":     "cut.pem: bad PEM",
		"garbage.der": "garbage.der: neither PEM nor a certificate in DER: x509: malformed certificate",
		"empty":       "empty: neither PEM nor a certificate in DER: x509: malformed certificate",
		"bad":         "bad/a.pem: neither PEM nor a certificate in DER",
		"large.pem":   "large.pem: more than 1048576 bytes",
	} {
		_, err := trust.ReadCertificates(fsys, name)
		wantError(t, err, want)
	}
	if _, err := trust.ReadCertificates(fsys, "missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
