package creds

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/pcrsig"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// A Policy is the condition under which the TPM unseals its part of the key of a
// credential (systemd 262, src/shared/tpm2-util.c, tpm2_calculate_sealing_policy()
// and tpm2_unseal()).
type Policy struct {
	// Bank is that of PCRs and PublicKeyPCRs.
	Bank measure.Bank
	// PCRs have to have the values that they had when the credential was
	// encrypted, which are known by Digest only. There may be none.
	PCRs []measure.PCR
	// PublicKey in PEM is that of the key which signs values of PublicKeyPCRs;
	// nil if there is none.
	PublicKey     []byte
	PublicKeyPCRs []measure.PCR
	// Digest is the policy digest that the key is sealed with.
	Digest tpm2.Digest
	// Signatures are the signed PCR policies that systemd will find, nil if that
	// is not known. Parse leaves them nil.
	Signatures *pcrsig.File
}

// IsBound tells whether it depends on PCRs at all.
func (p *Policy) IsBound() bool {
	return len(p.PCRs) > 0 || p.PublicKey != nil || !p.Digest.IsZero()
}

// Check implements [policy.Policy]. A no is that of one of its two parts,
// whether or not the other one can be told.
func (p *Policy) Check(pcrs measure.PCRs) error {
	var keys []tpm2.Digest // after the signed part: one for each name that systemd gives the key
	var signed error
	if p.PublicKey == nil {
		keys = []tpm2.Digest{{}}
	} else {
		key, err := pcrsig.ParsePublicKey(p.PublicKey)
		if err != nil {
			return err
		}
		keys = authorized(key)
		signed = p.signed(key, pcrs)
	}
	sealed := p.sealed(keys, pcrs)
	for _, err := range []error{sealed, signed} {
		if no := (*policy.MismatchError)(nil); errors.As(err, &no) {
			return no
		}
	}
	if sealed != nil {
		return sealed
	}
	return signed
}

// signed tells whether the key signed the values of its PCRs.
func (p *Policy) signed(key *rsa.PublicKey, pcrs measure.PCRs) error {
	if p.Signatures == nil {
		return fmt.Errorf("wants a signed policy, and there are no signatures to look at: %w", policy.ErrCannotTell)
	}
	d, err := tpm2.Digest{}.PCR(p.Bank, p.PublicKeyPCRs, pcrs)
	if err != nil {
		return err
	}
	return p.Signatures.Signed(key, p.Bank, p.PublicKeyPCRs, "", d)
}

// sealed tells whether the policy becomes Digest: after one of keys, with PCRs.
func (p *Policy) sealed(keys []tpm2.Digest, pcrs measure.PCRs) error {
	for _, d := range keys {
		if len(p.PCRs) > 0 {
			var err error
			if d, err = d.PCR(p.Bank, p.PCRs, pcrs); err != nil {
				return err
			}
		}
		if d == p.Digest {
			return nil
		}
	}
	if len(p.PCRs) == 0 {
		return &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: fmt.Sprintf("sealed with the policy %s, which is not what its header says", p.Digest)}
	}
	return &policy.MismatchError{Reason: policy.ReasonPCR, Detail: fmt.Sprintf("sealed to other values of PCR %s (%s) than those predicted", list(p.PCRs), p.Bank)}
}

// authorized returns the digests after TPM2_PolicyAuthorize with a key: with its
// exponent in the public area and, as systemd 255.0 to 255.2 sealed and later
// ones try as well, with zero for the default one.
func authorized(key *rsa.PublicKey) []tpm2.Digest {
	const defaultExponent = 65537
	digests := []tpm2.Digest{tpm2.Digest{}.Authorize(tpm2.RSAKeyName(key, uint32(key.E)), nil)}
	if key.E == defaultExponent {
		digests = append(digests, tpm2.Digest{}.Authorize(tpm2.RSAKeyName(key, 0), nil))
	}
	return digests
}

// list returns the numbers of PCRs with spaces between them.
func list(pcrs []measure.PCR) string { return strings.Trim(fmt.Sprint(pcrs), "[]") }
