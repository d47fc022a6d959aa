package luks2

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// Signatures are signed PCR policies, a .pcrsig.
type Signatures interface {
	// Signed returns nil if there is a signature of key over pol, for these PCRs
	// of the bank and this reference (empty for none), and a
	// [*policy.MismatchError] if there is not. Any other error means that it cannot
	// be told.
	Signed(key *rsa.PublicKey, bank measure.Bank, pcrs []measure.PCR, ref string, pol tpm2.Digest) error
}

// PCRLock is a policy of systemd-pcrlock, a pcrlock.json.
type PCRLock struct {
	// NVName is the Name of the NV index that the policy is in, nil if it is not known.
	NVName []byte
	// Policy is met if the policy in that index is.
	Policy policy.Policy
}

// Sources are what a token's policy may depend on besides the PCRs. Those that
// have not been looked for are nil; a token that needs one of them cannot be
// judged then.
type Sources struct {
	Signatures Signatures
	PCRLock    *PCRLock
}

// Policy returns the condition under which the TPM releases the secret of the
// token to systemd, given the PIN if it has one: the policy that systemd will
// then carry out has to be the one that the secret is sealed to (systemd 262,
// src/shared/tpm2-util.c, tpm2_unseal()). Whether it is the TPM that sealed the
// secret, and whether that is locked against a dictionary attack, is not part
// of it.
func (t *Token) Policy(s Sources) policy.Policy { return &sealed{t, s} }

type sealed struct {
	token   *Token
	sources Sources
}

// Check implements [policy.Policy].
func (s *sealed) Check(pcrs measure.PCRs) error {
	if s.token.Err != nil {
		return s.token.Err
	}
	banks := s.token.banks(pcrs)
	err := s.check(banks[0], pcrs)
	for _, bank := range banks[1:] {
		if other := s.check(bank, pcrs); answer(other) != answer(err) {
			return fmt.Errorf("the token names no bank, and systemd takes one of %s: %w", measure.BankNames(banks), policy.ErrCannotTell)
		}
	}
	return err
}

// answer tells a yes, a no, and a cannot tell apart.
func answer(err error) string {
	var no *policy.MismatchError
	switch {
	case err == nil:
		return "yes"
	case errors.As(err, &no):
		return "no"
	}
	return "cannot tell"
}

// banks returns the bank that systemd will use, or those of which it will use
// one. If the token names none, it takes SHA-256 if one of the PCRs is
// initialized there, then SHA-1 by the same rule, then SHA-256 (systemd 262,
// src/shared/tpm2-util.c, tpm2_get_best_pcr_bank()).
func (t *Token) banks(pcrs measure.PCRs) []measure.Bank {
	if t.Bank != 0 {
		return []measure.Bank{t.Bank}
	}
	used := slices.Concat(t.PCRs, t.SignedPCRs)
	initialized := func(b measure.Bank) (is, known bool) {
		known = true
		for _, n := range used {
			value := pcrs[b][n]
			known = known && value != nil
			is = is || value != nil && !allBytes(value, 0) && !allBytes(value, 0xff)
		}
		return is, is || known
	}
	is256, known256 := initialized(measure.SHA256)
	is1, known1 := initialized(measure.SHA1)
	switch {
	case len(used) == 0 || is256 || known256 && known1 && !is1:
		return []measure.Bank{measure.SHA256}
	case known256 && is1:
		return []measure.Bank{measure.SHA1}
	}
	return []measure.Bank{measure.SHA256, measure.SHA1}
}

// allBytes tells whether all bytes of a value are b.
func allBytes(value []byte, b byte) bool {
	return bytes.Count(value, []byte{b}) == len(value)
}

// check is Check with a bank.
func (s *sealed) check(bank measure.Bank, pcrs measure.PCRs) error {
	t := s.token
	var v verdict
	if len(t.SignedPCRs) > 0 {
		v.add(s.checkSigned(bank, pcrs))
		v.add(t.checkShard(0, t.authorized(), bank, pcrs))
	}
	if t.PCRLock {
		name, err := s.checkPCRLock(pcrs)
		v.add(err)
		if name != nil {
			v.add(t.checkShard(len(t.hashes)-1, []tpm2.Digest{tpm2.Digest{}.AuthorizeNV(name)}, bank, pcrs))
		}
	}
	if len(t.SignedPCRs) == 0 && !t.PCRLock {
		v.add(t.checkShard(0, []tpm2.Digest{{}}, bank, pcrs))
	}
	return v.err()
}

