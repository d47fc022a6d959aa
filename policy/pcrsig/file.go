// Package pcrsig reads systemd's signed PCR policies, the .pcrsig section of a
// UKI or tpm2-pcr-signature.json, verifies the signatures in software and tells
// whether one of them covers PCRs as they will be (systemd 262,
// src/shared/tpm2-util.c; systemd-measure(1), "sign").
package pcrsig

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/strictjson"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// MaxSize and MaxEntries are the size in bytes and the number of entries above
// which a file is refused. systemd-measure writes about 700 bytes an entry, and
// four entries a bank.
const (
	MaxSize    = 1 << 20
	MaxEntries = 4096
)

// maxSignature is the size in bytes of the largest signature, of RSA 8192.
const maxSignature = 1024

// maxPCR is the highest PCR (TCG PC Client Platform TPM Profile).
const maxPCR = 23

// A File is the entries of a file, bank by bank, in its order.
type File struct {
	Entries []Entry
}

// An Entry is one signed policy: PCRs that a key's owner vouches for.
type Entry struct {
	Bank measure.Bank
	// PCRs are the PCRs in the policy, ascending, at least one.
	PCRs []measure.PCR
	// Key is the fingerprint that the file gives of the key.
	Key Fingerprint
	// Ref is what the signature was made for, such as "initrd" (systemd 262).
	// Empty if there is none.
	Ref string
	// Policy is the policy digest after TPM2_PolicyPCR with these PCRs.
	Policy tpm2.Digest
	// Signature is RSASSA PKCS #1 v1.5 with SHA-256, until [Entry.Verify] a mere claim.
	Signature []byte
}

// String says what the entry is about, for a person. It says nothing about its signature.
func (e *Entry) String() string {
	s := fmt.Sprintf("%s, PCR %s, key %s, policy %s", e.Bank, list(e.PCRs), e.Key, e.Policy)
	if e.Ref != "" {
		s += fmt.Sprintf(", reference %q", e.Ref)
	}
	return s
}

// list returns the numbers of PCRs with spaces between them.
func list(pcrs []measure.PCR) string { return strings.Trim(fmt.Sprint(pcrs), "[]") }

// Parse parses a file:
//
//	{"sha256": [{"pcrs": [11], "pkfp": "<hex>", "ref": "initrd", "pol": "<hex>", "sig": "<base64>"}, …], …}
//
// Only ref may be absent. The file is taken strictly: a key or bank that is not
// known is an error that wraps [policy.ErrCannotTell], and anything malformed
// an error that names the bank and the entry, counted from 1.
func Parse(data []byte) (*File, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("pcrsig: more than %d bytes", MaxSize)
	}
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("pcrsig: %w", err)
	}
	return f, nil
}

func parse(data []byte) (*File, error) {
	if err := strictjson.Validate(data); err != nil {
		return nil, err
	}
	banks, err := strictjson.Members(data)
	if err != nil {
		return nil, err
	}
	f := &File{}
	for _, m := range banks {
		bank, err := measure.ParseBank(m.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, policy.ErrCannotTell)
		}
		entries, err := strictjson.Elements(m.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", bank, err)
		}
		for i, value := range entries {
			if len(f.Entries) == MaxEntries {
				return nil, fmt.Errorf("more than %d entries", MaxEntries)
			}
			e, err := parseEntry(bank, value)
			if err != nil {
				return nil, fmt.Errorf("%s: entry %d: %w", bank, i+1, err)
			}
			f.Entries = append(f.Entries, e)
		}
	}
	return f, nil
}

func parseEntry(bank measure.Bank, value json.RawMessage) (Entry, error) {
	e := Entry{Bank: bank}
	keys, err := strictjson.Object(value, "pcrs", "pkfp", "ref", "pol", "sig")
	if err != nil {
		return e, err
	}
	for _, k := range []struct {
		name  string
		parse func(json.RawMessage) error
	}{
		{"pcrs", func(v json.RawMessage) (err error) { e.PCRs, err = parsePCRs(v); return err }},
		{"pkfp", func(v json.RawMessage) error { return parseHex(v, e.Key[:]) }},
		{"ref", func(v json.RawMessage) (err error) { e.Ref, err = parseRef(v); return err }},
		{"pol", func(v json.RawMessage) error { return parseHex(v, e.Policy[:]) }},
		{"sig", func(v json.RawMessage) (err error) { e.Signature, err = parseSignature(v); return err }},
	} {
		v, ok := keys[k.name]
		if !ok && k.name == "ref" {
			continue
		}
		if !ok {
			return e, fmt.Errorf("no %s", k.name)
		}
		if err := k.parse(v); err != nil {
			return e, fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return e, nil
}

// parsePCRs takes the numbers in any order, as systemd does.
func parsePCRs(value json.RawMessage) ([]measure.PCR, error) {
	numbers, err := strictjson.Elements(value)
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("none")
	}
	var pcrs []measure.PCR
	for _, v := range numbers {
		var n *measure.PCR
		if err := json.Unmarshal(v, &n); err != nil || n == nil || *n < 0 || *n > maxPCR {
			return nil, fmt.Errorf("%.20q: not a number from 0 to %d", v, maxPCR)
		}
		if slices.Contains(pcrs, *n) {
			return nil, fmt.Errorf("PCR %d twice", *n)
		}
		pcrs = append(pcrs, *n)
	}
	slices.Sort(pcrs)
	return pcrs, nil
}

// parseHex fills digest.
func parseHex(value json.RawMessage, digest []byte) error {
	s, err := strictjson.Text(value)
	if err != nil {
		return err
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return fmt.Errorf("%.80q: not hexadecimal", s)
	}
	if len(b) != len(digest) {
		return fmt.Errorf("%.80q: %d bytes, not %d", s, len(b), len(digest))
	}
	copy(digest, b)
	return nil
}

// parseRef refuses an empty reference: systemd writes none then.
func parseRef(value json.RawMessage) (string, error) {
	s, err := strictjson.Text(value)
	if err == nil && s == "" {
		err = fmt.Errorf("empty")
	}
	return s, err
}

func parseSignature(value json.RawMessage) ([]byte, error) {
	s, err := strictjson.Text(value)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("%.80q: not base64", s)
	}
	if len(b) == 0 || len(b) > maxSignature {
		return nil, fmt.Errorf("%d bytes, not 1 to %d", len(b), maxSignature)
	}
	return b, nil
}
