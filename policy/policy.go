// Package policy decides whether the PCRs that an image leads to are good
// enough. A policy says yes, no, or that it cannot tell; the three are never
// confused.
package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// ErrCannotTell is the error, or wrapped in it, when a policy says neither yes nor no.
var ErrCannotTell = measure.ErrCannotTell

// A NotPredictedError is that a policy names a PCR whose value is not known. It
// wraps [ErrCannotTell].
type NotPredictedError struct {
	Bank measure.Bank
	PCR  measure.PCR
}

// Error names the PCR and the bank.
func (e *NotPredictedError) Error() string {
	return fmt.Sprintf("PCR %d (%s) is not predicted, but the policy names it: %v", e.PCR, e.Bank, ErrCannotTell)
}

// Unwrap returns ErrCannotTell.
func (e *NotPredictedError) Unwrap() error { return ErrCannotTell }

// A Policy is a condition on PCRs.
type Policy interface {
	// Check returns nil if pcrs satisfy the policy and a *MismatchError if they
	// do not. Any other error means that it cannot be told, because a value that
	// the policy needs is not known, say.
	Check(pcrs measure.PCRs) error
}

// A Mismatch is one PCR whose value a policy does not accept.
type Mismatch struct {
	// Requirement is the name of the requirement that is not met, and Phase the
	// moment at which it was looked at.
	Requirement string
	Phase       measure.Phase
	Bank        measure.Bank
	PCR         measure.PCR
	// Want are the accepted values, Got is the predicted one.
	Want []measure.Digest
	Got  measure.Digest
}

// String says what is wrong in one line.
func (m Mismatch) String() string {
	var want []string
	for _, w := range m.Want {
		want = append(want, w.String())
	}
	return fmt.Sprintf("PCR %d (%s) %s will be %s; %s accepts %s", m.PCR, m.Bank, when(m.Phase), m.Got, m.Requirement, strings.Join(want, " or "))
}

func when(p measure.Phase) string {
	if p == "" {
		return "before the first phase"
	}
	return "at " + string(p)
}

// A Reason says why a policy is not met, in a word that programs can rely on.
type Reason string

// The reasons.
const (
	// ReasonPCR: PCRs have values that are not accepted; the mismatches say which.
	ReasonPCR Reason = "pcr-mismatch"
	// ReasonUnsigned: no signature that counts covers the PCRs as they will be.
	ReasonUnsigned Reason = "no-matching-signature"
	// ReasonPolicy: whatever the PCRs are, the secret was sealed with another
	// policy than the one that will be tried.
	ReasonPolicy Reason = "other-policy"
	// ReasonTPM: the secret was sealed by another TPM, or by this one before it was cleared.
	ReasonTPM Reason = "other-tpm"
)

// A MismatchError is a policy's "no".
type MismatchError struct {
	// Reason is ReasonPCR if there are mismatches.
	Reason Reason
	// Detail says the same in words where there are no mismatches.
	Detail     string
	Mismatches []Mismatch
}

// Error says why, names the first mismatch and counts the others.
func (e *MismatchError) Error() string {
	if len(e.Mismatches) == 0 {
		return "policy not met: " + e.Detail
	}
	s := "policy not met: " + e.Mismatches[0].String()
	if n := len(e.Mismatches) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

// Accept is a policy that lists values: each PCR of each bank that it names
// must have one of the values listed for it.
type Accept map[measure.Bank]map[measure.PCR][]measure.Digest

// Check implements Policy. The mismatches name no requirement and no phase. A
// value that is not accepted is a no, whether or not another one is known.
func (a Accept) Check(pcrs measure.PCRs) error {
	no := MismatchError{Reason: ReasonPCR}
	var cannotTell error // the first reason
	for _, b := range slices.Sorted(maps.Keys(a)) {
		for _, n := range slices.Sorted(maps.Keys(a[b])) {
			got := pcrs[b][n]
			if got == nil {
				cannotTell = cmp.Or(cannotTell, error(&NotPredictedError{b, n}))
				continue
			}
			is := func(d measure.Digest) bool { return bytes.Equal(d, got) }
			if !slices.ContainsFunc(a[b][n], is) {
				no.Mismatches = append(no.Mismatches, Mismatch{Bank: b, PCR: n, Want: a[b][n], Got: got})
			}
		}
	}
	if no.Mismatches != nil {
		return &no
	}
	return cannotTell
}
