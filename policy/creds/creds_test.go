package creds_test

// Credentials that systemd-creds 262 and 252 made, and whether they really
// decrypted in four TPM states (testdata/README.md). It does not prove what
// versions between them write: the key types of 256 to 261 without an SRK are
// those of the sources, and user credentials of that kind were not at hand.

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/creds"
	"github.com/mkexec/mkexec/policy/pcrsig"
)

// recorded is testdata/result.json.
type recorded struct {
	States      map[string]map[string]map[string]string // state, bank, PCR
	Credentials map[string]struct {
		Text     string
		Decrypts map[string]bool
	}
}

func readRecorded(t testing.TB) *recorded {
	t.Helper()
	var r recorded
	if err := json.Unmarshal(read(t, "result.json"), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pcrs returns the values of PCRs in a state.
func (r *recorded) pcrs(t testing.TB, state string) measure.PCRs {
	t.Helper()
	pcrs := measure.PCRs{}
	for name, values := range r.States[state] {
		bank, err := measure.ParseBank(name)
		if err != nil {
			t.Fatal(err)
		}
		for n, value := range values {
			number, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			d, err := measure.ParseDigest(bank, value)
			if err != nil {
				t.Fatal(err)
			}
			pcrs.Set(bank, measure.PCR(number), d)
		}
	}
	return pcrs
}

// credential parses a recorded credential, with the recorded signatures.
func (r *recorded) credential(t testing.TB, name string) *creds.Credential {
	t.Helper()
	c, err := creds.Parse([]byte(r.Credentials[name].Text))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if c.Policy != nil {
		c.Policy.Signatures = signatures(t)
	}
	return c
}

func signatures(t testing.TB) *pcrsig.File {
	t.Helper()
	f, err := pcrsig.Parse(read(t, "signature.json"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// reasonOf returns the reason of a no, and "" of any other error.
func reasonOf(err error) policy.Reason {
	if no := (*policy.MismatchError)(nil); errors.As(err, &no) {
		return no.Reason
	}
	return ""
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	r := readRecorded(t)
	const noReason = policy.Reason("")
	for name, want := range map[string]struct {
		key        string
		user       bool
		bank       measure.Bank // 0: no TPM
		pcrs, pk   []measure.PCR
		reason     policy.Reason // of a no in state C, where PCR 7 is another one
		cannotTell bool
	}{
		"null (262)":             {key: "null"},
		"null (252)":             {key: "null"},
		"host (262)":             {key: "host"},
		"host (252)":             {key: "host"},
		"host-user (262)":        {key: "host", user: true},
		"tpm2 (262)":             {key: "tpm2", bank: measure.SHA256},
		"tpm2-7 (262)":           {key: "tpm2", bank: measure.SHA256, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"tpm2-7 (252)":           {key: "tpm2", bank: measure.SHA256, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"tpm2-7+11 (262)":        {key: "tpm2", bank: measure.SHA256, pcrs: []measure.PCR{7, 11}, reason: policy.ReasonPCR},
		"tpm2-7+11 (252)":        {key: "tpm2", bank: measure.SHA256, pcrs: []measure.PCR{7, 11}, reason: policy.ReasonPCR},
		"host+tpm2-7 (262)":      {key: "host+tpm2", bank: measure.SHA256, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"host+tpm2-7 (252)":      {key: "host+tpm2", bank: measure.SHA256, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"host+tpm2-user (262)":   {key: "host+tpm2", user: true, bank: measure.SHA256},
		"host+tpm2-7-user (262)": {key: "host+tpm2", user: true, bank: measure.SHA256, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"pk (262)":               {key: "tpm2-with-public-key", bank: measure.SHA256, pk: []measure.PCR{11}},
		"pk (252)":               {key: "tpm2-with-public-key", bank: measure.SHA256, pk: []measure.PCR{11}},
		"pk-7 (262)":             {key: "tpm2-with-public-key", bank: measure.SHA256, pcrs: []measure.PCR{7}, pk: []measure.PCR{11}, reason: policy.ReasonPCR},
		"pk-7 (252)":             {key: "tpm2-with-public-key", bank: measure.SHA256, pcrs: []measure.PCR{7}, pk: []measure.PCR{11}, reason: policy.ReasonPCR},
		"pk-of-7 (262)":          {key: "tpm2-with-public-key", bank: measure.SHA256, pk: []measure.PCR{7}, reason: policy.ReasonUnsigned},
		"pk-other (262)":         {key: "tpm2-with-public-key", bank: measure.SHA256, pk: []measure.PCR{11}, reason: policy.ReasonUnsigned},
		"pk-ec (262)":            {key: "tpm2-with-public-key", bank: measure.SHA256, pk: []measure.PCR{11}, cannotTell: true},
		"host+pk (262)":          {key: "host+tpm2-with-public-key", bank: measure.SHA256, pk: []measure.PCR{11}},
		"host+pk-7 (252)":        {key: "host+tpm2-with-public-key", bank: measure.SHA256, pcrs: []measure.PCR{7}, pk: []measure.PCR{11}, reason: policy.ReasonPCR},
		"host+pk-7-user (262)":   {key: "host+tpm2-with-public-key", user: true, bank: measure.SHA256, pcrs: []measure.PCR{7}, pk: []measure.PCR{11}, reason: policy.ReasonPCR},
		"sha1-7 (262)":           {key: "tpm2", bank: measure.SHA1, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"sha1-7 (252)":           {key: "tpm2", bank: measure.SHA1, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"sha1-pk (262)":          {key: "tpm2-with-public-key", bank: measure.SHA1, pk: []measure.PCR{11}},
		"sha384-7 (262)":         {key: "tpm2", bank: measure.SHA384, pcrs: []measure.PCR{7}, reason: policy.ReasonPCR},
		"sha384-pk (262)":        {key: "tpm2-with-public-key", bank: measure.SHA384, pk: []measure.PCR{11}},
		brokenBank + " (252)":    {},
	} {
		if _, ok := r.Credentials[name]; !ok {
			t.Errorf("%s: not recorded", name)
			continue
		}
		if name == brokenBank+" (252)" {
			continue // TestBrokenBank
		}
		c := r.credential(t, name)
		if c.Key != want.key || c.User != want.user || (c.Policy != nil) != (want.bank != 0) {
			t.Errorf("%s: %+v, want %+v", name, c, want)
			continue
		}
		if c.Policy == nil {
			for state, ok := range r.Credentials[name].Decrypts {
				if !ok {
					t.Errorf("%s: did not decrypt in state %s", name, state)
				}
			}
			continue
		}
		if p := c.Policy; p.Bank != want.bank || !slices.Equal(p.PCRs, want.pcrs) || !slices.Equal(p.PublicKeyPCRs, want.pk) || (p.PublicKey != nil) != (want.pk != nil) {
			t.Errorf("%s: %+v, want %+v", name, p, want)
		}
		if got := c.Policy.IsBound(); got != (want.pcrs != nil || want.pk != nil) {
			t.Errorf("%s: bound to PCRs: %v", name, got)
		}
		for state, decrypts := range r.Credentials[name].Decrypts {
			err := c.Policy.Check(r.pcrs(t, state))
			if want.cannotTell {
				if decrypts || !errors.Is(err, policy.ErrCannotTell) {
					t.Errorf("%s: state %s: %v; it really decrypts: %v", name, state, err, decrypts)
				}
				continue
			}
			if (err == nil) != decrypts || err != nil && reasonOf(err) == noReason {
				t.Errorf("%s: state %s: %v; it really decrypts: %v", name, state, err, decrypts)
			}
			if state == "C" && reasonOf(err) != want.reason {
				t.Errorf("%s: state C: reason %q, want %q", name, reasonOf(err), want.reason)
			}
		}
	}
	if len(r.Credentials) != 30 {
		t.Errorf("%d credentials", len(r.Credentials))
	}
}

// brokenBank is what 252 makes without PCRs and signs with bank 0xffff. It does
// not decrypt it itself.
const brokenBank = "tpm2"

func TestBrokenBank(t *testing.T) {
	t.Parallel()
	c := readRecorded(t).Credentials[brokenBank+" (252)"]
	_, err := creds.Parse([]byte(c.Text))
	if want := "credential: at byte 56: PCR bank 0xffff: unknown: cannot tell"; err == nil || err.Error() != want || !errors.Is(err, policy.ErrCannotTell) {
		t.Errorf("%v, want %s", err, want)
	}
	if slices.Contains(slices.Collect(maps.Values(c.Decrypts)), true) {
		t.Errorf("it decrypts: %v", c.Decrypts)
	}
}

// TestUnknown: what is not known is neither yes nor no, but a no of the other part stays one.
func TestUnknown(t *testing.T) {
	t.Parallel()
	r := readRecorded(t)
	p := r.credential(t, "pk-7 (262)").Policy
	for _, test := range []struct {
		name     string
		state    string
		lacks    []measure.PCR
		unsigned bool
		want     policy.Reason
	}{
		{"7", "A", []measure.PCR{7}, false, ""},
		{"11", "A", []measure.PCR{11}, false, ""},
		{"both", "A", []measure.PCR{7, 11}, false, ""},
		{"11, and 7 is another one", "C", []measure.PCR{11}, false, policy.ReasonPCR},
		{"7, and 11 is not signed", "D", []measure.PCR{7}, false, policy.ReasonUnsigned},
		{"7, and there are no signatures", "A", []measure.PCR{7}, true, ""},
		{"11, and there are no signatures", "A", []measure.PCR{11}, true, ""},
		{"7 is another one, and there are no signatures", "C", nil, true, policy.ReasonPCR},
	} {
		pcrs := r.pcrs(t, test.state)
		for _, n := range test.lacks {
			delete(pcrs[measure.SHA256], n)
		}
		q := *p
		if test.unsigned {
			q.Signatures = nil
		}
		err := q.Check(pcrs)
		if reasonOf(err) != test.want || test.want == "" && !errors.Is(err, policy.ErrCannotTell) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// header returns the bytes of a recorded credential.
func header(t testing.TB, r *recorded, name string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(r.Credentials[name].Text, "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }

// TestOneByte: every byte before the encrypted part that has a meaning makes a
// credential which is refused, does not decrypt, or is another one.
func TestOneByte(t *testing.T) {
	t.Parallel()
	r := readRecorded(t)
	pcrs, signed := r.pcrs(t, "A"), signatures(t)
	for name, free := range map[string][][2]int{
		// what only the TPM or the cipher refuses: IV, sealed key, storage root key and its size (one more is padding)
		"tpm2-7 (252)":         {{32, 44}, {68, 308}},
		"pk-7 (252)":           {{32, 44}, {68, 308}},
		"pk-7 (262)":           {{32, 44}, {68, 308}, {808, 948}},
		"host+pk-7-user (262)": {{32, 44}, {68, 308}, {808, 948}},
	} {
		good := header(t, r, name)
		if err := r.credential(t, name).Policy.Check(pcrs); err != nil {
			t.Fatal(name, err)
		}
		end := map[string]int{"tpm2-7 (252)": 344, "pk-7 (252)": 808, "pk-7 (262)": 952, "host+pk-7-user (262)": 960}[name]
		for i := range end {
			if slices.ContainsFunc(free, func(f [2]int) bool { return i >= f[0] && i < f[1] }) {
				continue
			}
			b := slices.Clone(good)
			b[i] ^= 1
			c, err := creds.Parse(encode(b))
			if err != nil {
				continue
			}
			if c.Policy == nil {
				t.Errorf("%s: byte %d: no policy", name, i)
				continue
			}
			c.Policy.Signatures = signed
			if err := c.Policy.Check(pcrs); err == nil {
				t.Errorf("%s: byte %d (0x%02x): still a yes", name, i, good[i])
			}
		}
	}
}

func decodeText(text []byte) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), ""))
}
