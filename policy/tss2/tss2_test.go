package tss2_test

// Files by several tools are read, and the verdict on PCRs is what a TPM says
// of the same object. testdata/README.md says where they come from. It does
// not prove that a tool runs the commands of a file as this package does.

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tss2"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recorded returns the PCRs that the files of testdata/README.md were unsealed with.
func recorded(t testing.TB) measure.PCRs {
	t.Helper()
	var pcrs measure.PCRs
	if err := json.Unmarshal(read(t, "pcrs.json"), &pcrs); err != nil {
		t.Fatal(err)
	}
	return pcrs
}

var vectors = []struct {
	name  string
	typ   tss2.Type
	empty bool // no password
	// policies are Policy and then the AuthPolicies
	policies string
	pcrs     []measure.PCR // whose value matters
	bank     measure.Bank
	want     string // of Check with the recorded PCRs; empty for nil
	no       string // with one of the PCRs changed
}{
	{"tpm-order", tss2.Sealed, true, "[[PolicyPCR 7 11 (sha256)]]", []measure.PCR{7, 11}, measure.SHA256, "", "digest of the values"},
	{"tpm-order-no-digest", tss2.Sealed, true, "[[PolicyPCR 7 11 (sha256)]]", []measure.PCR{7, 11}, measure.SHA256, "", "PCR 7 11 (sha256) as predicted: policy"},
	{"hash-order-auth", tss2.Sealed, false, "[[PolicyPCR 11 (sha256) PolicyAuthValue]]", []measure.PCR{11}, measure.SHA256, "", "digest of the values"},
	{"sha384-bank", tss2.Sealed, true, "[[PolicyPCR 7 (sha384)]]", []measure.PCR{7}, measure.SHA384, "", "digest of the values"},
	{"or", tss2.Sealed, true, "[[PolicyPCR 11 (sha256) PolicyOR]]", []measure.PCR{11}, measure.SHA256, "", "which is none of 2 that it is sealed to"},
	{"alternatives", tss2.Sealed, true, "[[] [PolicyPCR 11 (sha256) PolicyOR] [PolicyPCR 11 (sha256) PolicyOR]]", []measure.PCR{11}, measure.SHA256, "", "digest of the values"},
	{"no-policy", tss2.Sealed, true, "[[]]", nil, 0, "", ""},
	{"loadable", tss2.Loadable, true, "[[PolicyPCR 7 11 (sha256)]]", []measure.PCR{7, 11}, measure.SHA256, "", "digest of the values"},
	{"engine-sha384", tss2.Loadable, true, "[[PolicyPCR PolicyAuthValue]]", nil, 0, "a policy of sha384: not supported (supported: sha256): cannot tell", ""},
	{"engine-signed", tss2.Loadable, false, "[[PolicyAuthorize] [PolicySecret PolicyAuthorize]]", nil, 0, "command 1: PolicySecret: not supported: cannot tell", ""},
	{"openssl-provider", tss2.Loadable, true, "[[]]", nil, 0, "", ""},
	{"tpm2-tools-pcr", tss2.Loadable, true, "[[]]", nil, 0, "loadable key with a policy, but the file does not say which: cannot tell", ""},
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			k, err := tss2.Parse(read(t, v.name+".tpm"))
			if err != nil {
				t.Fatal(err)
			}
			policies := [][]tss2.Command{k.Policy}
			for _, p := range k.AuthPolicies {
				policies = append(policies, p.Policy)
			}
			if k.Type != v.typ || k.EmptyAuth != v.empty || fmt.Sprint(policies) != v.policies {
				t.Errorf("%s, %t, %s", k.Type, k.EmptyAuth, policies)
			}
			pcrs := recorded(t)
			if err := k.Check(pcrs); fmt.Sprint(err) != v.want && (err != nil || v.want != "") {
				t.Errorf("\n got %v\nwant %s", err, v.want)
			}
			for _, n := range v.pcrs {
				for i := range v.bank.Size() {
					changed := pcrs.Clone()
					changed.Set(v.bank, n, slices.Clone(pcrs[v.bank][n]))
					changed[v.bank][n][i] ^= 1
					var no *policy.MismatchError
					if err := k.Check(changed); !errors.As(err, &no) || no.Reason != policy.ReasonPCR || !strings.Contains(no.Detail, v.no) {
						t.Errorf("PCR %d, byte %d changed: %v", n, i, err)
					}
				}
				without := pcrs.Clone()
				delete(without[v.bank], n)
				if err := k.Check(without); !errors.Is(err, policy.ErrCannotTell) {
					t.Errorf("without PCR %d: %v", n, err)
				}
			}
		})
	}
}
