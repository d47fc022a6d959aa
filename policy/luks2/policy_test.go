package luks2_test

// Verdicts on tokens that systemd-cryptenroll made, against what the same
// systemd did when it unlocked with them. It does not prove anything of another
// TPM than the one that sealed, of a wrong PIN, or of systemd before 262 as the
// one that unlocks.

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/luks2"
	"github.com/mkexec/mkexec/policy/pcrlock"
	"github.com/mkexec/mkexec/policy/pcrsig"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// digests matches those in messages.
var digests = regexp.MustCompile(`[0-9a-f]{40,}`)

func read(t testing.TB, path string) []byte {
	t.Helper()
	return readFile(t, "testdata/"+path)
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sources returns those of a directory of testdata.
func sources(t testing.TB, dir, signature string) luks2.Sources {
	t.Helper()
	return sourcesIn(t, "testdata/"+dir, signature)
}

func sourcesIn(t testing.TB, dir, signature string) luks2.Sources {
	t.Helper()
	signatures, err := pcrsig.Parse(readFile(t, dir+"/"+signature))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := pcrlock.Parse(readFile(t, dir+"/pcrlock.json"))
	if err != nil {
		t.Fatal(err)
	}
	content, err := hex.DecodeString(strings.TrimSpace(string(readFile(t, dir+"/nv-content.hex"))))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ NVHandle []byte }
	if err := json.Unmarshal(readFile(t, dir+"/pcrlock.json"), &file); err != nil {
		t.Fatal(err)
	}
	// handle, name, kind of resource, and TPM2B_NV_PUBLIC
	public := file.NVHandle[4+2+34+4+2:]
	return luks2.Sources{
		Signatures: signatures,
		PCRLock: &luks2.PCRLock{NVName: lock.NVName, Policy: &pcrlock.Policy{File: lock, ReadNV: func(uint32) ([]byte, []byte, error) {
			return public, content, nil
		}}},
	}
}

// token parses one token.
func token(t testing.TB, data []byte) *luks2.Token {
	t.Helper()
	tokens, err := luks2.ParseTokens(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(tokens) != 1 || tokens[0].Err != nil {
		t.Fatalf("%d tokens, %v", len(tokens), tokens[0].Err)
	}
	return tokens[0]
}

// answer is yes, no with the reason, or cannot tell.
func answer(err error) string {
	var no *policy.MismatchError
	switch {
	case err == nil:
		return "yes"
	case errors.As(err, &no):
		return "no: " + string(no.Reason)
	case errors.Is(err, policy.ErrCannotTell):
		return "cannot tell"
	}
	return "error: " + err.Error()
}

// A recording is testdata/live/result.json, made by testdata/record.sh.
type recording struct {
	States map[string]measure.PCRs
	Tokens map[string]struct {
		Token   json.RawMessage
		Unlocks map[string]bool
	}
}

func recorded(t testing.TB) recording {
	t.Helper()
	return recordedIn(t, "testdata/live")
}

func recordedIn(t testing.TB, dir string) (r recording) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, dir+"/result.json"), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.States) != 7 || len(r.Tokens) < 30 {
		t.Fatalf("%d states, %d tokens", len(r.States), len(r.Tokens))
	}
	return r
}

// TestUnlocks predicts what systemd 262 did.
func TestUnlocks(t *testing.T) {
	t.Parallel()
	checkUnlocks(t, "testdata/live")
}

// checkUnlocks compares the verdict on each token in each state with whether
// systemd unlocked.
func checkUnlocks(t *testing.T, dir string) {
	t.Helper()
	r := recordedIn(t, dir)
	src := sourcesIn(t, dir, "signature.json")
	count := map[string]int{}
	for name, recorded := range r.Tokens {
		tok := token(t, recorded.Token)
		for state, pcrs := range r.States {
			err := tok.Policy(src).Check(pcrs)
			got := answer(err)
			count[got]++
			if name == "signedec" { // systemd cannot verify its signatures, a later one may
				if got != "cannot tell" {
					t.Errorf("%s, %s: %v", name, state, err)
				}
				continue
			}
			if (got == "yes") != recorded.Unlocks[state] || got == "cannot tell" || strings.HasPrefix(got, "error") {
				t.Errorf("%s, %s: unlocks %t, but %v", name, state, recorded.Unlocks[state], err)
			}
		}
		if want := strings.Contains(name, "pin") || strings.Contains(name, "direct"); tok.PIN != want {
			t.Errorf("%s: PIN %t", name, tok.PIN)
		}
	}
	t.Log(count)
	for _, want := range []string{"yes", "no: pcr-mismatch", "no: no-matching-signature", "no: other-policy", "cannot tell"} {
		if count[want] == 0 {
			t.Errorf("no token is judged %q", want)
		}
	}
}

