package pcrlock_test

// Policies that systemd-pcrlock made give the digest that it wrote into the
// TPM, and the verdict on PCRs that it was made for. testdata/README.md says
// where they come from. It does not prove that a LUKS2 token sealed to them
// opens: policy/luks2 does, and asks this for the PCRs.

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/pcrlock"
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

func parse(t testing.TB, name string) *pcrlock.File {
	t.Helper()
	f, err := pcrlock.Parse(read(t, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// index returns what the TPM holds: the index that a file names, written, with
// the content that tpm2_nvread read.
func index(t testing.TB, file, content string) pcrlock.ReadNV {
	t.Helper()
	var j struct{ NVPublic []byte }
	if err := json.Unmarshal(read(t, file+".json"), &j); err != nil {
		t.Fatal(err)
	}
	public := j.NVPublic[2:]
	public[6] |= 0x20 // TPMA_NV_WRITTEN
	b := unhex(t, string(read(t, content+".nv")))
	return func(uint32) ([]byte, []byte, error) { return public, b, nil }
}

// pcrs parses what tpm2_pcrread printed.
func pcrs(t testing.TB, name string, bank measure.Bank) measure.PCRs {
	t.Helper()
	values := measure.PCRs{}
	for _, m := range regexp.MustCompile(`(\d+) *: 0x([0-9A-F]+)`).FindAllStringSubmatch(string(read(t, name+".pcrs")), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		values.Set(bank, measure.PCR(n), unhex(t, m[2]))
	}
	if len(values[bank]) == 0 {
		t.Fatal("no PCRs")
	}
	return values
}

var vectors = []struct {
	name, pcrs string
	bank       measure.Bank
	index      uint32
	values     map[measure.PCR]int
}{
	{"golden", "golden", measure.SHA256, 0x1bc3d45, map[measure.PCR]int{11: 8}},
	{"mixed", "mixed", measure.SHA256, 0x1bc0042, map[measure.PCR]int{11: 3, 13: 1, 14: 1, 15: 2}},
	{"mixed-again", "mixed", measure.SHA256, 0x1bc0042, map[measure.PCR]int{11: 3, 13: 1, 14: 1, 15: 1}},
	{"mixed384", "mixed384", measure.SHA384, 0x1bc0042, map[measure.PCR]int{11: 3, 13: 1, 14: 1, 15: 2}},
	{"single", "mixed", measure.SHA256, 0x1bc0042, map[measure.PCR]int{13: 1, 14: 1}},
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			f, values := parse(t, v.name), pcrs(t, v.pcrs, v.bank)
			counts := map[measure.PCR]int{}
			for n, digests := range f.Values {
				counts[n] = len(digests)
			}
			if f.Bank != v.bank || f.NVIndex != v.index || fmt.Sprint(counts) != fmt.Sprint(v.values) {
				t.Errorf("%+v", f)
			}
			got, err := f.SuperPolicy()
			if want := unhex(t, string(read(t, v.name+".nv")))[2:]; err != nil || got.String() != hex.EncodeToString(want) {
				t.Errorf("super policy %s, %v, but systemd wrote %x", got, err, want)
			}
			p := &pcrlock.Policy{File: f, ReadNV: index(t, v.name, v.name)}
			if err := p.Check(values); err != nil {
				t.Error(err)
			}
			// any combination of accepted values is as good, any other value of a PCR in it a no
			for n, accepted := range f.Values {
				for _, d := range accepted {
					other := values.Clone()
					other.Set(v.bank, n, d)
					if err := p.Check(other); err != nil {
						t.Error(err)
					}
				}
				for i := range v.bank.Size() {
					other := values.Clone()
					other.Set(v.bank, n, slices.Clone(values[v.bank][n]))
					other[v.bank][n][i] ^= 1
					var no *policy.MismatchError
					if err := p.Check(other); !errors.As(err, &no) || no.Reason != policy.ReasonPCR || len(no.Mismatches) != 1 ||
						no.Mismatches[0].PCR != n || len(no.Mismatches[0].Want) != len(accepted) || no.Mismatches[0].Got.String() != other[v.bank][n].String() {
						t.Errorf("PCR %d, byte %d changed: %v", n, i, err)
					}
				}
			}
		})
	}
}

