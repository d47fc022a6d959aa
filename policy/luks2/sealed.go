package luks2

import (
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// maxTries bounds the combinations of values that SealedValues tries.
const maxTries = 1 << 16

// SealedValues tells which values of its PCRs the secret of the token is sealed
// to. The token has no more than their digest, so that this is tried out: for each
// PCR one of the candidates has to be it. ok is false if no combination is, if
// there are more than 65536, or if the token has no PCRs itself.
func (t *Token) SealedValues(candidates policy.Accept) (values measure.PCRs, ok bool) {
	if t.Err != nil || len(t.PCRs) == 0 {
		return nil, false
	}
	banks := []measure.Bank{t.Bank}
	if t.Bank == 0 {
		banks = []measure.Bank{measure.SHA256, measure.SHA1} // that systemd takes one of
	}
	for _, b := range banks {
		tries := 1
		for _, n := range t.PCRs {
			if tries *= len(candidates[b][n]); tries > maxTries {
				return nil, false
			}
		}
		if tries == 0 {
			continue
		}
		values := measure.PCRs{}
		if t.search(b, t.PCRs, candidates[b], values) {
			return values, true
		}
	}
	return nil, false
}

// search tries the candidates of the PCRs that are left, and leaves those that fit in values.
func (t *Token) search(bank measure.Bank, left []measure.PCR, candidates map[measure.PCR][]measure.Digest, values measure.PCRs) bool {
	if len(left) == 0 {
		return t.isSealedTo(bank, values)
	}
	for _, d := range candidates[left[0]] {
		values.Set(bank, left[0], d)
		if t.search(bank, left[1:], candidates, values) {
			return true
		}
	}
	return false
}

// isSealedTo tells whether the first shard is sealed to the values.
func (t *Token) isSealedTo(bank measure.Bank, values measure.PCRs) bool {
	return slices.ContainsFunc(t.starts(), func(d tpm2.Digest) bool {
		d, err := d.PCR(bank, t.PCRs, values)
		if err == nil && t.PIN {
			d = d.AuthValue()
		}
		return err == nil && d == t.hashes[0]
	})
}

// starts returns the digests that the policy of the first shard may begin with.
// There are none if that depends on an NV index that the token does not name.
func (t *Token) starts() []tpm2.Digest {
	switch {
	case len(t.SignedPCRs) > 0:
		return t.authorized()
	case t.PCRLock && t.nvName == nil: // before systemd 256
		return nil
	case t.PCRLock:
		return []tpm2.Digest{tpm2.Digest{}.AuthorizeNV(t.nvName)}
	}
	return []tpm2.Digest{{}}
}