// TestDetail: what is said of the same tokens, in words.
func TestDetail(t *testing.T) {
	t.Parallel()
	r := recorded(t)
	src := sources(t, "live", "signature.json")

	for _, test := range []struct{ token, state, want string }{
		{"literal", "B", "policy not met: PCRs 7+11 (sha256) as predicted together give policy X, the token has X"},
		{"sha384", "B", "policy not met: PCRs 11 (sha384) as predicted together give policy X, the token has X"},
		{"pin7", "F", "policy not met: PCRs 7 (sha256) as predicted together give policy X, the token has X"},
		{"signednone", "A", "policy not met: whatever the PCRs are, systemd will try policy X, but the token has X"},
		{"otherhash", "A", "policy not met: the token has policy X, but its secret is sealed to X"},
		{"othersecret", "A", "policy not met: the token has policy X, but its secret is sealed to X"},
		{"signedec", "A", "tpm2_pubkey: an EC key, systemd verifies signatures of RSA keys only: not supported: cannot tell"},
	} {
		err := token(t, r.Tokens[test.token].Token).Policy(src).Check(r.States[test.state])
		if got := digests.ReplaceAllString(fmt.Sprint(err), "X"); got != test.want {
			t.Errorf("%s, %s:\n got %s\nwant %s", test.token, test.state, got, test.want)
		}
	}
	// all that is wrong is said
	err := token(t, r.Tokens["signed7"].Token).Policy(src).Check(r.States["F"])
	if !strings.Contains(err.Error(), "no signature") || !strings.Contains(err.Error(), "; PCRs 7 (sha256)") {
		t.Error(err)
	}
	var no *policy.MismatchError
	err = token(t, r.Tokens["sharded7pin"].Token).Policy(src).Check(r.States["F"])
	if !errors.As(err, &no) || no.Reason != policy.ReasonPCR || len(no.Mismatches) != 1 || no.Mismatches[0].PCR != 11 {
		t.Errorf("%+v", no)
	}
}

// goldenPCRs parses the output of tpm2_pcrread.
func goldenPCRs(t testing.TB, name string) measure.PCRs {
	p := measure.PCRs{}
	for _, m := range regexp.MustCompile(`(\d+) *: 0x([0-9A-F]{64})\n`).FindAllStringSubmatch(string(read(t, "golden/"+name)), -1) {
		d, err := measure.ParseDigest(measure.SHA256, m[2])
		if err != nil {
			t.Fatal(err)
		}
		var n measure.PCR
		fmt.Sscan(m[1], &n)
		p.Set(measure.SHA256, n, d)
	}
	return p
}

// signatures is a .pcrsig that has one.
type signatures struct {
	ref string
	pol tpm2.Digest
}

func (s signatures) Signed(key *rsa.PublicKey, bank measure.Bank, pcrs []measure.PCR, ref string, pol tpm2.Digest) error {
	if key != nil && bank == measure.SHA256 && slices.Equal(pcrs, []measure.PCR{11}) && ref == s.ref && pol == s.pol {
		return nil
	}
	return &policy.MismatchError{Reason: policy.ReasonUnsigned, Detail: "not signed"}
}

