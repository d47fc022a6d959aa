package tpm2_test

// Digests and names against what systemd 262 wrote and, in swtpm_test.go,
// against a TPM. It does not prove that a TPM other than libtpms agrees, nor
// anything of policy sessions with another hash than SHA-256.

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func values(t testing.TB, pcrs map[measure.PCR]string) measure.PCRs {
	t.Helper()
	p := measure.PCRs{}
	for n, s := range pcrs {
		p.Set(measure.SHA256, n, unhex(t, s))
	}
	return p
}

// The PCRs and policies of golden/systemd, by tools of systemd 262:
// calculate-basic.json and sign-sha256.json, and luks/*.token.json with pcrs.txt
// and pcrlock.json. spec/sd-stub.md 6.4 has the name of the key (its PCR 11 is
// that of leave-initrd, not of enter-initrd).
const (
	pcr11      = "48a6fbf05e78e49b2e43fac5c297ab15fb8a85ccb5d195eb8d6096700c751c0a"
	pol11      = "2ad3fafe8f2fdeb320539b7f13d931320348f6bbf0b9e41a0aba638c9e2e3c2b"
	pcr11leave = "6022da688d71e21b974f4381bd2fd03641e9abeba544822d6e51094a293ff8c4"
	token7     = "a66fc57db12dd0f90d21f7621ac570759bc9410ecea2b5d95a39edd2c2f0860b"
	token11    = "d15b0e8e244e65c40f024e95773f2347ce4ef3ffe6b597c9a14b50bbab6df319"
	keyName    = "000b11f3416e72571c4d52ed1e625308178b8e22879d2aa4158b280abe64d13132c5"
	// of the token's tpm2_pcrlock_nv
	nvName   = "000bc39676fbea5bbba4863038a3322d2d3433b12d90c2df56af7c8a6c0e185bae5c"
	nvPublic = "01bc3d45000b200210080020f60f7c3af91eadb05912c529f607770d5373bab23550ee6e15c2cdb6dd9f1b9a0022"
)