// checkSigned checks that there is a signature for the PCRs.
func (s *sealed) checkSigned(bank measure.Bank, pcrs measure.PCRs) error {
	t := s.token
	switch {
	case t.signers.key == nil:
		return fmt.Errorf("tpm2_pubkey: an EC key, systemd verifies signatures of RSA keys only: %w: %w", errUnsupported, policy.ErrCannotTell)
	case s.sources.Signatures == nil:
		return fmt.Errorf("wants a signed policy, and there are no signatures to look at: %w", policy.ErrCannotTell)
	}
	pol, err := tpm2.Digest{}.PCR(bank, t.SignedPCRs, pcrs)
	if err != nil {
		return err
	}
	return s.sources.Signatures.Signed(t.signers.key, bank, t.SignedPCRs, t.PolicyRef, pol)
}

// checkPCRLock checks the policy of systemd-pcrlock, and returns the Name of the
// NV index that the token's policy has to have, nil if it is not known.
func (s *sealed) checkPCRLock(pcrs measure.PCRs) (name []byte, err error) {
	name = s.token.nvName
	lock := s.sources.PCRLock
	switch {
	case lock == nil:
		return name, fmt.Errorf("wants the policy of systemd-pcrlock, and there is none to look at: %w", policy.ErrCannotTell)
	case lock.NVName == nil:
		return name, lock.Policy.Check(pcrs)
	case name == nil: // before systemd 256
		return lock.NVName, lock.Policy.Check(pcrs)
	case !bytes.Equal(name, lock.NVName):
		return name, &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: fmt.Sprintf(
			"the token wants the policy in the NV index of name %x, that of systemd-pcrlock is in %x", name, lock.NVName)}
	}
	return name, lock.Policy.Check(pcrs)
}

// authorized returns the digests that a signed policy may have.
func (t *Token) authorized() (ds []tpm2.Digest) {
	var ref []byte
	if t.PolicyRef != "" {
		sum := sha256.Sum256([]byte(t.PolicyRef))
		ref = sum[:]
	}
	for _, name := range t.signers.names {
		ds = append(ds, tpm2.Digest{}.Authorize(name, ref))
	}
	return ds
}

// checkShard checks that one of the policies that begin with starts is the one
// that a shard is sealed to.
func (t *Token) checkShard(i int, starts []tpm2.Digest, bank measure.Bank, pcrs measure.PCRs) error {
	want := t.hashes[i]
	if t.sealed[i] != want {
		// systemd compares with the one, the TPM with the other
		return &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: fmt.Sprintf(
			"the token has policy %s, but its secret is sealed to %s", want, t.sealed[i])}
	}
	var first tpm2.Digest // for the message
	for n, d := range starts {
		if len(t.PCRs) > 0 {
			var err error
			if d, err = d.PCR(bank, t.PCRs, pcrs); err != nil {
				return err
			}
		}
		if t.PIN {
			d = d.AuthValue()
		}
		if d == want {
			return nil
		}
		if n == 0 {
			first = d
		}
	}
	if len(t.PCRs) > 0 {
		return &policy.MismatchError{Reason: policy.ReasonPCR, Detail: fmt.Sprintf(
			"PCRs %s (%s) as predicted together give policy %s, the token has %s", pcrNames(t.PCRs), bank, first, want)}
	}
	return &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: fmt.Sprintf(
		"whatever the PCRs are, systemd will try policy %s, but the token has %s", first, want)}
}

// pcrNames returns PCRs as systemd-cryptenroll takes them.
func pcrNames(pcrs []measure.PCR) string {
	var names []string
	for _, n := range pcrs {
		names = append(names, strconv.Itoa(int(n)))
	}
	return strings.Join(names, "+")
}

// A verdict is that on several conditions of which all have to hold. A no is
// one whether or not the rest can be told.
type verdict struct {
	no         *policy.MismatchError
	cannotTell error
}

func (v *verdict) add(err error) {
	var no *policy.MismatchError
	switch {
	case err == nil:
	case !errors.As(err, &no):
		v.cannotTell = cmp.Or(v.cannotTell, err)
	case v.no == nil:
		v.no = &policy.MismatchError{Reason: no.Reason, Detail: no.Detail, Mismatches: slices.Clone(no.Mismatches)}
	default:
		v.no.Mismatches = append(v.no.Mismatches, no.Mismatches...)
		if len(v.no.Mismatches) > 0 {
			v.no.Reason = policy.ReasonPCR
		}
		if v.no.Detail != "" && no.Detail != "" {
			v.no.Detail += "; "
		}
		v.no.Detail += no.Detail
	}
}

func (v *verdict) err() error {
	if v.no != nil {
		return v.no
	}
	return v.cannotTell
}
