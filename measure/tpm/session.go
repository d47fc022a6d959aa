package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// The handles of sessions begin with the first of these, where the TPM holds them,
// or the second, where their contexts are saved (TPM 2.0 Library Part 2, 7.4
// "TPM_HT"; Part 3, 30.2 "TPM2_GetCapability": TPM_CAP_HANDLES).
const (
	loadedSessions tpm2.TPMHandle = 0x02000000
	savedSessions  tpm2.TPMHandle = 0x03000000
)

// maxSessions bounds the handles that are asked for: a TPM has 64 at most.
const maxSessions = 64

// FlushSessions ends all sessions of the TPM, also those of others. A kexec does
// not reset the TPM: what is left open would take one of its few places (three, at
// some) from the next system. That the TPM will not flush one is not an error.
func (d *Device) FlushSessions() error {
	for _, first := range []tpm2.TPMHandle{loadedSessions, savedSessions} {
		response, err := tpm2.GetCapability{
			Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: maxSessions,
		}.Execute(d)
		if isResponseCode(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: list sessions: %w", d.name, err)
		}
		handles, err := response.CapabilityData.Data.Handles()
		if err != nil {
			return fmt.Errorf("%s: list sessions: the answer is about something else: %w", d.name, err)
		}
		for _, h := range handles.Handle {
			if h>>24 != 0x02 && h>>24 != 0x03 {
				return fmt.Errorf("%s: list sessions: 0x%08x is none", d.name, uint32(h))
			}
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(d); err != nil && !isResponseCode(err) {
				return fmt.Errorf("%s: flush session 0x%08x: %w", d.name, uint32(h), err)
			}
		}
	}
	return nil
}

// isResponseCode tells whether the TPM itself said no.
func isResponseCode(err error) bool {
	var rc tpm2.TPMRC
	return errors.As(err, &rc)
}
