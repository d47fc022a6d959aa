package tss2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// Check implements [policy.Policy]. It runs the commands of the file as a policy
// session would: a no is of the command that fails or, with
// [policy.ReasonPolicy], that all succeed but lead to another policy than that of
// the object. A password may be needed besides. If there are alternatives, one
// that succeeds is enough.
func (k *Key) Check(pcrs measure.PCRs) error {
	if len(k.public.authPolicy) == 0 {
		if k.public.userWithAuth {
			return nil
		}
		return &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: fmt.Sprintf("%s with neither a policy nor userWithAuth: nothing can use it", k.Type)}
	}
	sequences := make([][]Command, 0, len(k.AuthPolicies)+1)
	for _, p := range k.AuthPolicies {
		sequences = append(sequences, p.Policy)
	}
	if len(k.Policy) > 0 {
		sequences = append(sequences, k.Policy)
	}
	if len(sequences) == 0 {
		if k.public.userWithAuth {
			return nil // by its authValue
		}
		return fmt.Errorf("%s with a policy, but the file does not say which: %w", k.Type, policy.ErrCannotTell)
	}
	want, err := k.public.digest()
	if err != nil {
		return err
	}
	var no, cannotTell error // the first of each
	for _, commands := range sequences {
		err := run(commands, want, pcrs)
		var mismatch *policy.MismatchError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &mismatch):
			if cannotTell == nil {
				cannotTell = err
			}
		case no == nil:
			no = err
		}
	}
	if cannotTell != nil {
		return cannotTell
	}
	if k.public.userWithAuth {
		return fmt.Errorf("%s; but the %s can be used without its policy as well, by userWithAuth: %w", no, k.Type, policy.ErrCannotTell)
	}
	return no
}

// Command codes (TPM 2.0 Library Part 2, 6.5.2 "TPM_CC").
const (
	ccPolicyAuthValue = 0x16B
	ccPolicyOR        = 0x171
	ccPolicyPCR       = 0x17F
	ccPolicyPassword  = 0x18C
)

// codes are the names of the policy commands.
var codes = map[uint32]string{
	0x149: "PolicyNV", 0x151: "PolicySecret", 0x160: "PolicySigned", 0x16A: "PolicyAuthorize", ccPolicyAuthValue: "PolicyAuthValue",
	0x16C: "PolicyCommandCode", 0x16D: "PolicyCounterTimer", 0x16E: "PolicyCpHash", 0x16F: "PolicyLocality", 0x170: "PolicyNameHash",
	ccPolicyOR: "PolicyOR", 0x172: "PolicyTicket", ccPolicyPCR: "PolicyPCR", 0x187: "PolicyPhysicalPresence", 0x188: "PolicyDuplicationSelect",
	ccPolicyPassword: "PolicyPassword", 0x18F: "PolicyNvWritten", 0x190: "PolicyTemplate", 0x192: "PolicyAuthorizeNV",
}

// String returns the name of the command and, of PolicyPCR, the PCRs.
func (c Command) String() string {
	if c.Code == ccPolicyPCR {
		if p, err := parsePolicyPCR(c.Parameters); err == nil {
			return fmt.Sprintf("PolicyPCR %s", p)
		}
	}
	if name := codes[c.Code]; name != "" {
		return name
	}
	return fmt.Sprintf("policy command 0x%x", c.Code)
}

// run returns nil if the commands lead to want.
func run(commands []Command, want tpm2.Digest, pcrs measure.PCRs) error {
	var d tpm2.Digest
	var selections []string // of which the file does not have the composite
	for i, c := range commands {
		var err error
		switch c.Code {
		case ccPolicyPCR:
			var p policyPCR
			if p, err = parsePolicyPCR(c.Parameters); err == nil {
				if d, err = p.run(d, pcrs); err == nil && p.composite == nil {
					selections = append(selections, p.String())
				}
			}
		case ccPolicyAuthValue, ccPolicyPassword: // they have the same digest
			if len(c.Parameters) > 0 {
				err = fmt.Errorf("%d bytes of parameters, not 0", len(c.Parameters))
			}
			d = d.AuthValue()
		case ccPolicyOR:
			d, err = runOR(c.Parameters, d)
		default:
			err = fmt.Errorf("%s: not supported: %w", c, policy.ErrCannotTell)
		}
		if err != nil {
			if no := (*policy.MismatchError)(nil); errors.As(err, &no) {
				return err
			}
			return fmt.Errorf("command %d: %w", i+1, err)
		}
	}
	switch {
	case d == want:
		return nil
	case selections != nil:
		return &policy.MismatchError{Reason: policy.ReasonPCR, Detail: fmt.Sprintf(
			"PCR %s as predicted: policy %s, not %s, which it is sealed to", strings.Join(selections, ", "), d, want)}
	}
	return &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: fmt.Sprintf("the policy in the file is %s, not %s, which it is sealed to", d, want)}
}

// A policyPCR is the parameters of TPM2_PolicyPCR.
type policyPCR struct {
	bank measure.Bank
	pcrs []measure.PCR
	// composite is the SHA-256 of the values, in the order of the numbers. Nil
	// if the file leaves it to the TPM.
	composite []byte
}