// TestToken has the one token of systemd-cryptenroll that is sealed to golden.json.
func TestToken(t *testing.T) {
	t.Parallel()
	var token map[string]struct {
		Hash string `json:"tpm2-policy-hash"`
	}
	if err := json.Unmarshal(read(t, "golden-token.json"), &token); err != nil {
		t.Fatal(err)
	}
	if d := (tpm2.Digest{}).AuthorizeNV(parse(t, "golden").NVName); d.String() != token["0"].Hash {
		t.Errorf("%s, not %s", d, token["0"].Hash)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	f, values := parse(t, "mixed"), pcrs(t, "mixed", measure.SHA256)
	good := index(t, "mixed", "mixed")
	without := values.Clone()
	delete(without[measure.SHA256], 13)
	wrong := values.Clone()
	wrong.Set(measure.SHA256, 11, make(measure.Digest, 32))
	wrongAndWithout := without.Clone()
	wrongAndWithout.Set(measure.SHA256, 11, make(measure.Digest, 32))
	change := func(public, content func([]byte) []byte) pcrlock.ReadNV {
		return func(n uint32) ([]byte, []byte, error) {
			p, c, err := good(n)
			return public(slices.Clone(p)), content(slices.Clone(c)), err
		}
	}
	same := func(b []byte) []byte { return b }
	flip := func(i int) func([]byte) []byte { return func(b []byte) []byte { b[i] ^= 1; return b } }
	fails := func(err error) pcrlock.ReadNV {
		return func(uint32) ([]byte, []byte, error) { return nil, nil, err }
	}
	const (
		again, mixed = "f763631a8635225c3be3a8a8409666c71374852be61bff6fa724a1075c982e17", "0f58553fe99f5596fcb263730434f5042fc356602f9f25cd39b69c8dc90a6716"
		name         = "000b554c5716e1f3488f7cf923a7024409b9dea4ae3620d3c57a50407228c37ea2b3"
		no           = "policy not met: "
		pcr11        = no + "PCR 11 (sha256) before the first phase will be 0000000000000000000000000000000000000000000000000000000000000000;  accepts " +
			"d773876d650618679414b2a80098bddcd7a3f447261cbc12e31f547ee92a5355 or cb804446c3f0d0724028d3f21e4bb2bbde58d66b9ba2f6a0555778700364e66a or 6b2636e8129dde6dce5b9a30ca18fa13957b3c3773d292030eee12f837af44de"
	)
	for _, test := range []struct {
		name   string
		nv     pcrlock.ReadNV
		pcrs   measure.PCRs
		reason policy.Reason // empty: it cannot tell
		want   string
	}{
		{"value", good, wrong, policy.ReasonPCR, pcr11},
		{"value, no TPM", nil, wrong, policy.ReasonPCR, pcr11},
		{"value, and one unknown", good, wrongAndWithout, policy.ReasonPCR, pcr11},
		{"unknown value", good, without, "", "PCR 13 (sha256) is not predicted, but the policy names it: cannot tell"},
		{"no PCRs", good, measure.PCRs{}, "", "PCR 11 (sha256) is not predicted, but the policy names it: cannot tell"},
		{"no TPM", nil, values, "", "NV index 0x1bc0042, which holds the policy, is not known without its TPM: cannot tell"},
		{"rewritten", index(t, "mixed", "mixed-again"), values, policy.ReasonPolicy,
			no + "NV index 0x1bc0042 holds the policy " + again + ", but that of pcrlock.json is " + mixed + ": one was written without the other"},
		{"rewritten, unknown value", index(t, "mixed", "mixed-again"), without, policy.ReasonPolicy,
			no + "NV index 0x1bc0042 holds the policy " + again + ", but that of pcrlock.json is " + mixed + ": one was written without the other"},
		{"last byte", change(same, flip(33)), values, policy.ReasonPolicy,
			no + "NV index 0x1bc0042 holds the policy " + mixed[:63] + "7, but that of pcrlock.json is " + mixed + ": one was written without the other"},
		{"hash", change(same, flip(1)), values, policy.ReasonPolicy, no + "NV index 0x1bc0042 holds no policy digest, but 000a" + mixed},
		{"short", change(same, func(b []byte) []byte { return b[:33] }), values, policy.ReasonPolicy, no + "NV index 0x1bc0042 holds no policy digest, but 000b" + mixed[:62]},
		{"empty", change(same, func([]byte) []byte { return nil }), values, policy.ReasonPolicy, no + "NV index 0x1bc0042 holds no policy digest, but "},
		{"other index", index(t, "single", "mixed"), values, policy.ReasonPolicy,
			no + "NV index 0x1bc0042 is another than the one that pcrlock.json was made with: name 000bdbcfd8f1f6fd8cd286bd04c3b4151cf05b11b2e0a9c09296fefd8106006e9f79, not " + name},
		{"public area cut", change(func(b []byte) []byte { return b[:20] }, same), values, "", "NV index 0x1bc0042: NV public area of 20 bytes, not 46 as its policy's size has it"},
		{"gone", fails(fmt.Errorf("nv: %w", pcrlock.ErrNoIndex)), values, policy.ReasonPolicy, no + "NV index 0x1bc0042, which holds the policy, is not in the TPM"},
		{"no TPM when it is opened", fails(fmt.Errorf("no TPM: %w", fs.ErrNotExist)), values, "", "NV index 0x1bc0042: no TPM: file does not exist: cannot tell"},
		{"unreadable", fails(errors.New("device busy")), values, "", "NV index 0x1bc0042: device busy: cannot tell"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := (&pcrlock.Policy{File: f, ReadNV: test.nv}).Check(test.pcrs)
			if fmt.Sprint(err) != test.want {
				t.Errorf("\n got %v\nwant %s", err, test.want)
			}
			var no *policy.MismatchError
			if errors.As(err, &no) != (test.reason != "") || no != nil && no.Reason != test.reason {
				t.Errorf("%+v", no)
			}
			if strings.HasSuffix(test.want, "cannot tell") && !errors.Is(err, policy.ErrCannotTell) {
				t.Error("does not say that it cannot tell")
			}
		})
	}
	// every byte of the public area of the index is in its name
	public, _, _ := good(0)
	for i := range public {
		if err := (&pcrlock.Policy{File: f, ReadNV: change(flip(i), same)}).Check(values); err == nil {
			t.Errorf("byte %d of the NV public area changed: accepted", i)
		}
	}
}

// TestNoValues: PCRs without a value are in no policy.
func TestNoValues(t *testing.T) {
	t.Parallel()
	f := parse(t, "single")
	want, err := f.SuperPolicy()
	if err != nil {
		t.Fatal(err)
	}
	f.Values[7] = nil
	if got, err := f.SuperPolicy(); err != nil || got != want {
		t.Errorf("%s, %v, not %s", got, err, want)
	}
	if err := (&pcrlock.Policy{File: f, ReadNV: index(t, "single", "single")}).Check(pcrs(t, "mixed", measure.SHA256)); err != nil {
		t.Error(err)
	}
	if d, err := (&pcrlock.File{Bank: measure.SHA256}).SuperPolicy(); err != nil || !d.IsZero() {
		t.Errorf("no PCR: %s, %v", d, err)
	}
}
