package pcrsig_test

// Files that systemd-measure made are taken apart as they are meant, their
// signatures verify, and the verdict on PCRs is that of the phase they were
// made for. testdata/README.md says where they come from. It does not prove
// that a TPM unseals with them; policy/luks2 and the tests with systemd's
// tools do that.

import (
	"cmp"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/pcrsig"
	"github.com/mkexec/mkexec/policy/tpm2"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, name string) *pcrsig.File {
	t.Helper()
	f, err := pcrsig.Parse(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func publicKey(t testing.TB, name string) *rsa.PublicKey {
	t.Helper()
	key, err := pcrsig.ParsePublicKey(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// calculated returns the PCRs by phase that systemd-measure calculate printed.
func calculated(t testing.TB, names ...string) map[measure.Phase]measure.PCRs {
	t.Helper()
	all := map[measure.Phase]measure.PCRs{}
	for _, name := range names {
		var banks map[measure.Bank][]struct {
			Phase measure.Phase
			PCR   measure.PCR
			Hash  measure.Digest
		}
		if err := json.Unmarshal(read(t, name), &banks); err != nil {
			t.Fatal(err)
		}
		for bank, values := range banks {
			for _, v := range values {
				if all[v.Phase] == nil {
					all[v.Phase] = measure.PCRs{}
				}
				all[v.Phase].Set(bank, v.PCR, v.Hash)
			}
		}
	}
	return all
}

const (
	initrd  = measure.Phase("enter-initrd")
	leave   = initrd + ":leave-initrd"
	sysinit = leave + ":sysinit"
	ready   = sysinit + ":ready"
)

// vectors are the files, the key they are signed with, what systemd-measure
// calculated for the same sections, and what their entries are for.
var vectors = []struct {
	file, key string
	pcrs      []string
	entries   []entry
}{
	{"sign-sha256.json", "pcr-pub.pem", []string{"calculate-basic.json"}, []entry{
		{measure.SHA256, initrd, ""}, {measure.SHA256, leave, ""}, {measure.SHA256, sysinit, ""}, {measure.SHA256, ready, ""},
	}},
	{"sign-append-policyref.json", "pcr-pub.pem", []string{"calculate-basic.json"}, []entry{
		{measure.SHA256, initrd, ""}, {measure.SHA256, leave, ""}, {measure.SHA256, sysinit, ""}, {measure.SHA256, ready, ""}, {measure.SHA256, initrd, "initrd"},
	}},
	{"sign-allbanks-enter-initrd.json", "pcr-pub.pem", []string{"calculate-basic.json"}, []entry{
		{measure.SHA1, initrd, ""}, {measure.SHA256, initrd, ""}, {measure.SHA384, initrd, ""}, {measure.SHA512, initrd, ""},
	}},
	{"sign-rsa4096-ref.json", "rsa4096-pub.pem", []string{"calculate-basic.json", "calculate-nophase.json"}, []entry{
		{measure.SHA256, "", `été "x"`}, {measure.SHA256, initrd, `été "x"`}, {measure.SHA384, "", `été "x"`}, {measure.SHA384, initrd, `été "x"`},
	}},
	{"sign-252.json", "pcr-pub.pem", []string{"calculate-252.json"}, []entry{
		{measure.SHA1, initrd, ""}, {measure.SHA1, leave, ""}, {measure.SHA1, sysinit, ""}, {measure.SHA1, ready, ""},
		{measure.SHA256, initrd, ""}, {measure.SHA256, leave, ""}, {measure.SHA256, sysinit, ""}, {measure.SHA256, ready, ""},
	}},
}

type entry struct {
	bank  measure.Bank
	phase measure.Phase
	ref   string
}

// broken returns what is wrong with the signatures in a bank of a file.
// systemd-measure before 260 signs a policy of each bank with the hash of that
// bank, but systemd verifies with SHA-256 (github.com/systemd/systemd/issues/40245).
func broken(file string, bank measure.Bank) string {
	if file == "sign-252.json" && bank == measure.SHA1 {
		return "signature is over the sha1 digest of the policy, but is verified over the sha256 digest: systemd-measure before 260 signed so"
	}
	return ""
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		t.Run(v.file, func(t *testing.T) {
			f, key, pcrs := parse(t, v.file), publicKey(t, v.key), calculated(t, v.pcrs...)
			if len(f.Entries) != len(v.entries) {
				t.Fatalf("%d entries, not %d", len(f.Entries), len(v.entries))
			}
			for i, want := range v.entries {
				e := &f.Entries[i]
				if e.Bank != want.bank || e.Ref != want.ref || !slices.Equal(e.PCRs, []measure.PCR{11}) {
					t.Errorf("entry %d is %s", i+1, e)
				}
				if err := e.Verify(key); fmt.Sprint(err) != cmp.Or(broken(v.file, e.Bank), "<nil>") {
					t.Errorf("entry %d: %v", i+1, err)
				}
			}
			// PhasesOf finds what each was made for
			got, err := f.PhasesOf(func(p measure.Phase) (measure.PCRs, error) { return pcrs[p], nil })
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range v.entries {
				if !slices.Equal(got[i], []measure.Phase{want.phase}) {
					t.Errorf("entry %d is for the phases %q, not %q", i+1, got[i], want.phase)
				}
			}
			// and Check says yes for exactly these
			for _, bank := range measure.Banks() {
				for phase, values := range pcrs {
					for _, ref := range []string{"", "initrd", `été "x"`} {
						p := &pcrsig.Policy{File: f, Key: key, Bank: bank, PCRs: []measure.PCR{11}, Ref: ref}
						want := slices.Contains(v.entries, entry{bank, phase, ref}) && broken(v.file, bank) == ""
						if values[bank] == nil {
							continue
						}
						if err := p.Check(values); want && err != nil {
							t.Errorf("%s %q %q: %v", bank, phase, ref, err)
						} else if !want {
							checkUnsigned(t, err)
						}
					}
				}
			}
		})
	}
}

func checkUnsigned(t *testing.T, err error) {
	t.Helper()
	var no *policy.MismatchError
	if !errors.As(err, &no) || no.Reason != policy.ReasonUnsigned || no.Detail == "" || no.Mismatches != nil {
		t.Errorf("not a no for want of a signature: %v", err)
	}
}

// TestEveryByte changes each byte of an entry in turn: what it was signed for is
// not accepted any more.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	key := publicKey(t, "pcr-pub.pem")
	values := calculated(t, "calculate-basic.json")[initrd]
	good := parse(t, "sign-append-policyref.json").Entries[4]
	check := func(e pcrsig.Entry) error {
		p := &pcrsig.Policy{File: &pcrsig.File{Entries: []pcrsig.Entry{e}}, Key: key, Bank: measure.SHA256, PCRs: []measure.PCR{11}, Ref: "initrd"}
		return p.Check(values)
	}
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	change := func(what string, change func(*pcrsig.Entry)) {
		e := good
		e.Signature = slices.Clone(e.Signature)
		change(&e)
		if err := check(e); err == nil {
			t.Errorf("%s changed: accepted", what)
		} else {
			checkUnsigned(t, err)
		}
	}
	for i := range good.Signature {
		change(fmt.Sprint("signature, byte ", i), func(e *pcrsig.Entry) { e.Signature[i] ^= 1 })
	}
	for i := range good.Policy {
		change(fmt.Sprint("policy, byte ", i), func(e *pcrsig.Entry) { e.Policy[i] ^= 1 })
		change(fmt.Sprint("key, byte ", i), func(e *pcrsig.Entry) { e.Key[i] ^= 1 })
	}
	change("bank", func(e *pcrsig.Entry) { e.Bank = measure.SHA384 })
	change("PCRs", func(e *pcrsig.Entry) { e.PCRs = []measure.PCR{11, 12} })
	change("reference", func(e *pcrsig.Entry) { e.Ref = "initre" })
	change("reference", func(e *pcrsig.Entry) { e.Ref = "" })
	change("signature, longer", func(e *pcrsig.Entry) { e.Signature = append(e.Signature, 0) })
	change("signature, shorter", func(e *pcrsig.Entry) { e.Signature = e.Signature[:255] })
	for i := range values[measure.SHA256][11] {
		changed := values.Clone()
		changed.Set(measure.SHA256, 11, slices.Clone(values[measure.SHA256][11]))
		changed[measure.SHA256][11][i] ^= 0x80
		p := &pcrsig.Policy{File: &pcrsig.File{Entries: []pcrsig.Entry{good}}, Key: key, Bank: measure.SHA256, PCRs: []measure.PCR{11}, Ref: "initrd"}
		checkUnsigned(t, p.Check(changed))
	}
}

// TestOpenSSL asks openssl about the same signatures, good and changed.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	tpmtest.Require(t, "openssl")
	dir := t.TempDir()
	for _, v := range vectors {
		key := publicKey(t, v.key)
		for i, e := range parse(t, v.file).Entries {
			for _, flip := range []int{-1, len(e.Signature) - 1} {
				if flip >= 0 {
					e.Signature[flip] ^= 1
				}
				signed := e.Policy[:]
				if e.Ref != "" {
					signed = append(signed[:32:32], measure.SHA256.Sum([]byte(e.Ref))...)
				}
				sig, tbs := filepath.Join(dir, "sig"), filepath.Join(dir, "tbs")
				if err := errors.Join(os.WriteFile(sig, e.Signature, 0o600), os.WriteFile(tbs, signed, 0o600)); err != nil {
					t.Fatal(err)
				}
				theirs := exec.Command("openssl", "dgst", "-sha256", "-verify", filepath.Join("testdata", v.key), "-signature", sig, tbs).Run()
				ours := e.Verify(key)
				if (theirs == nil) != (ours == nil) || (ours == nil) != (flip < 0 && broken(v.file, e.Bank) == "") {
					t.Errorf("%s: entry %d: openssl says %v, we say %v", v.file, i+1, theirs, ours)
				}
			}
		}
	}
}

// TestCheckDetail has the words for every no, and cannot tell where it must.
func TestCheckDetail(t *testing.T) {
	t.Parallel()
	f, key, other := parse(t, "sign-append-policyref.json"), publicKey(t, "pcr-pub.pem"), publicKey(t, "rsa4096-pub.pem")
	values := calculated(t, "calculate-basic.json")[initrd]
	values.Set(measure.SHA256, 12, make(measure.Digest, 32))
	bad := &pcrsig.File{Entries: slices.Clone(f.Entries)}
	bad.Entries[0].Signature = bad.Entries[1].Signature
	// the same entry again, and good: the first decides, as in systemd
	bad.Entries = append(bad.Entries, f.Entries[0])
	const (
		pol    = "2ad3fafe8f2fdeb320539b7f13d931320348f6bbf0b9e41a0aba638c9e2e3c2b"
		fp     = "caccb33bfdac557660f938c2caee59c5d6e954217bcbd083f0382e950301f26a"
		prefix = "policy not met: no signature for PCR 11 (sha256) as predicted, policy " + pol + ": "
	)
	after := calculated(t, "calculate-nophase.json")[""]
	for _, test := range []struct {
		name string
		p    pcrsig.Policy
		pcrs measure.PCRs
		want string
	}{
		{"empty file", pcrsig.Policy{&pcrsig.File{}, key, measure.SHA256, []measure.PCR{11}, ""}, values, prefix + "0 entries, 0 of bank sha256"},
		{"other bank", pcrsig.Policy{f, key, measure.SHA1, []measure.PCR{11}, ""}, values,
			"policy not met: no signature for PCR 11 (sha1) as predicted, policy 792adb9bdc6f886ffcc11ed3b0e98f600474b35205189bbc5448e19425f87508: 5 entries, 0 of bank sha1"},
		{"other PCRs", pcrsig.Policy{f, key, measure.SHA256, []measure.PCR{12, 11}, ""}, values,
			"policy not met: no signature for PCR 11 12 (sha256) as predicted, policy 2edd73593fd3ee3b5b828d5f974f3dcf517595da8f7a3fac0c52f543b49ab9db: 5 entries, 5 of bank sha256, 0 for PCR 11 12"},
		{"other key", pcrsig.Policy{f, other, measure.SHA256, []measure.PCR{11}, ""}, values,
			prefix + "5 entries, 5 of bank sha256, 5 for PCR 11, 0 by key 64dbb2eceed074ccf61466f5d1bd8d38fb239a23a6528283d23331728cddd489"},
		{"other reference", pcrsig.Policy{f, key, measure.SHA256, []measure.PCR{11}, "Initrd"}, values,
			prefix + "5 entries, 5 of bank sha256, 5 for PCR 11, 5 by key " + fp + `, 0 with the reference "Initrd"`},
		{"other values", pcrsig.Policy{f, key, measure.SHA256, []measure.PCR{11}, ""}, after,
			strings.Replace(prefix, pol, "d79e8f85cace12d1e4ab6a250f6d595e9d83c89301c0827ff7aa0e7bca15ef87", 1) + "5 entries, 5 of bank sha256, 5 for PCR 11, 5 by key " + fp + ", 4 without a reference, 0 for this policy"},
		{"other signature", pcrsig.Policy{bad, key, measure.SHA256, []measure.PCR{11}, ""}, values,
			prefix + "6 entries, 6 of bank sha256, 6 for PCR 11, 6 by key " + fp + ", 5 without a reference, 2 for this policy, but entry 1: signature does not verify with key " + fp},
		{"unknown value", pcrsig.Policy{f, key, measure.SHA256, []measure.PCR{11, 7}, ""}, values, "PCR 7 (sha256) is not predicted, but the policy names it: cannot tell"},
		{"unknown bank", pcrsig.Policy{f, key, measure.SHA512, []measure.PCR{11}, ""}, measure.PCRs{}, "PCR 11 (sha512) is not predicted, but the policy names it: cannot tell"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.p.Check(test.pcrs)
			if fmt.Sprint(err) != test.want {
				t.Errorf("\n got %v\nwant %s", err, test.want)
			}
			if strings.HasSuffix(test.want, "cannot tell") {
				if !errors.Is(err, policy.ErrCannotTell) {
					t.Errorf("does not say that it cannot tell")
				}
			} else {
				checkUnsigned(t, err)
			}
		})
	}
}

