// Package tpm2 computes the policy digests of TPM 2.0 enhanced authorization,
// and the names of the keys and NV indices in them, without a TPM: what
// TPM2_PolicyGetDigest would answer after the same commands in a trial session.
// Policy sessions use SHA-256 here, as systemd's and its tools' do.
package tpm2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// Command codes (TPM 2.0 Library Part 2, 6.5.2 "TPM_CC").
const (
	ccPolicyAuthValue   = 0x16B
	ccPolicyAuthorize   = 0x16A
	ccPolicyOR          = 0x171
	ccPolicyPCR         = 0x17F
	ccPolicyAuthorizeNV = 0x192
)

// maxPCR is the highest PCR that a selection of three bytes has (TCG PC Client
// Platform TPM Profile: sizeofSelect is 3).
const maxPCR = 23

// A Digest is the policyDigest of a session (TPM 2.0 Library Part 1, 19.7). The
// zero Digest is that of a session in which no policy command ran yet; each
// method returns the digest after one more.
type Digest [sha256.Size]byte

// String returns d in lower-case hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero tells whether no policy command ran. An object with this authPolicy is
// not protected by a policy.
func (d Digest) IsZero() bool { return d == Digest{} }

// ParseDigest takes the 32 bytes of a digest from a file.
func ParseDigest(b []byte) (d Digest, err error) {
	if len(b) != len(d) {
		return d, fmt.Errorf("policy digest of %d bytes, not %d", len(b), len(d))
	}
	copy(d[:], b)
	return d, nil
}

// extend returns H(d ‖ code ‖ parts).
func (d Digest) extend(code uint32, parts ...[]byte) Digest {
	return sha256.Sum256(slices.Concat(d[:], binary.BigEndian.AppendUint32(nil, code), slices.Concat(parts...)))
}

// PCR returns the digest after TPM2_PolicyPCR with these PCRs of the bank, at
// least one, in any order (Part 3, 23.7): H(d ‖ TPM_CC_PolicyPCR ‖
// TPML_PCR_SELECTION ‖ H(values, ascending)). A value that is not in values is
// a [*policy.NotPredictedError].
func (d Digest) PCR(bank measure.Bank, pcrs []measure.PCR, values measure.PCRs) (Digest, error) {
	if bank.Size() == 0 {
		return d, fmt.Errorf("bank %s: unknown: %w", bank, policy.ErrCannotTell)
	}
	if len(pcrs) == 0 {
		return d, errors.New("policy of no PCR")
	}
	selected := slices.Compact(slices.Sorted(slices.Values(pcrs)))
	var mask [3]byte
	composite := sha256.New()
	for _, n := range selected {
		if n < 0 || n > maxPCR {
			return d, fmt.Errorf("PCR %d: there are PCR 0 to %d", n, maxPCR)
		}
		mask[n/8] |= 1 << (n % 8)
		value := values[bank][n]
		if value == nil {
			return d, &policy.NotPredictedError{Bank: bank, PCR: n}
		}
		if len(value) != bank.Size() {
			return d, fmt.Errorf("PCR %d (%s): a value of %d bytes", n, bank, len(value))
		}
		composite.Write(value)
	}
	selection := binary.BigEndian.AppendUint32(nil, 1)
	selection = binary.BigEndian.AppendUint16(selection, uint16(bank))
	selection = append(append(selection, byte(len(mask))), mask[:]...)
	return d.extend(ccPolicyPCR, selection, composite.Sum(nil)), nil
}

// Authorize returns the digest after TPM2_PolicyAuthorize: any policy that the
// key of this name signed takes the place of what was in d (Part 3, 23.16).
// policyRef is empty, or what the signature is qualified with; systemd has the
// SHA-256 of a text there.
func (Digest) Authorize(keyName, policyRef []byte) Digest {
	named := Digest{}.extend(ccPolicyAuthorize, keyName)
	return sha256.Sum256(slices.Concat(named[:], policyRef))
}

// AuthorizeNV returns the digest after TPM2_PolicyAuthorizeNV: any policy that
// is in the NV index of this name takes the place of what was in d (Part 3, 23.22).
func (Digest) AuthorizeNV(nvName []byte) Digest { return Digest{}.extend(ccPolicyAuthorizeNV, nvName) }

// AuthValue returns the digest after TPM2_PolicyAuthValue: the object's
// authValue, a PIN for systemd, is wanted as well (Part 3, 23.17).
func (d Digest) AuthValue() Digest { return d.extend(ccPolicyAuthValue) }

// OR returns the digest after TPM2_PolicyOR with 2 to 8 branches. Whatever was
// in d must have been one of them for the command to succeed; the digest has
// them all, in this order, and nothing of d (Part 3, 23.6).
func (Digest) OR(branches ...Digest) (Digest, error) {
	if len(branches) < 2 || len(branches) > 8 {
		return Digest{}, fmt.Errorf("policy OR of %d branches: it takes 2 to 8", len(branches))
	}
	var b bytes.Buffer
	for _, branch := range branches {
		b.Write(branch[:])
	}
	return Digest{}.extend(ccPolicyOR, b.Bytes()), nil
}