func (p policyPCR) String() string {
	return fmt.Sprintf("%s (%s)", strings.Trim(fmt.Sprint(p.pcrs), "[]"), p.bank)
}

// parsePolicyPCR takes the parameters in the order of the TPM, as the draft has
// it and GRUB reads it: TPM2B_DIGEST, which may be empty, and TPML_PCR_SELECTION;
// or in the order of their hash, as openssl_tpm2_engine writes them:
// TPML_PCR_SELECTION and the bare digest. What is one is never the other: a
// selection of banks begins with 0000 0001, which is an empty digest and too
// many banks.
func parsePolicyPCR(b []byte) (p policyPCR, err error) {
	if digest, selection, ok := tpm2.Sized(b); ok && (len(digest) == 0 || len(digest) == sha256.Size) {
		if rest, err := p.parseSelection(selection); err == nil && len(rest) == 0 {
			if len(digest) > 0 {
				p.composite = digest
			}
			return p, nil
		} else if errors.Is(err, policy.ErrCannotTell) {
			return p, err
		}
	}
	rest, err := p.parseSelection(b)
	if err != nil {
		return p, err
	}
	if len(rest) != sha256.Size {
		return p, fmt.Errorf("a digest of %d bytes, not %d", len(rest), sha256.Size)
	}
	p.composite = rest
	return p, nil
}

// parseSelection parses a TPML_PCR_SELECTION of one bank and returns what is
// behind it.
func (p *policyPCR) parseSelection(b []byte) (rest []byte, err error) {
	if len(b) < 4 {
		return nil, errors.New("no PCR selection")
	}
	// maxBanks is the number of hashes that a TPM may have (TPM 2.0 Library Part 2, 10.9.7: HASH_COUNT)
	const maxBanks = 16
	count := binary.BigEndian.Uint32(b)
	if count == 0 || count > maxBanks {
		return nil, fmt.Errorf("a PCR selection of %d banks", count)
	}
	if count > 1 {
		return nil, fmt.Errorf("a PCR selection of %d banks: not supported (supported: 1): %w", count, policy.ErrCannotTell)
	}
	b = b[4:]
	const size = 3 // of the bitmap: PCR 0 to 23
	if len(b) < 3+size {
		return nil, errors.New("no PCR selection")
	}
	if b[2] != size {
		return nil, fmt.Errorf("a PCR selection of %d bytes: not supported (supported: %d): %w", b[2], size, policy.ErrCannotTell)
	}
	p.bank = measure.Bank(binary.BigEndian.Uint16(b))
	if p.bank.Size() == 0 {
		return nil, fmt.Errorf("bank %s: not supported (supported: %s): %w", p.bank, measure.BankNames(measure.Banks()), policy.ErrCannotTell)
	}
	p.pcrs = nil
	for n := range measure.PCR(8 * size) {
		if b[3+n/8]>>(n%8)&1 != 0 {
			p.pcrs = append(p.pcrs, n)
		}
	}
	if p.pcrs == nil {
		return nil, fmt.Errorf("a PCR selection of no PCR: not supported: %w", policy.ErrCannotTell)
	}
	return b[3+size:], nil
}

// run returns the digest after the command.
func (p policyPCR) run(d tpm2.Digest, pcrs measure.PCRs) (tpm2.Digest, error) {
	d, err := d.PCR(p.bank, p.pcrs, pcrs)
	if err != nil || p.composite == nil {
		return d, err
	}
	h := sha256.New()
	for _, n := range p.pcrs {
		h.Write(pcrs[p.bank][n])
	}
	if got := h.Sum(nil); !bytes.Equal(got, p.composite) {
		return d, &policy.MismatchError{Reason: policy.ReasonPCR, Detail: fmt.Sprintf(
			"PCR %s as predicted: digest of the values %x, not %x, which it is sealed to", p, got, p.composite)}
	}
	return d, nil
}

// runOR returns the digest after TPM2_PolicyOR, whose parameter is a TPML_DIGEST.
func runOR(b []byte, d tpm2.Digest) (tpm2.Digest, error) {
	malformed := fmt.Errorf("%d bytes that are no list of digests", len(b))
	if len(b) < 4 {
		return d, malformed
	}
	count, rest := binary.BigEndian.Uint32(b), b[4:]
	var branches []tpm2.Digest
	for range count {
		digest, next, ok := tpm2.Sized(rest)
		if !ok {
			return d, malformed
		}
		branch, err := tpm2.ParseDigest(digest)
		if err != nil {
			return d, err
		}
		branches, rest = append(branches, branch), next
	}
	if len(rest) > 0 {
		return d, malformed
	}
	or, err := d.OR(branches...)
	if err != nil {
		return d, err
	}
	if !slices.Contains(branches, d) {
		return d, &policy.MismatchError{Reason: policy.ReasonPCR, Detail: fmt.Sprintf("PCRs as predicted: policy %s, which is none of %d that it is sealed to", d, count)}
	}
	return or, nil
}