// TestSigned is what a LUKS2 token asks: the PCRs are already a policy.
func TestSigned(t *testing.T) {
	t.Parallel()
	f, key := parse(t, "sign-append-policyref.json"), publicKey(t, "pcr-pub.pem")
	for i, e := range f.Entries {
		if err := f.Signed(key, e.Bank, []measure.PCR{11}, e.Ref, e.Policy); err != nil {
			t.Errorf("entry %d: %v", i+1, err)
		}
		checkUnsigned(t, f.Signed(key, e.Bank, []measure.PCR{11}, e.Ref, tpm2.Digest{}))
	}
	// only the entry for enter-initrd has a signature for that reference
	checkUnsigned(t, f.Signed(key, measure.SHA256, []measure.PCR{11}, "initrd", f.Entries[1].Policy))
}

// TestEC: systemd signs with such a key, but does not unlock with what it signed.
func TestEC(t *testing.T) {
	t.Parallel()
	f, pcrs := parse(t, "sign-ec.json"), calculated(t, "calculate-basic.json")
	got, err := f.PhasesOf(func(p measure.Phase) (measure.PCRs, error) { return pcrs[p], nil })
	if err != nil || len(got) != 1 || !slices.Equal(got[0], []measure.Phase{initrd}) {
		t.Errorf("%q, %v", got, err)
	}
	e := f.Entries[0]
	checkUnsigned(t, f.Signed(publicKey(t, "pcr-pub.pem"), e.Bank, e.PCRs, e.Ref, e.Policy))
}

