package pcrsig

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// A Policy is met if a file has an entry that a secret sealed to a key, PCRs and
// a reference opens with.
type Policy struct {
	File *File
	Key  *rsa.PublicKey
	// Bank and PCRs are those that the secret is sealed to.
	Bank measure.Bank
	PCRs []measure.PCR
	// Ref is the reference that the secret is sealed to; empty for none.
	Ref string
}

// Check implements [policy.Policy]. A no has [policy.ReasonUnsigned].
func (p *Policy) Check(pcrs measure.PCRs) error {
	d, err := tpm2.Digest{}.PCR(p.Bank, p.PCRs, pcrs)
	if err != nil {
		return err
	}
	return p.File.Signed(p.Key, p.Bank, p.PCRs, p.Ref, d)
}

// Signed returns nil if the file has an entry for this key, bank, PCRs in any
// order, reference (empty for none) and policy, and its signature verifies, and
// a [*policy.MismatchError] with [policy.ReasonUnsigned] if not. As in systemd the
// first entry that fits decides (systemd 262, src/shared/tpm2-util.c, find_signature()).
func (f *File) Signed(key *rsa.PublicKey, bank measure.Bank, pcrs []measure.PCR, ref string, pol tpm2.Digest) error {
	fingerprint := KeyFingerprint(key)
	pcrs = slices.Sorted(slices.Values(pcrs))
	reference := "without a reference"
	if ref != "" {
		reference = fmt.Sprintf("with the reference %.80q", ref)
	}
	left := make([]int, 0, len(f.Entries))
	for i := range f.Entries {
		left = append(left, i)
	}
	// each step leaves as many entries or fewer, and the detail counts them
	looked := fmt.Sprintf("%d entries", len(left))
	for _, step := range []struct {
		what string
		is   func(*Entry) bool
	}{
		{fmt.Sprintf("of bank %s", bank), func(e *Entry) bool { return e.Bank == bank }},
		{"for PCR " + list(pcrs), func(e *Entry) bool { return slices.Equal(e.PCRs, pcrs) }},
		{"by key " + fingerprint.String(), func(e *Entry) bool { return e.Key == fingerprint }},
		{reference, func(e *Entry) bool { return e.Ref == ref }},
		{"for this policy", func(e *Entry) bool { return e.Policy == pol }},
	} {
		left = slices.DeleteFunc(left, func(i int) bool { return !step.is(&f.Entries[i]) })
		looked += fmt.Sprintf(", %d %s", len(left), step.what)
		if len(left) == 0 {
			return unsigned(bank, pcrs, pol, looked)
		}
	}
	e := &f.Entries[left[0]]
	if err := e.Verify(key); err != nil {
		return unsigned(bank, pcrs, pol, fmt.Sprintf("%s, but entry %d: %s", looked, left[0]+1, err))
	}
	return nil
}

func unsigned(bank measure.Bank, pcrs []measure.PCR, pol tpm2.Digest, why string) error {
	return &policy.MismatchError{
		Reason: policy.ReasonUnsigned,
		Detail: fmt.Sprintf("no signature for PCR %s (%s) as predicted, policy %s: %s", list(pcrs), bank, pol, why),
	}
}

// PhasesOf tells for each entry at which phases its PCRs have the values that
// it was signed for, if predict knows them: of the moment before the first
// phase and those that systemd-measure signs by default. An entry that is for
// none of them, or for PCRs that predict does not know, has none; its
// signature is not looked at. An error is one of predict's.
func (f *File) PhasesOf(predict func(measure.Phase) (measure.PCRs, error)) ([][]measure.Phase, error) {
	phases := make([][]measure.Phase, len(f.Entries))
	for _, phase := range append([]measure.Phase{""}, measure.DefaultPhases()...) {
		pcrs, err := predict(phase)
		if err != nil {
			return nil, fmt.Errorf("phase %q: %w", phase, err)
		}
		for i := range f.Entries {
			e := &f.Entries[i]
			d, err := tpm2.Digest{}.PCR(e.Bank, e.PCRs, pcrs)
			if err != nil && !errors.Is(err, policy.ErrCannotTell) {
				return nil, err
			}
			if err == nil && d == e.Policy {
				phases[i] = append(phases[i], phase)
			}
		}
	}
	return phases, nil
}