// TestGolden judges the golden tokens, and their siblings with a bit changed: in
// each PCR and in each byte that is compared.
func TestGolden(t *testing.T) {
	t.Parallel()
	signed := goldenPCRs(t, "pcrs.txt")
	// no signature of the golden ones is for the PCR 11 of pcrs.txt; and pcrlock's is another
	pol := func(pcrs measure.PCRs) tpm2.Digest {
		d, err := tpm2.Digest{}.PCR(measure.SHA256, []measure.PCR{11}, pcrs)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	locked := goldenPCRs(t, "pcrs-pcrlock.txt")
	lock := sources(t, "golden", "sign-append-policyref.json").PCRLock
	for _, test := range []struct {
		name string
		pcrs measure.PCRs
		used []measure.PCR
		src  luks2.Sources
	}{
		{"none", measure.PCRs{}, nil, luks2.Sources{}},
		{"literal", signed, []measure.PCR{7, 11}, luks2.Sources{}},
		{"pin", signed, []measure.PCR{7}, luks2.Sources{}},
		{"argon", signed, []measure.PCR{7}, luks2.Sources{}},
		{"signed", signed, []measure.PCR{11}, luks2.Sources{Signatures: signatures{"", pol(signed)}}},
		{"signedref", signed, []measure.PCR{7, 11}, luks2.Sources{Signatures: signatures{"initrd", pol(signed)}}},
		{"pcrlock", locked, []measure.PCR{11}, luks2.Sources{PCRLock: lock}},
		{"sharded", locked, []measure.PCR{11}, luks2.Sources{PCRLock: lock, Signatures: signatures{"", pol(locked)}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			data := read(t, "golden/"+test.name+".token.json")
			tok := token(t, data)
			if tok.Number != 0 || tok.Keyslot != 1 || tok.Type != luks2.TokenType {
				t.Errorf("%+v", tok)
			}
			if err := tok.Policy(test.src).Check(test.pcrs); err != nil {
				t.Error(err)
			}
			for n := range measure.PCR(24) {
				used := slices.Contains(test.used, n)
				changed := test.pcrs.Clone()
				d := bytes.Clone(changed[measure.SHA256][n])
				if d == nil {
					d = make([]byte, 32)
				}
				d[31] ^= 1
				changed.Set(measure.SHA256, n, d)
				if got := answer(tok.Policy(test.src).Check(changed)); (got != "yes") != used || used && !strings.HasPrefix(got, "no") {
					t.Errorf("another PCR %d: %s", n, got)
				}
				delete(changed[measure.SHA256], n)
				if got := answer(tok.Policy(test.src).Check(changed)); (got != "yes") != used || used && got != "cannot tell" {
					t.Errorf("no PCR %d: %s", n, got)
				}
			}
			// what it depends on is not there
			if test.src != (luks2.Sources{}) {
				if got := answer(tok.Policy(luks2.Sources{}).Check(test.pcrs)); got != "cannot tell" {
					t.Errorf("without sources: %s", got)
				}
			}
			// a digit of each digest, and a byte of each policy in what is sealed
			for _, at := range regexp.MustCompile(`"[0-9a-f]{64}"`).FindAllIndex(data, -1) {
				changed := bytes.Clone(data)
				changed[at[0]+5] ^= 1 // a digit stays one
				if got := answer(token(t, changed).Policy(test.src).Check(test.pcrs)); got != "no: other-policy" {
					t.Errorf("another hash: %s", got)
				}
			}
			for _, at := range regexp.MustCompile(`"AJ4A[0-9A-Za-z+/=]*"`).FindAllIndex(data, -1) {
				blob, err := base64.StdEncoding.DecodeString(string(data[at[0]+1 : at[1]-1]))
				if err != nil {
					t.Fatal(err)
				}
				blob[0x9e+2+2+2+2+4+2] ^= 1 // private, size, type, nameAlg, attributes, size
				changed := slices.Concat(data[:at[0]+1], []byte(base64.StdEncoding.EncodeToString(blob)), data[at[1]-1:])
				if got := answer(token(t, changed).Policy(test.src).Check(test.pcrs)); got != "no: other-policy" {
					t.Errorf("another secret: %s", got)
				}
			}
		})
	}
}

// edit returns a token of the recording with fields changed, or removed if nil.
func edit(t testing.TB, name string, changes map[string]any) []byte {
	t.Helper()
	fields := map[string]any{}
	if err := json.Unmarshal(recorded(t).Tokens[name].Token, &fields); err != nil {
		t.Fatal(err)
	}
	for k, v := range changes {
		fields[k] = v
		if v == nil {
			delete(fields, k)
		}
	}
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestNoBank: a token of systemd 248 or 249 names no bank.
func TestNoBank(t *testing.T) {
	t.Parallel()
	r := recorded(t)
	state := func(f func(measure.PCRs)) measure.PCRs {
		p := r.States["A"].Clone()
		f(p)
		return p
	}
	zero := r.States["G"]
	ones, high := bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0xfe}, 32)
	sha256, sha1 := edit(t, "literal7", map[string]any{"tpm2-pcr-bank": nil}), edit(t, "sha1", map[string]any{"tpm2-pcr-bank": nil})
	for _, test := range []struct {
		name  string
		token []byte
		pcrs  measure.PCRs
		want  string
	}{
		{"sha256", sha256, r.States["A"], "yes"},
		{"another value", sha256, r.States["E"], "no: pcr-mismatch"},
		{"sealed to sha1, but sha256 is taken", sha1, r.States["A"], "no: pcr-mismatch"},
		{"sha256 not initialized", sha1, state(func(p measure.PCRs) { p[measure.SHA256] = zero[measure.SHA256] }), "yes"},
		{"one PCR of sha256 initialized", sha1, state(func(p measure.PCRs) { p[measure.SHA256][7] = make([]byte, 32) }), "no: pcr-mismatch"},
		{"sha256 all ones", sha1, state(func(p measure.PCRs) { p[measure.SHA256][7], p[measure.SHA256][11] = ones, ones }), "yes"},
		{"sha256 almost all ones", sha1, state(func(p measure.PCRs) { p[measure.SHA256][7], p[measure.SHA256][11] = high, high }), "no: pcr-mismatch"},
		{"sha256 not initialized, sha1 neither", sha256, zero, "no: pcr-mismatch"},
		{"sha256 not initialized, sha1 not known", sha1, state(func(p measure.PCRs) { p[measure.SHA256] = zero[measure.SHA256]; delete(p, measure.SHA1) }), "cannot tell"},
		{"sha256 not known", sha1, state(func(p measure.PCRs) { delete(p, measure.SHA256) }), "cannot tell"},
		{"sha256 not known, sha1 another value", sha1, state(func(p measure.PCRs) { delete(p, measure.SHA256); p[measure.SHA1][7] = make([]byte, 20) }), "cannot tell"},
		{"nothing known", sha256, measure.PCRs{}, "cannot tell"},
		{"no PCR at all", recorded(t).Tokens["none"].Token, measure.PCRs{}, "yes"},
	} {
		if got := answer(token(t, test.token).Policy(luks2.Sources{}).Check(test.pcrs)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestSources: what is not there, and what is another.
func TestSources(t *testing.T) {
	t.Parallel()
	r := recorded(t)
	all := sources(t, "live", "signature.json")
	other := sources(t, "golden", "sign-append-policyref.json") // of another machine
	a, e, d := r.States["A"], r.States["E"], r.States["D"]
	unread := luks2.Sources{PCRLock: &luks2.PCRLock{Policy: unreadable{}}}
	pcrlock255 := edit(t, "pcrlock", map[string]any{"tpm2_pcrlock_nv": nil})
	for _, test := range []struct {
		name  string
		token []byte
		src   luks2.Sources
		pcrs  measure.PCRs
		want  string
	}{
		{"signed, no signatures looked for", r.Tokens["signed"].Token, luks2.Sources{}, a, "cannot tell"},
		{"signed, by another", r.Tokens["signed"].Token, other, a, "no: no-matching-signature"},
		{"signed, the rest is a no", r.Tokens["signed7"].Token, luks2.Sources{}, e, "no: pcr-mismatch"},
		{"pcrlock, none looked for", r.Tokens["pcrlock"].Token, luks2.Sources{}, a, "cannot tell"},
		{"pcrlock, none looked for, the rest is a no", r.Tokens["pcrlock7"].Token, luks2.Sources{}, e, "no: pcr-mismatch"},
		{"pcrlock, another", r.Tokens["pcrlock"].Token, other, a, "no: other-policy"},
		{"pcrlock of systemd 255", pcrlock255, all, a, "yes"},
		{"pcrlock of systemd 255, another value", pcrlock255, all, d, "no: pcr-mismatch"},
		{"pcrlock of systemd 255, another", pcrlock255, other, a, "no: pcr-mismatch"}, // and another policy
		{"pcrlock of systemd 255, none looked for", pcrlock255, luks2.Sources{}, a, "cannot tell"},
		{"sharded, no signatures", r.Tokens["sharded"].Token, luks2.Sources{PCRLock: all.PCRLock}, a, "cannot tell"},
		{"sharded, no pcrlock", r.Tokens["sharded"].Token, luks2.Sources{Signatures: all.Signatures}, a, "cannot tell"},
		{"sharded, not signed, no pcrlock", r.Tokens["sharded"].Token, luks2.Sources{Signatures: all.Signatures}, d, "no: no-matching-signature"},
		{"pcrlock, not read", r.Tokens["pcrlock"].Token, unread, a, "cannot tell"},
		{"pcrlock, not read, the rest is a no", r.Tokens["pcrlock7"].Token, unread, e, "no: pcr-mismatch"},
		{"pcrlock of systemd 255, not read", pcrlock255, unread, a, "cannot tell"},
		{"sharded", r.Tokens["sharded"].Token, all, a, "yes"},
		{"sharded, the second sealed to another", []byte(swap(t, "sharded")), all, a, "no: other-policy"},
	} {
		err := token(t, test.token).Policy(test.src).Check(test.pcrs)
		if got := answer(err); got != test.want {
			t.Errorf("%s: %s (%v), want %s", test.name, got, err, test.want)
		}
	}
}

// unreadable is a policy that cannot be read.
type unreadable struct{}

func (unreadable) Check(measure.PCRs) error { return fmt.Errorf("not read: %w", policy.ErrCannotTell) }

// swap returns a sharded token with its shards in the wrong order.
func swap(t testing.TB, name string) []byte {
	var fields struct {
		Blob []string `json:"tpm2-blob"`
		Hash []string `json:"tpm2-policy-hash"`
	}
	if err := json.Unmarshal(recorded(t).Tokens[name].Token, &fields); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(fields.Blob)
	slices.Reverse(fields.Hash)
	return edit(t, name, map[string]any{"tpm2-blob": fields.Blob, "tpm2-policy-hash": fields.Hash})
}

// TestNotOurs: nothing is told of other tokens.
func TestNotOurs(t *testing.T) {
	t.Parallel()
	tokens, err := luks2.ParseTokens([]byte(`{"type": "systemd-recovery", "keyslots": ["2"]}`))
	if err != nil || len(tokens) != 1 || tokens[0].Number != -1 || tokens[0].Type != "systemd-recovery" {
		t.Fatal(tokens, err)
	}
	err = tokens[0].Policy(luks2.Sources{}).Check(measure.PCRs{})
	if fmt.Sprint(err) != `type "systemd-recovery": not supported: cannot tell` || !errors.Is(err, policy.ErrCannotTell) {
		t.Error(err)
	}
}

// TestSealedValues finds the values that tokens were enrolled with, in state A,
// among those of all states.
func TestSealedValues(t *testing.T) {
	t.Parallel()
	r := recorded(t)
	candidates := policy.Accept{}
	for _, state := range "GBCDEFA" { // the right ones last
		for b, values := range r.States[string(state)] {
			if candidates[b] == nil {
				candidates[b] = map[measure.PCR][]measure.Digest{}
			}
			for n, d := range values {
				candidates[b][n] = append(candidates[b][n], d)
			}
		}
	}
	for name, pcrs := range map[string][]measure.PCR{
		"literal": {7, 11}, "literal7": {7}, "sha1": {7, 11}, "sha384": {11}, "pin7": {7}, "signed7pin": {7}, "exp0": nil, "none": nil,
		"pcrlock7": {7}, "pcrlock7pin": {7}, "sharded7pin": {7}, "old-7": {7}, "old-nobank7": {7}, "offline7": {7}, "otherhash": nil, "signed": nil,
	} {
		tok := token(t, r.Tokens[name].Token)
		values, ok := tok.SealedValues(candidates)
		if ok != (pcrs != nil) {
			t.Errorf("%s: %v", name, ok)
			continue
		}
		for b := range values {
			for _, n := range pcrs {
				if want := r.States["A"][b][n]; values[b][n].String() != want.String() || len(values[b]) != len(pcrs) {
					t.Errorf("%s: PCR %d (%s) is %s, want %s", name, n, b, values[b][n], want)
				}
			}
		}
		for b := range candidates { // none of these is it
			values, ok = tok.SealedValues(policy.Accept{b: {7: {make(measure.Digest, b.Size())}, 11: {make(measure.Digest, b.Size())}}})
			if ok {
				t.Errorf("%s: sealed to %v", name, values)
			}
		}
	}
	many := policy.Accept{measure.SHA256: {}}
	for _, n := range []measure.PCR{7, 11} {
		for i := range 257 {
			many[measure.SHA256][n] = append(many[measure.SHA256][n], measure.SHA256.Sum([]byte{byte(i), byte(i >> 8)}))
		}
	}
	if _, ok := token(t, r.Tokens["literal"].Token).SealedValues(many); ok {
		t.Error("found")
	}
}