func TestDigest(t *testing.T) {
	t.Parallel()
	pcr := func(d tpm2.Digest, p measure.PCRs, pcrs ...measure.PCR) tpm2.Digest {
		d, err := d.PCR(measure.SHA256, pcrs, p)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	initrd := sha256.Sum256([]byte("initrd"))
	token := values(t, map[measure.PCR]string{7: token7, 11: token11})
	var zero tpm2.Digest
	for _, test := range []struct {
		name string
		got  tpm2.Digest
		want string
	}{
		{"sign-sha256.json: pol", pcr(zero, values(t, map[measure.PCR]string{11: pcr11}), 11), pol11},
		{"sign-sha256.json: pol of leave-initrd", pcr(zero, values(t, map[measure.PCR]string{11: pcr11leave}), 11), "a8318486a57ebe25226f7f4d09113c33a996a7cdb7a78ebb6598edcc6ffb2815"},
		{"none", zero, strings.Repeat("00", 32)},
		{"literal", pcr(zero, token, 7, 11), "b7f8778b512495c7848b00866f3ddbd24ff653f3a71444224994d13d5fcdb545"},
		{"literal, in another order and twice", pcr(zero, token, 11, 7, 11), "b7f8778b512495c7848b00866f3ddbd24ff653f3a71444224994d13d5fcdb545"},
		{"pin", pcr(zero, token, 7).AuthValue(), "69a0d0099a787d37b0ffd18561d4f9c19a3774495dc32af187cabbb0389ff3cd"},
		{"signed", zero.Authorize(unhex(t, keyName), nil), "6012b0ff8dc0e7f511b0b602d0d8d3c9abf762a54cf3c56150ae9dadcdf8ee59"},
		{"signed, what was before is gone", zero.AuthValue().Authorize(unhex(t, keyName), nil), "6012b0ff8dc0e7f511b0b602d0d8d3c9abf762a54cf3c56150ae9dadcdf8ee59"},
		// spec/sd-stub.md 6.4
		{"signed with reference", zero.Authorize(unhex(t, keyName), initrd[:]), "bd3e1350d09a49ee22a0b814860b5b340ae5c6e501693535a456d0e1e37f75e0"},
		{"signedref", pcr(zero.Authorize(unhex(t, keyName), initrd[:]), token, 7), "09072c6e76f80b8a7e49de8bf7c6af42eb1c487356d50e6c6b7cf6758bfe6900"},
		{"pcrlock", zero.AuthorizeNV(unhex(t, nvName)), "9acd83fb1a6fe71ad6f6ce6adcbff48d7926d211d0fdd5e65a21549e595f0b24"},
		{"pcrlock, what was before is gone", zero.AuthValue().AuthorizeNV(unhex(t, nvName)), "9acd83fb1a6fe71ad6f6ce6adcbff48d7926d211d0fdd5e65a21549e595f0b24"},
		{"pcrlock.json, the content of the NV index", or(t, branches(t, 11, []string{ // of its eight values of PCR 11
			"77eb18d2a9e042da331e0aab27f100aef0bb48ea533310e31b7c754749bf3ccd", "ea2dcb1bb6f451055e7161fb3e5a64001c5d1fb969fdcc420ab19e2d5f54901e",
			"f93bd88c52c9de21be27bc8877c26965c96413754fb2528bfd92a070f6e86d9a", "5b1d12826f1d15d2590446ffa534a7002f54b5dee3026b17bea0e3c3d2bab3b9",
			"46cbd8df1c1852429ddc0248637c7a3b005cb45a861790c4d1f2ba9000e965a6", "366809f11de68f22b40655bf586de462019f8d4b9985d0cf7044b71e7a673e2f",
			"029a357a80bf57702d84876038324876428350316ddbd21124592b80f606c7d6", "fbe7f042e6ee0651e54df730afb60c4e9a45f1fc1d1e2f67ee1906cffffa5015",
		})...), "c924c3cf7018223a7e0d0edd6e5a5c96170c6d9ecd7552bfb5678ca6ac5e28d8"},
	} {
		if test.got.String() != test.want {
			t.Errorf("%s: %s, want %s", test.name, test.got, test.want)
		}
	}
	changed := pcr(zero, values(t, map[measure.PCR]string{11: "7" + pcr11[1:]}), 11)
	if changed.String() == pol11 {
		t.Error("the same policy with another value")
	}
	if !zero.IsZero() || changed.IsZero() {
		t.Error("IsZero")
	}
}

// branches returns a policy for each value of a PCR.
func branches(t *testing.T, n measure.PCR, texts []string) (ds []tpm2.Digest) {
	for _, text := range texts {
		d, err := tpm2.Digest{}.PCR(measure.SHA256, []measure.PCR{n}, values(t, map[measure.PCR]string{n: text}))
		if err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	return ds
}

func or(t *testing.T, ds ...tpm2.Digest) tpm2.Digest {
	d, err := tpm2.Digest{}.OR(ds...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDigestRefuses(t *testing.T) {
	t.Parallel()
	known := values(t, map[measure.PCR]string{11: pcr11})
	bad := values(t, map[measure.PCR]string{11: pcr11[:40]})
	pcr := func(bank measure.Bank, values measure.PCRs, pcrs ...measure.PCR) func() error {
		return func() error { _, err := tpm2.Digest{}.PCR(bank, pcrs, values); return err }
	}
	for _, test := range []struct {
		name       string
		f          func() error
		want       string
		cannotTell bool
	}{
		{"bank", pcr(0x12, known, 11), "bank alg_0x0012: unknown: cannot tell", true},
		{"no PCR", pcr(measure.SHA256, known), "policy of no PCR", false},
		{"PCR 24", pcr(measure.SHA256, known, 24), "PCR 24: there are PCR 0 to 23", false},
		{"PCR -1", pcr(measure.SHA256, known, -1), "PCR -1: there are PCR 0 to 23", false},
		{"unknown PCR", pcr(measure.SHA256, known, 11, 12), "PCR 12 (sha256) is not predicted, but the policy names it: cannot tell", true},
		{"unknown bank", pcr(measure.SHA1, known, 11), "PCR 11 (sha1) is not predicted, but the policy names it: cannot tell", true},
		{"no values", pcr(measure.SHA1, nil, 11), "PCR 11 (sha1) is not predicted, but the policy names it: cannot tell", true},
		{"size", pcr(measure.SHA256, bad, 11), "PCR 11 (sha256): a value of 20 bytes", false},
		{"one branch", func() error { _, err := tpm2.Digest{}.OR(tpm2.Digest{}); return err }, "policy OR of 1 branches: it takes 2 to 8", false},
		{"nine branches", func() error { _, err := tpm2.Digest{}.OR(make([]tpm2.Digest, 9)...); return err }, "policy OR of 9 branches: it takes 2 to 8", false},
		{"short", func() error { _, err := tpm2.ParseDigest(make([]byte, 31)); return err }, "policy digest of 31 bytes, not 32", false},
		{"long", func() error { _, err := tpm2.ParseDigest(make([]byte, 33)); return err }, "policy digest of 33 bytes, not 32", false},
	} {
		err := test.f()
		if fmt.Sprint(err) != test.want || errors.Is(err, policy.ErrCannotTell) != test.cannotTell {
			t.Errorf("%s:\n got %v\nwant %s", test.name, err, test.want)
		}
	}
}

// A publicKey is one of testdata/keys.json.
type publicKey struct{ Name, PEM, Policy string }

func (k publicKey) parse(t *testing.T) any {
	block, _ := pem.Decode([]byte(k.PEM))
	if block == nil {
		t.Fatalf("%s: no PEM", k.Name)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicKeys(t *testing.T) (keys []publicKey) {
	data, err := os.ReadFile("testdata/keys.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &keys); err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestKeyName(t *testing.T) {
	t.Parallel()
	for _, k := range publicKeys(t) {
		var name []byte
		switch key := k.parse(t).(type) {
		case *rsa.PublicKey:
			name = tpm2.RSAKeyName(key, uint32(key.E))
			if d := (tpm2.Digest{}).Authorize(tpm2.RSAKeyName(key, 0), nil); d.String() == k.Policy {
				t.Errorf("%s: the same policy with the exponent 0", k.Name)
			}
		case *ecdsa.PublicKey:
			var err error
			if name, err = tpm2.ECCKeyName(key); err != nil {
				t.Fatal(err)
			}
		}
		if got := (tpm2.Digest{}).Authorize(name, nil); got.String() != k.Policy {
			t.Errorf("%s: policy %s, want %s", k.Name, got, k.Policy)
		}
		name[33] ^= 1
		if got := (tpm2.Digest{}).Authorize(name, nil); got.String() == k.Policy {
			t.Errorf("%s: the same policy with another name", k.Name)
		}
	}
	if _, err := tpm2.ECCKeyName(&ecdsa.PublicKey{}); fmt.Sprint(err) != "elliptic curve: unknown: cannot tell" {
		t.Error(err)
	}
}

func TestNVName(t *testing.T) {
	t.Parallel()
	public := unhex(t, nvPublic)
	for _, written := range []bool{false, true} { // it is
		if name, err := tpm2.NVName(public, written); err != nil || hex.EncodeToString(name) != nvName {
			t.Errorf("%x, %v", name, err)
		}
	}
	public[6] &^= 0x20 // as it was before the first write, and as pcrlock.json has it
	if name, err := tpm2.NVName(public, true); err != nil || hex.EncodeToString(name) != nvName {
		t.Errorf("%x, %v", name, err)
	}
	if name, err := tpm2.NVName(public, false); err != nil || hex.EncodeToString(name) == nvName {
		t.Errorf("%x, %v", name, err)
	}

	change := func(f func(b []byte) []byte) []byte { return f(unhex(t, nvPublic)) }
	for _, test := range []struct {
		name   string
		public []byte
		want   string
	}{
		{"empty", nil, "NV public area of 0 bytes: too short"},
		{"short", unhex(t, nvPublic)[:11], "NV public area of 11 bytes: too short"},
		{"a byte less", change(func(b []byte) []byte { return b[:len(b)-1] }), "NV public area of 45 bytes, not 46 as its policy's size has it"},
		{"a byte more", change(func(b []byte) []byte { return append(b, 0) }), "NV public area of 47 bytes, not 46 as its policy's size has it"},
		{"size", change(func(b []byte) []byte { b[10] = 0xff; return b }), "NV public area of 46 bytes, not 65326 as its policy's size has it"},
		{"algorithm", change(func(b []byte) []byte { b[5] = 0x12; return b }), "NV public area: name algorithm alg_0x0012: unknown: cannot tell"},
	} {
		if _, err := tpm2.NVName(test.public, true); fmt.Sprint(err) != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.name, err, test.want)
		}
	}
}

// FuzzNVName: a name is that of the bytes given, and no others.
func FuzzNVName(f *testing.F) {
	f.Add(unhex(f, nvPublic), true)
	f.Add(unhex(f, nvPublic), false)
	f.Add(unhex(f, "01800001000400000000000000ff"), true)
	f.Fuzz(func(t *testing.T, public []byte, written bool) {
		before := string(public)
		name, err := tpm2.NVName(public, written)
		if string(public) != before {
			t.Fatal("changes what it is given")
		}
		if err != nil {
			return
		}
		bank := measure.Bank(int(name[0])<<8 | int(name[1]))
		if len(name) != 2+bank.Size() || name[0] != public[4] || name[1] != public[5] {
			t.Fatalf("%x", name)
		}
		other := append([]byte(nil), public...)
		other[len(other)-1] ^= 1
		if changed, err := tpm2.NVName(other, written); err != nil || string(changed) == string(name) {
			t.Fatalf("%x, %v", changed, err)
		}
	})
}
