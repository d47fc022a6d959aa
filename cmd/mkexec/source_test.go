package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/luks2"
)

// Where signed policies come from, and what they say by themselves: signatures
// and PCR values are systemd-measure's (policy/pcrsig/testdata). It does not
// prove that systemd looks in the same places.

func pcrsigData(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../policy/pcrsig/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signedPCRs are PCR 11 at enter-initrd in all banks, as systemd-measure calculates it.
func signedPCRs(t *testing.T) measure.PCRs {
	t.Helper()
	var banks map[measure.Bank][]struct {
		Phase measure.Phase
		Hash  measure.Digest
	}
	if err := json.Unmarshal(pcrsigData(t, "calculate-basic.json"), &banks); err != nil {
		t.Fatal(err)
	}
	pcrs := measure.PCRs{}
	for b, values := range banks {
		for _, v := range values {
			if v.Phase == "enter-initrd" {
				pcrs.Set(b, 11, v.Hash)
			}
		}
	}
	return pcrs
}

// edited returns a file of signatures with one bank changed.
func edited(t *testing.T, name, bank string, change func([]map[string]any) []map[string]any) []byte {
	t.Helper()
	var file map[string][]map[string]any
	if err := json.Unmarshal(pcrsigData(t, name), &file); err != nil {
		t.Fatal(err)
	}
	if file[bank] = change(file[bank]); file[bank] == nil {
		delete(file, bank)
	}
	b, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func answerOf(err error) string {
	var no *policy.MismatchError
	switch {
	case err == nil:
		return "yes"
	case errors.As(err, &no):
		return "no"
	case errors.Is(err, policy.ErrCannotTell):
		return "unknown"
	}
	return err.Error()
}

func TestSignaturesByThemselves(t *testing.T) {
	t.Parallel()
	all := signedPCRs(t)
	const every, sha256 = "sign-allbanks-enter-initrd.json", "sha256"
	otherPolicy := func(entries []map[string]any) []map[string]any {
		entries[0]["pol"] = "00" + entries[0]["pol"].(string)[2:]
		return entries
	}
	drop := func([]map[string]any) []map[string]any { return nil }
	onlyRef := func(entries []map[string]any) (with []map[string]any) {
		for _, e := range entries {
			if e["ref"] != nil {
				with = append(with, e)
			}
		}
		return with
	}
	noPlain := func(entries []map[string]any) []map[string]any { // those without a reference are for other PCRs
		for _, e := range entries {
			if e["ref"] == nil {
				e["pol"] = "00" + e["pol"].(string)[2:]
			}
		}
		return entries
	}
	some := func(banks ...measure.Bank) measure.PCRs {
		pcrs := measure.PCRs{}
		for _, b := range banks {
			pcrs[b] = all[b]
		}
		return pcrs
	}
	for _, test := range []struct {
		name string
		file []byte
		pcrs measure.PCRs
		want string
	}{
		{"all banks", pcrsigData(t, every), all, "yes"},
		{"one bank of four", pcrsigData(t, every), some(measure.SHA384), "yes"},
		{"a bank that the file has not", edited(t, every, sha256, drop), some(measure.SHA256), "unknown"},
		{"and others", edited(t, every, sha256, drop), all, "yes"},
		{"not for one bank", edited(t, every, sha256, otherPolicy), all, "unknown"},
		{"not for the bank that is used", edited(t, every, sha256, otherPolicy), some(measure.SHA256), "no"},
		{"with and without a reference", pcrsigData(t, "sign-append-policyref.json"), some(measure.SHA256), "yes"},
		{"with a reference only", edited(t, "sign-append-policyref.json", sha256, onlyRef), some(measure.SHA256), "yes"},
		{"that without is for others", edited(t, "sign-append-policyref.json", sha256, noPlain), some(measure.SHA256), "no"},
		{"nothing is known", pcrsigData(t, every), measure.PCRs{}, "unknown"},
	} {
		o := &opener{boot: &stub.Boot{PCRSignature: measure.Bytes(test.file), PCRPublicKey: measure.Bytes(pcrsigData(t, "pcr-pub.pem"))}}
		p, err := o.openSignature(&policy.Source{Kind: policy.SourceSignature, Path: policy.InImage})
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if got := answerOf(p.Check(test.pcrs)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestSignaturesOfAPhase: in the initrd the image's count, later what is in /etc
// does, too; and what is not known is not nothing.
func TestSignaturesOfAPhase(t *testing.T) {
	t.Parallel()
	file := pcrsigData(t, "sign-sha256.json")
	const initrd, host = measure.Phase("enter-initrd"), measure.Phase("enter-initrd:leave-initrd:sysinit")
	with := func(names ...string) fstest.MapFS {
		root := fstest.MapFS{"etc/hostname": {}}
		for _, n := range names {
			root[n] = &fstest.MapFile{Data: []byte(`{"sha256": []}`)} // other than the image's
		}
		return root
	}
	for _, test := range []struct {
		name    string
		machine fstest.MapFS
		image   bool
		at      measure.Phase
		want    int // entries, -1 for not known
	}{
		{"the image's", with(), true, initrd, 4},
		{"the image's, behind the initrd", with(), true, host, 4},
		{"none in the image: the initrd may have some", with(), false, initrd, -1},
		{"none at all", with(), false, host, 0},
		{"/etc is not in the initrd", with("etc/systemd/tpm2-pcr-signature.json"), true, initrd, 4},
		{"/etc comes first", with("etc/systemd/tpm2-pcr-signature.json"), true, host, 0},
		{"/run is that of this system", with("run/systemd/tpm2-pcr-signature.json"), true, host, 4},
		{"/usr comes last", with("usr/lib/systemd/tpm2-pcr-signature.json"), true, host, 4},
	} {
		o := &opener{machine: test.machine, boot: &stub.Boot{}}
		if test.image {
			o.boot.PCRSignature = measure.Bytes(file)
		}
		f, err := o.firstSignatures(test.at)
		got := -1
		if f != nil {
			got = len(f.Entries)
		}
		if err != nil || got != test.want {
			t.Errorf("%s: %d entries, want %d (%v)", test.name, got, test.want, err)
		}
	}
}

// TestInThisTPM: a token that another TPM sealed does not unlock, whatever the PCRs are.
func TestInThisTPM(t *testing.T) {
	t.Parallel()
	states, tokens := recordedStates(t)
	tok, old := tokens["literal7"], tokens["old-7"] // 252 does not say
	if tok.SRK != 0x81000001 || len(tok.SRKName) != 34 || old.SRKName != nil {
		t.Fatalf("%x %x %x", tok.SRK, tok.SRKName, old.SRKName)
	}
	other := append([]byte(nil), tok.SRKName...)
	other[33] ^= 1
	for _, test := range []struct {
		name  string
		token *luks2.Token
		key   []byte
		err   error
		state string
		want  string
	}{
		{"the same", tok, tok.SRKName, nil, "A", "yes"},
		{"the same, other PCRs", tok, tok.SRKName, nil, "E", "no"},
		{"another", tok, other, nil, "A", "no"},
		{"none now", tok, nil, fmt.Errorf("object: %w", fs.ErrNotExist), "A", "unknown"},
		{"none now, other PCRs", tok, nil, fmt.Errorf("object: %w", fs.ErrNotExist), "E", "no"},
		{"not told", tok, nil, errors.New("busy"), "A", "unknown"},
		{"no TPM to ask", tok, nil, fmt.Errorf("/dev/tpmrm0: %w", tpm.ErrNoTPM), "A", "yes"},
		{"a token that does not say", old, other, nil, "A", "yes"},
	} {
		o := &opener{readName: func(handle uint32) ([]byte, error) {
			if handle != 0x81000001 {
				t.Errorf("handle %x", handle)
			}
			return test.key, test.err
		}}
		err := o.inThisTPM(test.token, test.token.Policy(luks2.Sources{})).Check(states[test.state])
		if got := answerOf(err); got != test.want {
			t.Errorf("%s: %s, want %s (%v)", test.name, got, test.want, err)
		}
		if test.name == "another" && (!errors.As(err, new(*policy.MismatchError)) || !strings.Contains(err.Error(), "it is sealed under another storage root key (0x81000001) than the TPM has")) {
			t.Error(err)
		}
	}
}