func TestPhasesOf(t *testing.T) {
	t.Parallel()
	f := parse(t, "sign-sha256.json")
	f.Entries = append(f.Entries, pcrsig.Entry{Bank: measure.SHA256, PCRs: []measure.PCR{7, 11}}) // 7 is not predicted
	pcrs := calculated(t, "calculate-basic.json")
	got, err := f.PhasesOf(func(p measure.Phase) (measure.PCRs, error) {
		if p == sysinit {
			return pcrs[leave], nil // a word that is not measured
		}
		return pcrs[p], nil
	})
	if want := [][]measure.Phase{{initrd}, {leave, sysinit}, nil, {ready}, nil}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v, not %q", got, err, want)
	}
	_, err = f.PhasesOf(func(p measure.Phase) (measure.PCRs, error) { return nil, errors.New("no") })
	if fmt.Sprint(err) != `phase "": no` {
		t.Error(err)
	}
}

func TestEntryString(t *testing.T) {
	t.Parallel()
	e := &parse(t, "sign-append-policyref.json").Entries[4]
	const want = "sha256, PCR 11, key caccb33bfdac557660f938c2caee59c5d6e954217bcbd083f0382e950301f26a, " +
		`policy 2ad3fafe8f2fdeb320539b7f13d931320348f6bbf0b9e41a0aba638c9e2e3c2b, reference "initrd"`
	if e.String() != want {
		t.Errorf("%s", e)
	}
}
