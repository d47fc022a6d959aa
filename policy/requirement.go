package policy

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/mkexec/mkexec/measure"
)

// A SourceKind says what a policy is read from.
type SourceKind string

// The kinds, by the keys of the policy file.
const (
	SourceLUKS      SourceKind = "luks"    // the tokens of a LUKS2 header
	SourceSignature SourceKind = "pcrsig"  // signed PCR policies of systemd
	SourcePCRLock   SourceKind = "pcrlock" // pcrlock.json of systemd-pcrlock
	SourceKey       SourceKind = "key"     // a TPM 2.0 key file
)

// InImage is the path of a signature that is in the image, in .pcrsig.
const InImage = "image"

// A Source says where the policy of a requirement is.
type Source struct {
	Kind      SourceKind
	Path      string
	PublicKey string // of a signature; "" for .pcrpkey and where systemd looks
}

// A Requirement is a policy that has to hold at a phase of the next system.
type Requirement struct {
	Name   string
	At     measure.Phase
	Policy Policy
	// Source is where Policy is read from; nil if it is part of the policy file.
	// Who reads the file has to fill in Policy.
	Source *Source
	// Optional: a no is told, but is no obstacle.
	Optional bool
}

// Requirements are met when each of them is that is not optional.
type Requirements []Requirement

// Check checks every requirement that is not optional against the predicted
// PCRs at its phase. A no is a [*MismatchError], even where others cannot be
// told: with the mismatches of all requirements if there are any, else the
// first. It is an error if nothing is required.
func (rs Requirements) Check(p *measure.Prediction) error {
	if !rs.required() {
		return errors.New("policy: nothing is required: it would accept anything")
	}
	values := MismatchError{Reason: ReasonPCR}
	var other *MismatchError
	var cannotTell []error
	for _, r := range rs {
		if r.Optional {
			continue
		}
		err := r.Check(p)
		var no *MismatchError
		switch {
		case err == nil:
		case !errors.As(err, &no):
			cannotTell = append(cannotTell, fmt.Errorf("%s: %w", r.Name, err))
		case len(no.Mismatches) > 0:
			values.Mismatches = append(values.Mismatches, no.Mismatches...)
		default:
			other = cmp.Or(other, no)
		}
	}
	switch {
	case values.Mismatches != nil:
		return &values
	case other != nil:
		return other
	}
	return errors.Join(cannotTell...)
}

// required tells whether any requirement is not optional.
func (rs Requirements) required() bool {
	for _, r := range rs {
		if !r.Optional {
			return true
		}
	}
	return false
}

// Check checks the requirement against the predicted PCRs at its phase, whether
// or not it is optional. A no names the requirement.
func (r *Requirement) Check(p *measure.Prediction) error {
	if r.Policy == nil {
		return fmt.Errorf("its policy was not read: %w", ErrCannotTell)
	}
	pcrs, err := p.At(r.At)
	if err != nil {
		return err
	}
	err = r.Policy.Check(pcrs)
	var no *MismatchError
	if !errors.As(err, &no) {
		return err
	}
	named := &MismatchError{Reason: no.Reason}
	if no.Detail != "" {
		named.Detail = fmt.Sprintf("%s %s: %s", r.Name, when(r.At), no.Detail)
	}
	for _, m := range no.Mismatches {
		m.Requirement, m.Phase = r.Name, r.At
		named.Mismatches = append(named.Mismatches, m)
	}
	return named
}
