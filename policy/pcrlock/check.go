package pcrlock

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// ErrNoIndex is the error of a [ReadNV], or wrapped in it, if the TPM has no such index.
var ErrNoIndex = errors.New("no such NV index")

// ReadNV reads an NV index of the TPM, without any secret: its TPMS_NV_PUBLIC
// and what is in it. An error other than [ErrNoIndex], as where there is no TPM,
// means that it cannot be told.
type ReadNV func(index uint32) (public, content []byte, err error)

// A Policy is met if a secret that is sealed to the NV index of a file opens.
type Policy struct {
	File *File
	// ReadNV reads the TPM that has the index. It is nil where there is none:
	// then a no can be told, but no yes.
	ReadNV ReadNV
}

// Check implements [policy.Policy]. A no has [policy.ReasonPCR] and the accepted
// values, or [policy.ReasonPolicy] where the NV index holds another policy than
// the file makes, or is another index.
func (p *Policy) Check(pcrs measure.PCRs) error {
	values := map[measure.PCR][]measure.Digest{}
	for n, accepted := range p.File.Values {
		if len(accepted) > 0 {
			values[n] = accepted
		}
	}
	err := policy.Accept{p.File.Bank: values}.Check(pcrs)
	var no *policy.MismatchError
	if errors.As(err, &no) {
		return err
	}
	nvErr := p.checkNV()
	if errors.As(nvErr, &no) {
		return nvErr
	}
	return cmp.Or(err, nvErr)
}

// checkNV tells whether the NV index holds the policy that the file makes.
func (p *Policy) checkNV() error {
	want, err := p.File.SuperPolicy()
	if err != nil {
		return err
	}
	if p.ReadNV == nil {
		return fmt.Errorf("NV index 0x%x, which holds the policy, is not known without its TPM: %w", p.File.NVIndex, policy.ErrCannotTell)
	}
	public, content, err := p.ReadNV(p.File.NVIndex)
	if errors.Is(err, ErrNoIndex) {
		return otherPolicy("NV index 0x%x, which holds the policy, is not in the TPM", p.File.NVIndex)
	}
	if err != nil {
		return fmt.Errorf("NV index 0x%x: %w: %w", p.File.NVIndex, err, policy.ErrCannotTell)
	}
	name, err := tpm2.NVName(public, false)
	if err != nil {
		return fmt.Errorf("NV index 0x%x: %w", p.File.NVIndex, err)
	}
	if !bytes.Equal(name, p.File.NVName) {
		return otherPolicy("NV index 0x%x is another than the one that pcrlock.json was made with: name %x, not %x", p.File.NVIndex, name, p.File.NVName)
	}
	if len(content) != nvDataSize || binary.BigEndian.Uint16(content) != uint16(measure.SHA256) {
		return otherPolicy("NV index 0x%x holds no policy digest, but %.40x", p.File.NVIndex, content)
	}
	if got := tpm2.Digest(content[2:]); got != want {
		return otherPolicy("NV index 0x%x holds the policy %s, but that of pcrlock.json is %s: one was written without the other", p.File.NVIndex, got, want)
	}
	return nil
}

func otherPolicy(format string, args ...any) error {
	return &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: fmt.Sprintf(format, args...)}
}
