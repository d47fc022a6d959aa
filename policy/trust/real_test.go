package trust_test

// Files that Debian and Microsoft signed, and databases that Microsoft and
// Debian made (testdata/README.md). They do not prove that this machine's
// firmware has the same.

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy/trust"
	"github.com/mkexec/mkexec/policy/trust/efivar"
	"github.com/mkexec/mkexec/policy/trust/sbat"
)

func realDatabase(t testing.TB, name string) efivar.Database {
	t.Helper()
	d, err := efivar.ParseDatabase(read(t, real, name))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// debian returns a store as on a machine with Microsoft's keys and Debian's shim.
func debian(t testing.TB) *trust.Store {
	t.Helper()
	level, err := sbat.ParseLevel([]byte("sbat,1,2025051000\nshim,4\ngrub,5\ngrub.proxmox,2\n")) // shim 16.1, .sbatlevel
	if err != nil {
		t.Fatal(err)
	}
	return &trust.Store{
		SecureBoot: true, Level: level,
		DB: realDatabase(t, "db.ms.esl"), DBX: realDatabase(t, "dbx-2020-10-12.esl"),
		MokList: efivar.Database{Certificates: [][]byte{read(t, real, "debian-uefi-ca.der")}},
	}
}

func TestDebian(t *testing.T) {
	t.Parallel()
	fallback := gunzip(t, read(t, real, "fbx64.efi.signed.gz"))
	v := check(t, fallback, debian(t), trust.Options{})
	if !v.Trusted || v.Anchor.String() != `"CN=Debian Secure Boot CA" in MokListRT` {
		t.Errorf("%+v", v)
	}
	if got := v.Signatures[0].String(); got != `signed by "CN=Debian Secure Boot Signer 2022 - shim", trusted by "CN=Debian Secure Boot CA" in MokListRT` {
		t.Error(got)
	}
	if len(v.SBAT) != 3 || v.SBAT[1].Component != "shim" || v.SBAT[1].Generation != 4 {
		t.Errorf("%+v", v.SBAT)
	}

	newer := debian(t)
	newer.Level[1].Generation = 5 // of shim
	v = check(t, fallback, newer, trust.Options{})
	if v.Reason != trust.ReasonRevokedSBAT || v.Detail != `generation 4 of "shim" is revoked: this machine demands 5 (SbatLevelRT)` {
		t.Errorf("%+v", v)
	}
	without := debian(t)
	without.MokList = efivar.Database{}
	if v := check(t, fallback, without, trust.Options{}); v.Reason != trust.ReasonUntrusted {
		t.Errorf("%+v", v)
	}
	tampered := bytes.Clone(fallback)
	tampered[0x5000] ^= 1
	if v := check(t, tampered, debian(t), trust.Options{}); v.Reason != trust.ReasonDigestMismatch {
		t.Errorf("%+v", v)
	}
	// what the certificate signed is revoked
	revoked := debian(t)
	revoked.MokListX = revoked.MokList
	if v := check(t, fallback, revoked, trust.Options{}); v.Reason != trust.ReasonRevokedCertificate {
		t.Errorf("%+v", v)
	}
}

// TestMicrosoft puts the certificate table of a shim that Microsoft signed twice
// behind another image: it is recognized, and not trusted for that image.
func TestMicrosoft(t *testing.T) {
	t.Parallel()
	v := check(t, withTable(t, read(t, real, "shimx64.efi.signed.certtable")), debian(t), trust.Options{})
	if v.Reason != trust.ReasonDigestMismatch || len(v.Signatures) != 2 {
		t.Fatalf("%+v", v)
	}
	for i, want := range []string{"Microsoft Windows UEFI Driver Publisher", "Microsoft UEFI CA 2023 signer"} {
		if s := v.Signatures[i]; s.Signer.Subject.CommonName != want || s.Reason != trust.ReasonDigestMismatch {
			t.Errorf("%v", s)
		}
	}
	_, first, _ := strings.Cut(v.Signatures[0].Detail, "signed: ")
	_, second, _ := strings.Cut(v.Signatures[1].Detail, "signed: ")
	if _, of, ok := strings.Cut(first, ", not "); ok {
		if _, other, _ := strings.Cut(second, ", not "); of != other { // of the same file
			t.Errorf("%s, %s", of, other)
		}
	}
}

// TestInstalled verifies files that are too large to be recorded, where they are.
func TestInstalled(t *testing.T) {
	t.Parallel()
	for _, file := range []struct {
		path   string
		anchor string
		reason trust.Reason
	}{
		// mkexec's own VM tests fetch it; it has no SBAT data, which GRUB's own check passes over
		{"../../.cache/vm/vmlinuz", "", trust.ReasonNoSBAT},
		{"/usr/lib/shim/shimx64.efi.signed", "Microsoft Corporation UEFI CA 2011", ""},
	} {
		t.Run(filepath.Base(file.path), func(t *testing.T) {
			f, err := os.Open(file.path)
			if err != nil {
				t.Skip(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			image, err := uki.Open(f, info.Size())
			if err != nil {
				t.Fatal(err)
			}
			v, err := trust.Check(image, debian(t), trust.Options{})
			if err != nil || v.Reason != file.reason || v.Trusted && v.Anchor.Certificate.Subject.CommonName != file.anchor {
				t.Errorf("%+v, %v", v, err)
			}
			k, err := trust.CheckKernel(image, debian(t), trust.Options{})
			if err != nil || !k.Trusted {
				t.Errorf("for the kernel: %+v, %v", k, err)
			}
		})
	}
}

// variables returns the files of efivarfs on a machine with shim. Each value has
// its attributes in front.
func variables(t testing.TB) mapFS {
	t.Helper()
	with := func(attributes uint32, b []byte) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, attributes), b...)
	}
	const efi = "sys/firmware/efi/efivars/"
	const global, db, shim = "-8be4df61-93ca-11d2-aa0d-00e098032b8c", "-d719b2cb-3d3a-4596-a3bc-dad00e67656f", "-605dab50-e046-4300-abb6-3dd810dd8b23"
	return mapFS{
		"sys/kernel/notes":              nil,
		efi + "SecureBoot" + global:     with(6, []byte{1}),
		efi + "SetupMode" + global:      with(6, []byte{0}),
		efi + "db" + db:                 with(0x27, read(t, real, "db.ms.esl")),
		efi + "dbx" + db:                with(0x27, read(t, real, "dbx-2020-10-12.esl")),
		efi + "MokListRT" + shim:        with(6, read(t, recorded, "self.x509.esl")),
		efi + "MokListXRT" + shim:       with(6, read(t, recorded, "leaf.tbs256.esl")),
		efi + "SbatLevelRT" + shim:      with(6, []byte("sbat,1,2025051000\nshim,4\ngrub,5\n")),
		efi + "MokListTrustedRT" + shim: with(6, []byte{1}),
	}
}

func TestReadStore(t *testing.T) {
	t.Parallel()
	s, err := trust.ReadStore(variables(t).fs())
	if err != nil {
		t.Fatal(err)
	}
	if !s.SecureBoot || s.SetupMode || s.Insecure || s.IgnoreDB || !s.Enforced() {
		t.Errorf("%+v", s)
	}
	// counted by hand in the files: README.md
	if n := []int{len(s.DB.Certificates), len(s.DBX.Certificates), len(s.DBX.Images), len(s.MokList.Certificates), len(s.MokListX.TBS), len(s.Level)}; !slices.Equal(n, []int{2, 3, 183, 1, 1, 3}) {
		t.Error(n)
	}
	if v := check(t, image(t, "self"), &trust.Store{MokList: s.MokList}, trust.Options{}); !v.Trusted {
		t.Error(v.Detail)
	}

	// shim's configuration table goes before, whatever the variables say
	fsys := variables(t)
	fsys["sys/firmware/efi/mok-variables/MokListRT"] = read(t, recorded, "mixed.esl")
	fsys["sys/firmware/efi/mok-variables/MokIgnoreDB"] = []byte{1}
	fsys["sys/firmware/efi/mok-variables/MokSBStateRT"] = []byte{1}
	fsys["sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"] = []byte("forged")
	s, err = trust.ReadStore(fsys.fs())
	if err != nil || len(s.MokList.Certificates) != 2 || len(s.MokList.TBS) != 1 || len(s.MokListX.TBS) != 0 || s.Level != nil ||
		!s.IgnoreDB || !s.Insecure || s.Enforced() {
		t.Errorf("%+v, %v", s, err)
	}

	// split by shim, where the firmware has little room
	fsys = variables(t)
	fsys["sys/firmware/efi/efivars/MokListXRT1-605dab50-e046-4300-abb6-3dd810dd8b23"] = append([]byte{6, 0, 0, 0}, read(t, recorded, "self.tbs384.esl")...)
	fsys["sys/firmware/efi/efivars/MokListXRT2-605dab50-e046-4300-abb6-3dd810dd8b23"] = append([]byte{6, 0, 0, 0}, read(t, recorded, "ca.tbs512.esl")...)
	if s, err = trust.ReadStore(fsys.fs()); err != nil || len(s.MokListX.TBS) != 3 {
		t.Errorf("%+v, %v", s, err)
	}

	// no EFI
	if s, err = trust.ReadStore(mapFS{"sys/kernel/notes": nil}.fs()); err != nil || s.Enforced() || s.SecureBoot {
		t.Errorf("%+v, %v", s, err)
	}
	// firmware without Secure Boot, no shim
	if s, err = trust.ReadStore(mapFS{"sys/kernel/notes": nil, "sys/firmware/efi/efivars/BootOrder-x": nil}.fs()); err != nil || s.SecureBoot {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestReadStoreRefuses(t *testing.T) {
	t.Parallel()
	const efi = "sys/firmware/efi/efivars/"
	const global, db, shim = "-8be4df61-93ca-11d2-aa0d-00e098032b8c", "-d719b2cb-3d3a-4596-a3bc-dad00e67656f", "-605dab50-e046-4300-abb6-3dd810dd8b23"
	attributes := func(name string, a byte) func(mapFS) {
		return func(m mapFS) { m[efi+name][0] = a }
	}
	for name, test := range map[string]struct {
		change func(m mapFS)
		want   string
	}{
		"SecureBoot made by root": {attributes("SecureBoot"+global, 7), "EFI variable SecureBoot: attributes 0x7: not what firmware makes (0x6)"},
		"SetupMode made by root":  {attributes("SetupMode"+global, 7), "EFI variable SetupMode: attributes 0x7: not what firmware makes (0x6)"},
		"db made by root":         {attributes("db"+db, 7), "EFI variable db: attributes 0x7: not what firmware makes (0x27)"},
		"db not authenticated":    {attributes("db"+db, 0x17), "EFI variable db: attributes 0x17: not what firmware makes (0x27)"},
		"dbx made by root":        {attributes("dbx"+db, 7), "EFI variable dbx: attributes 0x7: not what firmware makes (0x27)"},
		"MokListRT made by root":  {attributes("MokListRT"+shim, 7), "EFI variable MokListRT: attributes 0x7: not what firmware makes (0x6)"},
		"MokListXRT made by root": {attributes("MokListXRT"+shim, 0x27), "EFI variable MokListXRT: attributes 0x27: not what firmware makes (0x6)"},
		"SbatLevelRT by root":     {attributes("SbatLevelRT"+shim, 7), "EFI variable SbatLevelRT: attributes 0x7: not what firmware makes (0x6)"},
		"MokListXRT1 by root": {func(m mapFS) { m[efi+"MokListXRT1"+shim] = []byte{7, 0, 0, 0} },
			"EFI variable MokListXRT1: attributes 0x7: not what firmware makes (0x6)"},
		"MokSBStateRT by root": {func(m mapFS) { m[efi+"MokSBStateRT"+shim] = []byte{7, 0, 0, 0, 1} },
			"EFI variable MokSBStateRT: attributes 0x7: not what firmware makes (0x6)"},
		"MokIgnoreDB by root": {func(m mapFS) { m[efi+"MokIgnoreDB"+shim] = []byte{7, 0, 0, 0, 1} },
			"EFI variable MokIgnoreDB: attributes 0x7: not what firmware makes (0x6)"},
		"flag of two bytes":  {func(m mapFS) { m[efi+"SecureBoot"+global] = []byte{6, 0, 0, 0, 1, 1} }, "EFI variable SecureBoot: 0101: neither 00 nor 01"},
		"flag of no byte":    {func(m mapFS) { m[efi+"SetupMode"+global] = []byte{6, 0, 0, 0} }, "EFI variable SetupMode: : neither 00 nor 01"},
		"flag of 2":          {func(m mapFS) { m[efi+"SecureBoot"+global][4] = 2 }, "EFI variable SecureBoot: 02: neither 00 nor 01"},
		"no attributes":      {func(m mapFS) { m[efi+"db"+db] = []byte{0x27, 0, 0} }, "EFI variable db: 3 bytes: too short for its attributes"},
		"bad db":             {func(m mapFS) { m[efi+"db"+db] = m[efi+"db"+db][:50] }, "EFI variable db: signature list at 0: size"},
		"bad dbx":            {func(m mapFS) { m[efi+"dbx"+db] = append(m[efi+"dbx"+db], 1) }, "EFI variable dbx: signature list at 11936: truncated: 1 bytes are left"},
		"bad MokListRT":      {func(m mapFS) { m[efi+"MokListRT"+shim] = []byte{6, 0, 0, 0, 1} }, "EFI variable MokListRT: signature list at 0: truncated"},
		"bad MokListXRT":     {func(m mapFS) { m[efi+"MokListXRT"+shim] = []byte{6, 0, 0, 0, 1} }, "EFI variable MokListXRT: signature list at 0: truncated"},
		"bad SbatLevelRT":    {func(m mapFS) { m[efi+"SbatLevelRT"+shim] = []byte("\x06\x00\x00\x00sbat\n") }, "EFI variable SbatLevelRT: line 1: 1 fields: wants 2"},
		"oversized":          {func(m mapFS) { m[efi+"dbx"+db] = make([]byte, 4<<20+1) }, "more than 4194304 bytes"},
		"sysfs not mounted":  {func(m mapFS) { clear(m) }, "sysfs is not mounted: "},
		"efivarfs not there": {func(m mapFS) { clear(m); m["sys/kernel/x"], m["sys/firmware/efi/x"] = nil, nil }, "efivarfs is not mounted: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := variables(t)
			test.change(m)
			_, err := trust.ReadStore(m.fs())
			wantError(t, err, test.want)
		})
	}
	// mounted over an empty directory
	m := mapFS{"sys/kernel/x": nil}.fs()
	m["sys/firmware/efi/efivars"] = emptyDir
	_, err := trust.ReadStore(m)
	wantError(t, err, "efivarfs is not mounted: sys/firmware/efi/efivars: EOF")
}

func TestEnforced(t *testing.T) {
	t.Parallel()
	for _, s := range []trust.Store{{}, {SecureBoot: true, SetupMode: true}, {SecureBoot: true, Insecure: true}, {SetupMode: true}} {
		if s.Enforced() {
			t.Errorf("%+v", s)
		}
	}
	if s := (trust.Store{SecureBoot: true, IgnoreDB: true}); !s.Enforced() {
		t.Errorf("%+v", s)
	}
}
